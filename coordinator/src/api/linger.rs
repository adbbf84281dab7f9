//! A refused body is still read to its end, within bounds: a server that answers and closes while
//! the caller is sending makes the caller's system throw the answer away (RFC 9112, section 9.6).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::{sync::oneshot, time::timeout};

/// A body up to this size is in the buffers of the connection whatever happens to it, bytes.
const SMALL: u64 = 16 << 10;
/// How much of a refused body is read before its connection is closed, bytes.
const MAX_DISCARDED: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads what the handler left of the body before its answer goes out.
pub async fn discard_rest(request: Request, next: Next) -> Response {
    if request.body().size_hint().upper().is_some_and(|size| size <= SMALL) {
        return next.run(request).await;
    }
    let (left, mut rest) = oneshot::channel();
    let request = request.map(|body| Body::new(Lent { body, left: Some(left) }));
    let response = next.run(request).await;
    if let Ok(body) = rest.try_recv() {
        // Who sends on after that finds the connection closed.
        let _ = timeout(DISCARD_TIMEOUT, discard(body)).await;
    }
    response
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > MAX_DISCARDED {
            return;
        }
    }
}

/// A body that goes back to its lender when the borrower is done with it.
struct Lent {
    body: Body,
    left: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            // A lender that has gone does not want it back.
            let _ = left.send(std::mem::take(&mut self.body));
        }
    }
}
