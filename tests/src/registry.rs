//! A registry of images, as far as Docker pulls from one: the files of a folder, named as in the paths of the protocol.
//! <https://distribution.github.io/distribution/spec/api/>

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
};

use anyhow::Context as _;

/// The type of all manifests here.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Serves a folder on a port of this host, to one caller after the other.
pub fn serve(port: u16, folder: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for caller in listener.incoming() {
        // A caller that goes away is no reason to stop.
        if let Err(error) = caller.map_err(Into::into).and_then(|caller| answer(caller, folder)) {
            eprintln!("{error:#}");
        }
    }
    Ok(())
}

/// Answers one request, and closes the connection.
fn answer(caller: TcpStream, folder: &Path) -> anyhow::Result<()> {
    let mut lines = BufReader::new(&caller).lines();
    let request = lines.next().context("the caller sent nothing")??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().context("a method")?, words.next().context("a path")?);
    let file = folder.join(path.trim_start_matches('/'));
    let (status, body) = match std::fs::read(&file) {
        Ok(body) => ("200 OK", body),
        Err(_) if file.is_dir() => ("200 OK", b"{}".to_vec()),
        Err(_) => ("404 Not Found", b"{}".to_vec()),
    };
    let kind = if path.contains("/manifests/") { MANIFEST } else { "application/octet-stream" };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let mut caller = &caller;
    caller.write_all(head.as_bytes())?;
    if method != "HEAD" {
        caller.write_all(&body)?;
    }
    Ok(())
}
