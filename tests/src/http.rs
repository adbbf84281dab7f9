//! HTTP for load generators: one connection per client, kept open, with or without TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cli::{context::Context, pinned};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;

/// The servers to call, and how.
#[derive(Clone)]
pub struct Endpoint {
    /// The servers; each of them accepts every request.
    pub servers: Vec<SocketAddr>,
    tls: Option<(Arc<ClientConfig>, String)>,
    authorization: Option<String>,
}

impl Endpoint {
    /// The API of a wharf cluster.
    pub fn wharf(context: &Context) -> anyhow::Result<Endpoint> {
        let root = pem::parse(&context.authority)?;
        Ok(Endpoint {
            servers: context.servers.clone(),
            tls: Some((Arc::new(pinned::by_root(root.contents())?), link::identity::coordinator_name(context.cluster))),
            authorization: Some(format!("Bearer {}", context.token)),
        })
    }

    /// Plain HTTP.
    pub fn plain(servers: Vec<SocketAddr>) -> Endpoint {
        Endpoint { servers, tls: None, authorization: None }
    }

    /// Connects to one of its servers.
    pub async fn connect(&self, server: usize) -> anyhow::Result<Client> {
        let address = self.servers[server % self.servers.len()];
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let sender = match &self.tls {
            None => handshake(TokioIo::new(stream)).await?,
            Some((tls, name)) => {
                let name = ServerName::try_from(name.clone())?;
                let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await?;
                handshake(TokioIo::new(stream)).await?
            }
        };
        let host = self.tls.as_ref().map_or_else(|| address.to_string(), |(_, name)| name.clone());
        Ok(Client { sender, host, authorization: self.authorization.clone() })
    }
}

async fn handshake<S>(stream: S) -> anyhow::Result<http1::SendRequest<Full<Bytes>>>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

/// An open connection to a server.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
    authorization: Option<String>,
}

impl Client {
    /// Sends a request and reads the whole answer. With `key`, a write can be repeated.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        key: Option<&str>,
        timeout: Duration,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body))?;
        let answering = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        match tokio::time::timeout(timeout, answering).await {
            Ok(answered) => answered,
            Err(_) => bail!("no answer within {timeout:?}"),
        }
    }
}
