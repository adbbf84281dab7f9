//! The metadata service: answers each container of this host with the metadata of itself and its environment, by HTTP.
//! The host's rules lead the address of metadata here.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener as StdTcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_core::{
    metadata::{Metadata, text},
    network::METADATA_PORT,
};
use bytes::Bytes;
use common::{id::InstanceId, network::Subnet};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::SocketType;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    known::{Known, for_own_subnet},
    socket::bound,
};

/// Connections that all containers of a host may have at a time, and one of them.
const MOST_CONNECTIONS: usize = 512;
const MOST_OF_ONE: usize = 16;
/// How long a client may take for a request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a client waits for a change if it does not say how long, and at most.
const WAIT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long a connection lasts at most: a client that reads nothing keeps its place no longer.
const CONVERSATION: Duration = Duration::from_secs(900);
/// How long changes are gathered before waiting clients get an answer.
const GATHER: Duration = Duration::from_millis(250);
/// How long to wait before the port is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Answers for as long as it is awaited.
pub async fn run(known: Known) {
    let serving = async |own| {
        let Err(error) = serve(&known, own).await;
        warn!(%error, port = METADATA_PORT, "this host cannot serve metadata to its containers; trying again");
        sleep(AGAIN).await;
    };
    for_own_subnet(known.assignment.clone(), serving).await;
}

async fn serve(known: &Known, own: Subnet) -> io::Result<Infallible> {
    let address = SocketAddrV4::new(own.gateway(), METADATA_PORT);
    let listener = TcpListener::from_std(StdTcpListener::from(bound(address, SocketType::STREAM)?))?;
    info!(%address, "metadata is served");
    let callers = Callers::default();
    let mut conversations: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, from) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // An error of one connection, or too many files are open for the moment.
                        debug!(%error, "a connection was not accepted");
                        sleep(GATHER).await;
                        continue;
                    }
                };
                let IpAddr::V4(from) = from.ip() else { continue };
                let Some(place) = callers.admit(from) else { continue };
                let known = known.clone();
                conversations.spawn(async move {
                    converse(known, stream, from).await;
                    drop(place);
                });
            }
            Some(_) = conversations.join_next() => {}
        }
    }
}

/// The number of connections of each caller.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<BTreeMap<Ipv4Addr, usize>>>);

/// A connection's place among those of its caller.
struct Place {
    callers: Callers,
    from: Ipv4Addr,
}

impl Callers {
    /// A place for a connection; none if there are too many.
    fn admit(&self, from: Ipv4Addr) -> Option<Place> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = callers.values().sum();
        let own = callers.entry(from).or_default();
        if all >= MOST_CONNECTIONS || *own >= MOST_OF_ONE {
            return None;
        }
        *own += 1;
        Some(Place { callers: self.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut callers = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = callers.get_mut(&self.from) {
            *own -= 1;
            if *own == 0 {
                callers.remove(&self.from);
            }
        }
    }
}

async fn converse(known: Known, stream: TcpStream, from: Ipv4Addr) {
    let service = service_fn(|request: Request<Incoming>| {
        let known = known.clone();
        async move { Ok::<_, Infallible>(respond(known, from, &request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(16 << 10);
    match timeout(CONVERSATION, server.serve_connection(TokioIo::new(stream), service)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%from, %error, "a connection ended early"),
        Err(_) => debug!(%from, "a connection lasted too long"),
    }
}

async fn respond(known: Known, from: Ipv4Addr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "metadata is read-only\n".to_owned());
    }
    let own = known.residents.borrow().as_ref().and_then(|residents| Some(residents.get(&from)?.instance.clone()));
    let Some(own) = own else {
        return plain(StatusCode::FORBIDDEN, format!("{from} is not an instance of this cluster on this host\n"));
    };
    let wanted = Wanted::of(request.uri().query().unwrap_or_default());
    let Some(value) = find(known, (&own, from), request.uri().path(), &wanted).await else {
        return plain(StatusCode::NOT_FOUND, format!("there is no {}\n", request.uri().path()));
    };
    let accepts = request.headers().get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepts.contains("application/json") {
        return response(StatusCode::OK, "application/json", value.to_string());
    }
    plain(StatusCode::OK, text(&value))
}

/// The parameters of a query.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// The value that the client has: it waits until there is another one.
    has: Option<String>,
    /// How long it waits.
    within: Duration,
}

impl Wanted {
    fn of(query: &str) -> Wanted {
        let value = |wanted: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == wanted).map(|(_, value)| value)
        };
        let waits = value("wait") == Some("true");
        let within = value("maxWait").and_then(|seconds| seconds.parse().ok()).map_or(WAIT, Duration::from_secs);
        let has = value("value").unwrap_or_default().to_owned();
        Wanted { has: waits.then_some(has), within: within.min(LONGEST_WAIT) }
    }
}

/// The value at a path, once it differs from the one that the client has, or the time is over.
async fn find(mut known: Known, (own, from): (&InstanceId, Ipv4Addr), path: &str, wanted: &Wanted) -> Option<Value> {
    let deadline = Instant::now() + wanted.within;
    loop {
        let directory = known.directory.borrow_and_update().clone();
        let value = Metadata::new(&directory, own, from).at(path)?;
        if wanted.has.as_ref().is_none_or(|has| *has != text(&value)) {
            return Some(value);
        }
        match timeout_at(deadline, known.directory.changed()).await {
            Ok(Ok(())) => sleep(GATHER).await,
            Ok(Err(_)) | Err(_) => return Some(value),
        }
    }
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "text/plain", body)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_the_client_has() {
        let wanted =
            |has: Option<&str>, seconds| Wanted { has: has.map(str::to_owned), within: Duration::from_secs(seconds) };
        for (query, expected) in [
            ("", wanted(None, 60)),
            ("wait=true&value=a&maxWait=5", wanted(Some("a"), 5)),
            ("wait=true", wanted(Some(""), 60)),
            ("wait=false&value=a", wanted(None, 60)),
            ("wait=true&value=a&maxWait=99999", wanted(Some("a"), 600)),
            ("maxWait=soon&&wait", wanted(None, 60)),
        ] {
            assert_eq!(Wanted::of(query), expected, "{query}");
        }
    }

    #[test]
    fn one_container_does_not_take_the_places_of_all() {
        let callers = Callers::default();
        let own = Ipv4Addr::new(10, 42, 0, 2);
        let places: Vec<Place> = (0..MOST_OF_ONE).map_while(|_| callers.admit(own)).collect();
        assert_eq!(places.len(), MOST_OF_ONE);
        assert!(callers.admit(own).is_none());
        assert!(callers.admit(Ipv4Addr::new(10, 42, 0, 3)).is_some());
        drop(places);
        assert!(
            callers.admit(own).is_some() && callers.0.lock().expect("no panic").is_empty(),
            "places are given back"
        );
    }
}
