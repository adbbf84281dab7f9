//! Clients that write and read the same few objects, one operation at a time each, and note what they are answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    api::{KeyView, ProblemDocument, PutStack, ScaleService, StackPlan, StackView},
    error::Code,
    name::Name,
    spec::{ServiceSpec, StackSpec},
};
use hyper::{Method, StatusCode};
use simulation::random::Random;
use tokio::time::Instant;

use super::{
    checker::Operation,
    history::{Recorder, STACK},
    model::{Input, Output, Stack},
};
use crate::http::{Client, Endpoint};

const KEYS: usize = 3;
const STACKS: usize = 2;
const CONNECT: Duration = Duration::from_millis(700);
/// How long a client waits for an answer, in milliseconds: some of them until a paused member goes on.
const PATIENCE: [u64; 5] = [300, 500, 800, 1500, 6000];
const AVOIDED: Duration = Duration::from_millis(1500);
/// How often a write of which nothing is known is sent again.
const ATTEMPTS: usize = 3;
/// What a client does between operations, in milliseconds at most.
const THINKS: usize = 12;

/// How reads are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reads {
    /// As wharf answers by default.
    Linearizable,
    /// With `?stale`: these are wrong, and the checker must find that.
    Stale,
}

/// What all clients of a round share.
pub struct Shared {
    /// The coordinators.
    pub endpoint: Endpoint,
    /// What tells the objects from those of other rounds.
    pub round: String,
    /// How they read.
    pub reads: Reads,
    /// Where operations are noted.
    pub recorder: Recorder,
}

impl Shared {
    /// The names of the objects.
    pub fn objects(&self) -> Vec<String> {
        let keys = (0..KEYS).map(|number| format!("key-{}-{number}", self.round));
        keys.chain((0..STACKS).map(|number| format!("{STACK}-{}-{number}", self.round))).collect()
    }
}

/// What came of sending a request once.
enum Reply {
    Answered(Output),
    /// It was not made, says the answer.
    Refused,
    /// It may have been made.
    Unknown,
    /// There was no connection.
    NotSent,
}

/// A client.
pub struct Worker {
    number: usize,
    shared: Arc<Shared>,
    random: Random,
    connections: BTreeMap<usize, Client>,
    /// Until when each member is mostly left alone, because it did not answer.
    avoided: BTreeMap<usize, Instant>,
    /// The revision at which each stack was last seen.
    revisions: BTreeMap<String, u64>,
    /// The number of its last write.
    writes: u64,
}

/// An operation under way.
struct Request<'a> {
    object: &'a str,
    input: Input,
    key: String,
    call: u64,
}

impl Worker {
    /// A client with its own random choices.
    pub fn new(number: usize, shared: Arc<Shared>, seed: u64) -> Worker {
        let random = Random::new(seed.wrapping_mul(31).wrapping_add(number as u64));
        let (connections, avoided, revisions) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Worker { number, shared, random, connections, avoided, revisions, writes: 0 }
    }

    /// Works until a time.
    pub async fn work(mut self, end: Instant) {
        let objects = self.shared.objects();
        while Instant::now() < end {
            let object = &objects[self.random.below(objects.len())];
            let input = self.choose(object);
            let first = self.member();
            self.perform(object, input, first).await;
            let pause = self.random.below(THINKS);
            tokio::time::sleep(Duration::from_millis(pause as u64)).await;
        }
    }

    /// Any member, but seldom one that has just not answered.
    fn member(&mut self) -> usize {
        let any = self.random.below(self.shared.endpoint.servers.len());
        let is_avoided = self.avoided.get(&any).is_some_and(|until| *until > Instant::now());
        if is_avoided && self.random.chance(85) { self.random.below(self.shared.endpoint.servers.len()) } else { any }
    }

    fn choose(&mut self, object: &str) -> Input {
        let dice = self.random.below(100);
        let replicas = self.random.below(5) as u32;
        if !object.starts_with(STACK) {
            return match dice {
                0..45 => Input::Put(self.next_write()),
                45..55 => Input::Delete,
                _ => Input::Get,
            };
        }
        let known = self.revisions.get(object).copied().unwrap_or(0);
        match dice {
            0..25 => Input::Deploy { expect: Some(known), tag: self.next_write(), replicas },
            25..35 => Input::Deploy { expect: None, tag: self.next_write(), replicas },
            35..55 => Input::Scale(replicas),
            _ => Input::Look,
        }
    }

    /// A number that no other write of the round has.
    fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.number as u64 * 1_000_000 + self.writes
    }

    /// Performs an operation, beginning at a member, and notes what came of it.
    pub async fn perform(&mut self, object: &str, input: Input, first: usize) {
        let is_write = !input.reads();
        let key = format!("{object}-{}-{}", self.number, self.shared.recorder.now());
        let request = Request { object, input, key, call: self.shared.recorder.now() };
        let (answer, was_sent) = self.insist(&request, first, if is_write { ATTEMPTS } else { 1 }).await;
        if let Some((_, output)) = &answer {
            self.learn(object, output);
            if is_write && self.random.chance(8) {
                self.repeat(&request, output).await;
            }
        }
        let recorder = &self.shared.recorder;
        match (&answer, was_sent) {
            (None, false) => {}
            (None, true) if !is_write => recorder.count(|tally| tally.unread += 1),
            _ => {
                let operation =
                    Operation { client: self.number, input: request.input.clone(), call: request.call, answer };
                recorder.take(object, operation, is_write);
            }
        }
    }

    /// Sends a request until it is answered, it is certain that it was not made, or patience ends. Returns the answer
    /// with its time, and whether it may have been made.
    async fn insist(&mut self, request: &Request<'_>, first: usize, attempts: usize) -> (Option<(u64, Output)>, bool) {
        let mut may_be_made = false;
        for attempt in 0..attempts {
            let member = (first + attempt) % self.shared.endpoint.servers.len();
            match self.send(request, member).await {
                Reply::Answered(output) => {
                    if may_be_made {
                        self.shared.recorder.count(|tally| tally.repeated += 1);
                    }
                    return (Some((self.shared.recorder.now(), output)), true);
                }
                Reply::Refused if !may_be_made => {
                    self.shared.recorder.count(|tally| tally.refused += 1);
                    return (None, false);
                }
                Reply::Unknown => may_be_made = true,
                // An earlier attempt may still be made.
                Reply::Refused | Reply::NotSent => {}
            }
            if self.random.chance(40) {
                break;
            }
        }
        (None, may_be_made)
    }

    /// Sends a request again that was answered: it gets the same answer, and is not made a second time.
    async fn repeat(&mut self, request: &Request<'_>, first: &Output) {
        let member = self.random.below(self.shared.endpoint.servers.len());
        if let Reply::Answered(second) = self.send(request, member).await {
            self.shared.recorder.count(|tally| tally.repeated += 1);
            if second != *first {
                let Request { object, input, .. } = request;
                let what = format!("{object}: {input:?} was answered {first:?}, and {second:?} when it was repeated");
                self.shared.recorder.complain(what);
            }
        }
    }

    fn learn(&mut self, object: &str, output: &Output) {
        match output {
            Output::Revision(revision) | Output::Seen(Stack { revision, .. }) => {
                self.revisions.insert(object.to_owned(), *revision);
            }
            _ => {}
        }
    }

    async fn send(&mut self, request: &Request<'_>, member: usize) -> Reply {
        let (method, path, body) = written(request, self.shared.reads);
        if !self.connections.contains_key(&member) {
            let connecting = tokio::time::timeout(CONNECT, self.shared.endpoint.connect(member)).await;
            let Ok(Ok(client)) = connecting else {
                self.avoided.insert(member, Instant::now() + AVOIDED);
                return Reply::NotSent;
            };
            self.connections.insert(member, client);
        }
        let patience = PATIENCE[self.random.below(PATIENCE.len())];
        let Some(client) = self.connections.get_mut(&member) else { return Reply::NotSent };
        let key = (method != Method::GET).then_some(request.key.as_str());
        let sent = client.send(method, &path, body, key, Duration::from_millis(patience)).await;
        let Ok((status, body)) = sent else {
            self.connections.remove(&member);
            self.avoided.insert(member, Instant::now() + AVOIDED);
            return Reply::Unknown;
        };
        if status.is_success() { self.success(request, &body) } else { self.refusal(request, (status, &body)) }
    }

    fn success(&self, request: &Request<'_>, body: &[u8]) -> Reply {
        let output = match request.input {
            Input::Put(_) | Input::Delete | Input::Scale(_) => Some(Output::Done),
            Input::Get => serde_json::from_slice::<KeyView>(body).ok().and_then(|view| {
                let value = view.value.parse().ok()?;
                self.shared.recorder.note_index(request.object, value, view.modify_index);
                Some(Output::Value(value))
            }),
            Input::Deploy { .. } => {
                serde_json::from_slice::<StackPlan>(body).ok().map(|plan| Output::Revision(plan.to_revision))
            }
            Input::Look => serde_json::from_slice::<StackView>(body).ok().and_then(|view| seen(&view)),
        };
        output.map_or_else(|| self.odd(request, String::from_utf8_lossy(body).into_owned()), Reply::Answered)
    }

    fn refusal(&self, request: &Request<'_>, (status, body): (StatusCode, &[u8])) -> Reply {
        let Ok(document) = serde_json::from_slice::<ProblemDocument>(body) else {
            return if status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::GATEWAY_TIMEOUT {
                Reply::Unknown
            } else {
                self.odd(request, format!("{status}"))
            };
        };
        match (document.problem.code, &request.input) {
            (Code::NoLeader | Code::Busy, _) => Reply::Refused,
            (Code::ResultUnknown, _) => Reply::Unknown,
            (Code::NotFound, Input::Get | Input::Delete | Input::Look | Input::Scale(_)) => {
                Reply::Answered(Output::Missing)
            }
            (Code::Conflict, Input::Deploy { expect: Some(_), .. }) => Reply::Answered(Output::Conflict),
            _ => self.odd(request, document.problem.to_string()),
        }
    }

    /// An answer that no fault explains.
    fn odd(&self, request: &Request<'_>, answer: String) -> Reply {
        let Request { object, input, .. } = request;
        self.shared.recorder.complain(format!("{object}: {input:?} was answered {answer}"));
        Reply::Unknown
    }
}

fn seen(view: &StackView) -> Option<Output> {
    let spec = &view.services.first()?.spec;
    let tag = spec.container.image.strip_prefix("web:")?.parse().ok()?;
    Some(Output::Seen(Stack { revision: view.revision, tag, replicas: spec.replicas }))
}

fn written(request: &Request<'_>, reads: Reads) -> (Method, String, Bytes) {
    let kind = if request.object.starts_with(STACK) { "stacks" } else { "keys" };
    let path = format!("/api/v1/environments/default/{kind}/{}", request.object);
    let json = |value: Result<Vec<u8>, serde_json::Error>| Bytes::from(value.expect("our own values are JSON"));
    match &request.input {
        Input::Put(value) => (Method::PUT, path, Bytes::from(value.to_string())),
        Input::Delete => (Method::DELETE, path, Bytes::new()),
        Input::Get | Input::Look if reads == Reads::Stale => (Method::GET, path + "?stale", Bytes::new()),
        Input::Get | Input::Look => (Method::GET, path, Bytes::new()),
        Input::Scale(replicas) => {
            let scale = ScaleService { replicas: *replicas };
            (Method::PUT, path + "/services/web/scale", json(serde_json::to_vec(&scale)))
        }
        Input::Deploy { expect, tag, replicas } => {
            let service = ServiceSpec { replicas: *replicas, ..ServiceSpec::of_image(&format!("web:{tag}")) };
            let web = Name::parse("web").expect("a name");
            let spec = StackSpec { services: [(web, service)].into(), ..StackSpec::default() };
            let put = PutStack {
                spec,
                files: Vec::new(),
                expect_revision: *expect,
                dry_run: false,
                what: None,
                goes_back: false,
            };
            (Method::PUT, path, json(serde_json::to_vec(&put)))
        }
    }
}
