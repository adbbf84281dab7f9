//! The HTTP client of the command line. It sends one request at a time and tries the coordinators in turn.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use common::{
    api::{COORDINATORS_HEADER, ProblemDocument, ROOT_HEADER},
    error::{Code, Problem},
    hex,
    wire::RootId,
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header, http::request};
use hyper_util::rt::TokioIo;
use link::identity::coordinator_name;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

use crate::{context::Context, pinned};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// How long a large body may take, with the answer to it.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// A client for a cluster's API.
pub struct Client {
    tls: Arc<ClientConfig>,
    servers: Vec<SocketAddr>,
    name: String,
    token: Option<String>,
    /// The coordinators' addresses from the latest answer.
    learned: Mutex<Option<Vec<SocketAddr>>>,
    /// The root that the latest answer names.
    root: Mutex<Option<String>>,
}

/// Why a request to one coordinator failed.
#[derive(Debug)]
pub enum Failure {
    /// There was no connection, or it broke before an answer.
    Unreachable(String),
    /// The coordinator's certificate is not the expected one. Nothing was sent.
    Certificate(String),
}

impl Client {
    /// A client for the cluster of a context.
    pub fn of_context(context: &Context) -> Result<Client, Problem> {
        let unusable =
            |why: String| Problem::new(Code::InvalidRequest, "The root certificate in the context is invalid").why(why);
        let root = pem::parse(&context.authority).map_err(|e| unusable(e.to_string()))?;
        let tls = pinned::by_root(root.contents()).map_err(|e| unusable(e.to_string()))?;
        Ok(Client {
            tls: Arc::new(tls),
            servers: context.servers.clone(),
            name: coordinator_name(context.cluster),
            token: Some(context.token.clone()),
            learned: Mutex::default(),
            root: Mutex::default(),
        })
    }

    /// A client for one coordinator before there is a context; `tls` decides what the coordinator must prove.
    pub fn before_trust(server: SocketAddr, tls: ClientConfig) -> Client {
        Client {
            tls: Arc::new(tls),
            servers: vec![server],
            name: "coordinator.wharf".to_owned(),
            token: None,
            learned: Mutex::default(),
            root: Mutex::default(),
        }
    }

    /// The coordinators' addresses from the latest answer, if they differ from those known before.
    pub fn learned(&self) -> Option<Vec<SocketAddr>> {
        let learned = self.learned.lock().expect("no panic while it is held").clone();
        learned.filter(|servers| !servers.is_empty() && *servers != self.servers)
    }

    /// The cluster's root certificate (PEM), if the latest answer named another one than the context has. The connection
    /// that brings it is proved by the root in the context, or by one that this root has signed.
    pub async fn learned_root(&self, context: &Context) -> Result<Option<String>, Problem> {
        let named = self.root.lock().expect("no panic while it is held").clone();
        let id = |text: &str| pem::parse(text).map(|root| hex::encode(&RootId::of(root.contents()).0)).ok();
        if named.is_none() || named == id(&context.authority) {
            return Ok(None);
        }
        let answer = self.send(Method::GET, "/ca", Bytes::new()).await?;
        let unreadable = |why: String| Problem::new(Code::Unreachable, "The new root cannot be read").why(why);
        let body = answer.into_body().collect().await.map_err(|e| unreadable(e.to_string()))?.to_bytes();
        let text = String::from_utf8(body.to_vec()).map_err(|e| unreadable(e.to_string()))?;
        Ok((id(&text) == named).then_some(text))
    }

    fn learn(&self, response: &Response<Incoming>) {
        let named = response.headers().get(COORDINATORS_HEADER).and_then(|value| value.to_str().ok());
        let servers = named.and_then(|text| text.split(',').map(|part| part.parse().ok()).collect());
        if servers.is_some() {
            *self.learned.lock().expect("no panic while it is held") = servers;
        }
        let root = response.headers().get(ROOT_HEADER).and_then(|value| value.to_str().ok());
        if let Some(root) = root {
            *self.root.lock().expect("no panic while it is held") = Some(root.to_owned());
        }
    }

    /// Sends a GET request and decodes the answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        read(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    /// Sends a value and decodes the answer.
    pub async fn send_json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, Problem> {
        read(self.send(method, path, json(body)?).await?).await
    }

    /// Sends a value with PUT; the answer has no body.
    pub async fn put<B: Serialize>(&self, path: &str, body: &B) -> Result<(), Problem> {
        self.send(Method::PUT, path, json(body)?).await.map(drop)
    }

    /// Sends a DELETE request.
    pub async fn delete(&self, path: &str) -> Result<(), Problem> {
        self.send(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    /// Sends a request to the coordinators in turn until one answers. Any status but success is an error. Writes carry
    /// an idempotency key, so that they can be sent again when a connection breaks.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Problem> {
        let key = (method != Method::GET).then(|| common::base32::encode(&link::identity::random_bytes::<16>()));
        let mut causes = Vec::new();
        for server in &self.servers {
            let request = self.request(*server, &method, path, key.as_deref());
            match self.send_to(*server, request, body.clone()).await {
                Ok(response) if response.status().is_success() => {
                    self.learn(&response);
                    return Ok(response);
                }
                Ok(response) => return Err(problem_of(response).await),
                Err(Failure::Unreachable(why)) => causes.push(format!("{server}: {why}")),
                Err(Failure::Certificate(why)) => {
                    return Err(Problem::new(
                        Code::WrongAuthority,
                        format!("{server} is not a coordinator of this cluster"),
                    )
                    .why(why)
                    .why("no secret was sent")
                    .fix("Check the address. If it is right, another machine intercepts the connection"));
                }
            }
        }
        let problem = Problem::new(Code::Unreachable, "No coordinator answered");
        let problem = causes.into_iter().fold(problem, Problem::why);
        Err(problem.fix("Check that wharf runs there and that port 7443/tcp is open"))
    }

    /// Sends a large body with PUT to the first coordinator that answers, and decodes the answer.
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, Problem> {
        let mut causes = Vec::new();
        for server in &self.servers {
            let request = (self.request(*server, &Method::PUT, path, None), "application/octet-stream");
            match self.send_within(*server, request, body.clone(), UPLOAD_TIMEOUT).await {
                Ok(response) if response.status().is_success() => return read(response).await,
                Ok(response) => return Err(problem_of(response).await),
                Err(Failure::Unreachable(why) | Failure::Certificate(why)) => causes.push(format!("{server}: {why}")),
            }
        }
        let problem = Problem::new(Code::Unreachable, "No coordinator took the binary");
        Err(causes.into_iter().fold(problem, Problem::why))
    }

    fn request(&self, server: SocketAddr, method: &Method, path: &str, key: Option<&str>) -> request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.name, server.port()));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request
    }

    async fn send_to(
        &self,
        server: SocketAddr,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        self.send_within(server, (request, "application/json"), body, ANSWER_TIMEOUT).await
    }

    async fn send_within(
        &self,
        server: SocketAddr,
        (mut request, kind): (request::Builder, &'static str),
        body: Bytes,
        within: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let mut connection = self.connect(server).await?;
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Full::new(body)).map_err(|e| Failure::Unreachable(e.to_string()))?;
        let answered = tokio::time::timeout(within, connection.send_request(request)).await;
        let answered = answered.map_err(|_| Failure::Unreachable(format!("no answer within {within:?}")))?;
        answered.map_err(|e| Failure::Unreachable(e.to_string()))
    }

    async fn connect(&self, server: SocketAddr) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
        let name = ServerName::try_from(self.name.clone()).map_err(|e| Failure::Certificate(e.to_string()))?;
        let connecting = async {
            let stream = TcpStream::connect(server).await.map_err(|e| Failure::Unreachable(e.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
            connector.connect(name, stream).await.map_err(|e| {
                match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(rustls::Error::InvalidCertificate(reason)) => {
                        Failure::Certificate(format!("its certificate is not the cluster's: {reason:?}"))
                    }
                    _ => Failure::Unreachable(e.to_string()),
                }
            })
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let stream = connected.map_err(|_| Failure::Unreachable("the connection timed out".to_owned()))??;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| Failure::Unreachable(e.to_string()))?;
        // Ends when the response has been read or the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn json<B: Serialize>(body: &B) -> Result<Bytes, Problem> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|e| Problem::new(Code::Internal, "The request cannot be built").why(e.to_string()))
}

/// Decodes the JSON body of an answer.
pub async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Problem> {
    let unreadable = |why: String| Problem::new(Code::Unreachable, "The answer cannot be read").why(why);
    let body = response.into_body().collect().await.map_err(|e| unreadable(e.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|e| {
        unreadable(e.to_string()).fix("Check that command line and coordinator have the same version: wharf version")
    })
}

async fn problem_of(response: Response<Incoming>) -> Problem {
    let status = response.status();
    match read::<ProblemDocument>(response).await {
        Ok(document) => document.problem,
        Err(_) => {
            let code = match status {
                StatusCode::UNAUTHORIZED => Code::Unauthenticated,
                StatusCode::FORBIDDEN => Code::Denied,
                StatusCode::NOT_FOUND => Code::NotFound,
                StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::ResultUnknown,
                _ => Code::Internal,
            };
            Problem::new(code, format!("The coordinator answered {status}"))
        }
    }
}
