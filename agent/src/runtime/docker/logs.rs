//! The output of containers, as Docker keeps it.

use bollard::{
    container::LogOutput,
    errors::Error,
    query_parameters::{LogsOptions, LogsOptionsBuilder},
};
use common::{
    error::{Code, Problem},
    wire::{LogFrame, LogRequest, is_moment},
};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::{Docker, reason};

/// Most lines that the agent reads of output that it continues.
const RESUMED_LINES: u32 = 100_000;

impl Docker {
    /// Sends the output of a part's container, and how it ended.
    pub(super) async fn send_output(&self, request: &LogRequest, output: &mpsc::Sender<LogFrame>) {
        let last = match self.try_send_output(request, output).await {
            Ok(()) => LogFrame::End,
            Err(error) => unreadable(request, error),
        };
        // If the receiver is gone, nothing else is left to do.
        drop(output.send(last).await);
    }

    /// Returns when there is no more output, or the receiver is gone.
    async fn try_send_output(&self, request: &LogRequest, output: &mpsc::Sender<LogFrame>) -> Result<(), Error> {
        let client = self.client().await?;
        let name = request.part.container_name();
        if request.follow {
            // A program may be silent for long; the receiver learns at once that it is there.
            client.inspect_container(&name, None).await?;
            let first = LogFrame::Output { stderr: false, bytes: Vec::new(), at: String::new() };
            if output.send(first).await.is_err() {
                return Ok(());
            }
        }
        let mut pieces = std::pin::pin!(client.logs(&name, Some(options(request))));
        while let Some(piece) = pieces.next().await {
            let Some(frame) = frame(request, piece?) else { continue };
            if output.send(frame).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn options(request: &LogRequest) -> LogsOptions {
    // Of output that it continues, it reads the end: the whole of it may be long.
    let most = request.after.as_ref().map(|_| RESUMED_LINES).or(request.tail);
    let tail = most.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).follow(request.follow).tail(&tail);
    options.timestamps(request.follow).build()
}

/// A piece of output as it is sent; none if the receiver has it already.
fn frame(request: &LogRequest, piece: LogOutput) -> Option<LogFrame> {
    let stderr = matches!(piece, LogOutput::StdErr { .. });
    let bytes = piece.into_bytes();
    let (at, bytes) = if request.follow { split_moment(&bytes) } else { ("", &bytes[..]) };
    if request.after.as_deref().is_some_and(|after| !at.is_empty() && at <= after) {
        return None;
    }
    Some(LogFrame::Output { stderr, bytes: bytes.to_vec(), at: at.to_owned() })
}

/// The moment that Docker has put before a piece of output, and the piece. Moments are of one form and length, so
/// their order is that of their text: `2026-01-02T03:04:05.123456789Z`.
fn split_moment(piece: &[u8]) -> (&str, &[u8]) {
    let end = piece.iter().position(|byte| *byte == b' ').unwrap_or(0);
    match std::str::from_utf8(&piece[..end]) {
        Ok(moment) if is_moment(moment) => (moment, &piece[end + 1..]),
        _ => ("", piece),
    }
}

fn unreadable(request: &LogRequest, error: Error) -> LogFrame {
    let what = format!("The output of {} cannot be read", request.part);
    let why = reason(error);
    let keeps_nothing = why.contains("does not support reading");
    let problem = Problem::new(Code::NotFound, what).why(why);
    LogFrame::Failed(if keeps_nothing {
        problem.fix("Its logging driver keeps nothing on the host: look where the driver sends it, or set logging: {driver: local}")
    } else {
        problem
    })
}
