//! What to do with one message: answer it, ask others, or nothing. Decides alone: asking others is `recursion`'s.

use std::{net::IpAddr, str::FromStr};

use agent_core::{
    names::{Answer, Asker, Kind, Question, Record, ZONE, answer, asker},
    network::Residents,
};
use common::{directory::Listing, network::NetworkPlan};
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record as Resource, RecordType,
        rdata::{A, PTR, SOA, SRV},
    },
};
use tracing::debug;

use super::is_inside;
use crate::known::Known;

/// For how long an answer may be kept, in seconds.
const TTL: u32 = 5;
/// Most records of an answer.
const MOST_RECORDS: usize = 1000;
/// The largest answer by UDP: no network between containers has to take it apart.
const LARGEST_BY_UDP: u16 = 1232;
/// The largest answer to a sender that does not say how much it takes (RFC 1035, section 4.2.1).
const LARGEST_UNASKED: u16 = 512;

/// How a question came, and how the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// In a datagram: a long answer is cut.
    ByUdp,
    /// On a connection, with a length before each message.
    ByTcp,
}

/// What to do with a message.
#[derive(Debug)]
pub enum Reply {
    /// Nothing: it is no question, or this host has no overlay.
    Silence,
    /// Send this.
    Answer(Vec<u8>),
    /// Ask other resolvers: the name is not the cluster's.
    Elsewhere(Elsewhere),
}

/// A question that other resolvers must answer.
#[derive(Debug)]
pub struct Elsewhere {
    /// The name in question.
    pub name: Name,
    /// The resolvers that the asker's service names; the host's if it names none.
    pub resolvers: Vec<IpAddr>,
    /// The cluster's own addresses, which are never asked.
    pub plan: NetworkPlan,
    /// The answer if no resolver gives one.
    pub unanswered: Vec<u8>,
}

/// Decides what to do with a message, by what is known now.
pub fn decide(known: &Known, message: &[u8], from: IpAddr, by: Asked) -> Reply {
    let request = match Message::from_vec(message) {
        Ok(request) if request.metadata.message_type == MessageType::Query => request,
        Ok(_) => return Reply::Silence,
        Err(error) => {
            debug!(%from, %error, "a message cannot be read");
            return sent(malformed(message));
        }
    };
    let Some(plan) = known.plan() else { return Reply::Silence };
    let decided = match request.queries.as_slice() {
        _ if !is_inside(&plan, from) => Err(ResponseCode::Refused),
        _ if request.metadata.op_code != OpCode::Query => Err(ResponseCode::NotImp),
        [query] if query.query_class() == DNSClass::IN => Ok(query),
        [_] => Err(ResponseCode::Refused),
        _ => Err(ResponseCode::FormErr),
    };
    let query = match decided {
        Ok(query) => query,
        Err(code) => return sent(encode(&request, &respond(&request, code), by)),
    };
    let (answer, listing) = look_up(known, &plan, query, from);
    let response = match answer {
        Answer::Known(records) => known_response(&request, query, &records),
        Answer::Unknown => without_records(&request, ResponseCode::NXDomain),
        // Who reaches nothing outside does not reach it by questions either.
        Answer::Elsewhere if listing.reach.is_internal => respond(&request, ResponseCode::Refused),
        Answer::Elsewhere => {
            let (name, resolvers) = (query.name().clone(), listing.resolvers);
            let failed = encode(&request, &respond(&request, ResponseCode::ServFail), by);
            return failed.map_or(Reply::Silence, |unanswered| {
                Reply::Elsewhere(Elsewhere { name, resolvers, plan, unanswered })
            });
        }
    };
    sent(encode(&request, &response, by))
}

fn sent(answer: Option<Vec<u8>>) -> Reply {
    answer.map_or(Reply::Silence, Reply::Answer)
}

/// The answer to a message that cannot be read, if so much as its id can.
fn malformed(message: &[u8]) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(message.get(..2)?.try_into().ok()?);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

/// The answer to a question, and the listing of the asker's service.
fn look_up(known: &Known, plan: &NetworkPlan, query: &Query, from: IpAddr) -> (Answer, Listing) {
    let kind = match query.query_type() {
        RecordType::A => Kind::Address,
        RecordType::SRV => Kind::Service,
        RecordType::PTR => Kind::Pointer,
        _ => Kind::Other,
    };
    let (directory, residents, none) = (known.directory.borrow(), known.residents.borrow(), Residents::new());
    let asker = asker(&directory, residents.as_ref().unwrap_or(&none), plan, from);
    let name = query.name().to_ascii();
    let listing = match &asker {
        Asker::Instance(own) => directory.service(own.service()).cloned().unwrap_or_default(),
        Asker::Host | Asker::Stranger => Listing::default(),
    };
    let question = Question { asker: &asker, name: name.trim_end_matches('.'), kind };
    (answer(&directory, plan, question), listing)
}

fn respond(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries = request.queries.clone();
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_BY_UDP);
        response.set_edns(edns);
    }
    response
}

/// That there is nothing of it, and for how long that may be kept (RFC 2308).
fn without_records(request: &Message, code: ResponseCode) -> Message {
    let mut response = respond(request, code);
    response.metadata.authoritative = true;
    let named = |text: &str| Name::from_str(text).unwrap_or_default();
    let (zone, seconds) = (named(&format!("{ZONE}.")), i32::try_from(TTL).unwrap_or(i32::MAX));
    let (server, person) = (named(&format!("ns.{ZONE}.")), named(&format!("root.{ZONE}.")));
    let soa = SOA::new(server, person, 1, seconds, seconds, seconds, TTL);
    response.add_authority(Resource::from_rdata(zone, TTL, RData::SOA(soa)));
    response
}

fn known_response(request: &Message, query: &Query, records: &[Record]) -> Message {
    if records.is_empty() {
        return without_records(request, ResponseCode::NoError);
    }
    let mut response = respond(request, ResponseCode::NoError);
    response.metadata.authoritative = true;
    // A program that takes the first address gets another one each time.
    let first = usize::from(request.metadata.id) % records.len();
    let (after, before) = (&records[first..], &records[..first]);
    for record in after.iter().chain(before).take(MOST_RECORDS) {
        add(&mut response, query.name(), record);
    }
    response
}

fn add(response: &mut Message, name: &Name, record: &Record) {
    let resource = |name: &Name, data| Resource::from_rdata(name.clone(), TTL, data);
    let parsed = |text: &str| Name::from_str(&format!("{text}."));
    match record {
        Record::Address(address) => {
            response.add_answer(resource(name, RData::A(A(*address))));
        }
        // Names of ours are DNS labels: they can always be written.
        Record::Service { port, target, address } => {
            let Ok(target) = parsed(target) else { return };
            response.add_answer(resource(name, RData::SRV(SRV::new(0, 0, *port, target.clone()))));
            response.add_additional(resource(&target, RData::A(A(*address))));
        }
        Record::Pointer(text) => {
            let Ok(text) = parsed(text) else { return };
            response.add_answer(resource(name, RData::PTR(PTR(text))));
        }
    }
}

/// The message as it is sent. By UDP, one that is too large holds as many answers as fit and says so (RFC 2181, section
/// 9); the asker can ask by TCP for all of them.
fn encode(request: &Message, response: &Message, by: Asked) -> Option<Vec<u8>> {
    let bytes = response.to_vec().ok()?;
    let takes = request.edns.as_ref().map_or(LARGEST_UNASKED, |edns| edns.max_payload());
    let limit = usize::from(takes.clamp(LARGEST_UNASKED, LARGEST_BY_UDP));
    if by == Asked::ByTcp || bytes.len() <= limit {
        return Some(bytes);
    }
    let with = |count: usize| {
        let mut part = response.truncate();
        part.answers = response.answers.iter().take(count).cloned().collect();
        part.to_vec().ok().filter(|bytes| bytes.len() <= limit)
    };
    // A number of answers that fits, and one that does not.
    let (mut fits, mut fits_not) = (0, response.answers.len().saturating_add(1));
    while fits_not - fits > 1 {
        let count = usize::midpoint(fits, fits_not);
        *(if with(count).is_some() { &mut fits } else { &mut fits_not }) = count;
    }
    with(fits)
}

#[cfg(test)]
mod tests;
