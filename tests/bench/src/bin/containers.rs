//! Starts containers through Docker's API, all at once, as the baseline for deployments.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::JoinSet};

#[derive(Parser)]
struct Args {
    /// The path of Docker's socket.
    socket: PathBuf,
    /// The number of containers.
    count: usize,
    #[arg(long, default_value = "lab/web:1")]
    image: String,
}

/// Prints the time until all of them had started, in milliseconds.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let began = Instant::now();
    let mut starting = JoinSet::new();
    for number in 0..args.count {
        starting.spawn(start(args.socket.clone(), format!("peer-{number}"), args.image.clone()));
    }
    for started in starting.join_all().await {
        started?;
    }
    println!("{}", began.elapsed().as_millis());
    Ok(())
}

async fn start(socket: PathBuf, name: String, image: String) -> anyhow::Result<()> {
    let stream = UnixStream::connect(&socket).await.with_context(|| format!("connecting to {}", socket.display()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    let body = serde_json::json!({ "Image": image, "HostConfig": { "NetworkMode": "wharf" } }).to_string();
    for (path, body, expected) in [
        (format!("/containers/create?name={name}"), body, StatusCode::CREATED),
        (format!("/containers/{name}/start"), String::new(), StatusCode::NO_CONTENT),
    ] {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "docker")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        ensure!(status == expected, "{name}: {status}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
