//! Messages as they come from a container's resolver, and the answers to those that should not ask.

use std::net::Ipv4Addr;

use common::{
    assignment::Assignment,
    directory::{Directory, Endpoint, Listing, Reach},
    id::{ClusterId, HostId, InstanceId},
    network::{Network, NetworkPlan, Overlay},
};
use tokio::sync::watch;

use super::*;

struct Host {
    residents: watch::Sender<Option<Residents>>,
    known: Known,
}

/// A host whose containers are in 10.42.0.0/24; one of a service with so many instances runs at .2.
fn host(instances: u8) -> Host {
    let mut directory = Directory::default();
    let service = "default/shop/web".parse().expect("an id");
    directory.put_service(service, Some(Listing::default()));
    for number in 0..instances {
        let id = format!("default/shop/web/{}.1", number + 1).parse().expect("an id");
        let address = Ipv4Addr::new(10, 42, 0, 2 + number);
        directory.put_instance(id, Some(Endpoint { address, serves: true }));
    }
    let plan = NetworkPlan::default();
    let own = plan.subnets().next().expect("it has some");
    let mut assignment = Assignment::nothing(ClusterId([1; 10]), HostId([2; 10]));
    assignment.generation = 1;
    assignment.network = Network::Overlay(Overlay { plan, own });
    let (told_residents, residents) = watch::channel(None);
    // A receiver keeps the last value also without its sender.
    let known = Known { assignment: watch::channel(assignment).1, directory: watch::channel(directory).1, residents };
    Host { residents: told_residents, known }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4;
    message.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
    message
}

/// The answer to a message, if it gets one, and without others being asked.
fn answered(known: &Known, message: &[u8], from: [u8; 4], by: Asked) -> Option<Message> {
    match decide(known, message, from.into(), by) {
        Reply::Silence => None,
        Reply::Answer(answer) => Some(Message::from_vec(&answer).expect("it can be read")),
        Reply::Elsewhere(elsewhere) => panic!("others would be asked: {elsewhere:?}"),
    }
}

fn ask(known: &Known, question: &Message, from: [u8; 4], by: Asked) -> Message {
    answered(known, &question.to_vec().expect("it can be written"), from, by).expect("it is answered")
}

#[test]
fn answers_say_what_there_is_and_what_is_not() {
    let host = host(2);
    let asked = |name, kind| question(name, kind);
    let found = ask(&host.known, &asked("Web.", RecordType::A), [10, 42, 0, 2], Asked::ByUdp);
    assert_eq!((found.answers.len(), found.metadata.response_code, found.metadata.id), (2, ResponseCode::NoError, 4));
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    let none = ask(&host.known, &asked("web.", RecordType::AAAA), [10, 42, 0, 2], Asked::ByUdp);
    assert_eq!((none.answers.len(), none.metadata.response_code), (0, ResponseCode::NoError));
    assert_eq!(none.authorities.len(), 1, "how long that holds");
    let unknown = ask(&host.known, &asked("nobody.", RecordType::A), [10, 42, 0, 2], Asked::ByUdp);
    assert_eq!((unknown.metadata.response_code, unknown.authorities.len()), (ResponseCode::NXDomain, 1));
}

#[test]
fn what_is_too_large_is_asked_for_again() {
    let host = host(200);
    let mut large = question("web.", RecordType::A);
    let cut = ask(&host.known, &large, [10, 42, 0, 2], Asked::ByUdp);
    // A header of 12 bytes, the question of 9, and each address in 16.
    assert!(cut.metadata.truncation && cut.to_vec().expect("it can be written").len() <= 512);
    assert_eq!(cut.answers.len(), (512 - 12 - 9) / 16, "as many as fit");
    let mut edns = Edns::new();
    edns.set_max_payload(65_000);
    large.set_edns(edns);
    let cut = ask(&host.known, &large, [10, 42, 0, 2], Asked::ByUdp);
    assert!(cut.metadata.truncation && cut.edns.is_some());
    assert_eq!(cut.answers.len(), (1232 - 12 - 9 - 11) / 16, "as many as fit beside what says how many may");
    let whole = ask(&host.known, &large, [10, 42, 0, 2], Asked::ByTcp);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
}

#[test]
fn who_is_not_of_the_overlay_is_refused() {
    let host = host(1);
    let refused = |from| {
        let asked = question("web.shop.default.wharf.internal.", RecordType::A);
        ask(&host.known, &asked, from, Asked::ByUdp).metadata.response_code
    };
    assert_eq!(refused([192, 168, 0, 9]), ResponseCode::Refused);
}

#[test]
fn what_reaches_nothing_outside_asks_nobody_outside() {
    let mut host = host(1);
    let mut directory = host.known.directory.borrow().clone();
    let reach = Reach { is_internal: true, ..Reach::default() };
    directory.put_service("default/shop/web".parse().expect("an id"), Some(Listing { reach, ..Listing::default() }));
    host.known.directory = watch::channel(directory).1;
    let asked = |name| question(name, RecordType::A);
    let outside = ask(&host.known, &asked("secret.example.com."), [10, 42, 0, 2], Asked::ByUdp);
    assert_eq!(outside.metadata.response_code, ResponseCode::Refused);
    let inside = ask(&host.known, &asked("web."), [10, 42, 0, 2], Asked::ByUdp);
    assert_eq!(inside.answers.len(), 1, "what is inside is answered");
}

#[test]
fn a_program_may_ask_before_its_cluster_knows_it() {
    let host = host(1);
    let asked = question("web.", RecordType::A);
    let resident = [10, 42, 0, 77];
    let stranger = ask(&host.known, &asked, resident, Asked::ByUdp);
    assert_eq!(stranger.metadata.response_code, ResponseCode::NXDomain, "one that is not of the cluster");
    let id: InstanceId = "default/shop/new/1.1".parse().expect("an id");
    host.residents.send_replace(Some([(resident.into(), id.into())].into()));
    assert_eq!(ask(&host.known, &asked, resident, Asked::ByUdp).answers.len(), 1);
}

#[test]
fn what_is_no_question_is_not_answered_as_one() {
    let host = host(1);
    let known = &host.known;
    let answered = |bytes: Vec<u8>| {
        answered(known, &bytes, [10, 42, 0, 2], Asked::ByUdp).map(|answer| answer.metadata.response_code)
    };
    assert_eq!(answered(vec![]), None);
    assert_eq!(answered(vec![0, 4, 1, 0, 0, 1, 0, 0]), Some(ResponseCode::FormErr));
    let mut answer = question("web.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(answered(answer.to_vec().expect("it can be written")), None, "two servers would talk for ever");
    let mut two = question("web.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(answered(two.to_vec().expect("it can be written")), Some(ResponseCode::FormErr));
    let mut update = question("web.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(answered(update.to_vec().expect("it can be written")), Some(ResponseCode::NotImp));
}
