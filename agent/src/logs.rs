//! The output of instances, for the coordinator that asks.

use std::sync::Arc;

use common::wire::{LogFrame, LogRequest, Open};
use link::{Connection, LinkError, Stream};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::debug;

use crate::runtime::ContainerRuntime;

/// Requests served at a time; more wait.
const MAX_STREAMS: usize = 128;

/// Serves the streams that the coordinator opens on a session's connection.
pub async fn serve<R: ContainerRuntime + ?Sized>(connection: Connection, runtime: Arc<R>) {
    let mut streams: JoinSet<()> = JoinSet::new();
    loop {
        if streams.len() >= MAX_STREAMS {
            streams.join_next().await;
        }
        match connection.accept().await {
            Ok(stream) => {
                let (peer, runtime) = (connection.peer(), runtime.clone());
                streams.spawn(async move {
                    if let Err(error) = serve_one(peer, stream, runtime).await {
                        debug!(%error, "a log stream ended early");
                    }
                });
            }
            Err(_) => return,
        }
        while streams.try_join_next().is_some() {}
    }
}

async fn serve_one<R: ContainerRuntime + ?Sized>(
    peer: common::wire::PeerIdentity,
    mut stream: Stream,
    runtime: Arc<R>,
) -> Result<(), LinkError> {
    let Some(open) = stream.incoming.receive::<Open>().await? else { return Ok(()) };
    match open {
        Open::Logs(request) if Open::Logs(request.clone()).allowed_for(&peer) => {
            send_logs(request, stream, runtime).await
        }
        _ => Ok(()),
    }
}

async fn send_logs<R: ContainerRuntime + ?Sized>(
    request: LogRequest,
    stream: Stream,
    runtime: Arc<R>,
) -> Result<(), LinkError> {
    let (output, mut frames) = mpsc::channel::<LogFrame>(64);
    let Stream { mut incoming, mut outgoing } = stream;
    let reading = runtime.logs(&request, output);
    let sending = async {
        while let Some(frame) = frames.recv().await {
            outgoing.send(&frame).await?;
        }
        outgoing.finish().await
    };
    tokio::select! {
        ((), sent) = async { tokio::join!(reading, sending) } => sent,
        // The asker never says more; its end of the stream ends when it goes away.
        _ = incoming.receive::<()>() => Ok(()),
    }
}
