use common::{
    assignment::RegistryCredentials,
    audit::{self, AuditHash, AuditLine},
    codec,
    name::default_environment,
    role::{Grant, Role},
    secret::Secret,
    token::{SecretHash, TokenId},
};

use super::*;
use crate::{
    Batch, Outcome, State,
    command::Person,
    level::LEVEL,
    testing::{BEGINNING, Fixture, TOKEN, admission, host, name},
    view,
};

const ANN: TokenId = TokenId([9; 5]);

fn fixture() -> Fixture {
    let mut fixture = Fixture::of_hosts(2);
    let grant = Grant::of_cluster(Role::Admin);
    fixture.done(Command::PutToken { id: ANN, name: name("ann"), grant, secret: SecretHash([7; 32]) });
    fixture
}

fn by_ann(fixture: &mut Fixture, command: Command) -> Outcome {
    let by = Some(Person { token: ANN, name: name("ann"), from: Some([10, 0, 0, 77].into()) });
    let batch = Batch { at: fixture.now, proposals: vec![Proposal { request: None, by, command }] };
    fixture.cluster.apply(&batch).remove(0)
}

fn put_key(key: &str) -> Command {
    Command::PutKey { environment: default_environment(), key: key.into(), value: std::sync::Arc::from(*b"hunter2") }
}

fn lines(state: &State) -> Vec<AuditLine> {
    view::audit(state, 0, usize::MAX).entries
}

#[test]
fn an_entry_says_who_did_what_from_where() {
    let mut fixture = fixture();
    let before = lines(&fixture.cluster).len();
    assert!(matches!(by_ann(&mut fixture, put_key("a/b")), Outcome::Done { .. }));
    let all = lines(&fixture.cluster);
    let [line] = &all[before..] else { panic!("one change has one entry: {all:?}") };
    assert_eq!((line.entry.token, line.entry.name.clone()), (Some(ANN), Some(name("ann"))));
    assert_eq!((line.entry.from, line.entry.at), (Some([10, 0, 0, 77].into()), BEGINNING));
    assert_eq!((line.what.as_str(), line.entry.subject.as_str()), ("put key", "default/a/b"));
    assert_eq!(line.entry.index, fixture.cluster.index());
    let joined = all.iter().find(|line| line.what == "admit").expect("the second host joined");
    assert_eq!((joined.entry.token, &joined.entry.name), (Some(TOKEN), &None));
    assert_eq!((joined.entry.from, &joined.entry.subject), (Some(admission(2).from), &host(2).to_string()));
    assert_eq!(all[0].what, "initialize");
    assert_eq!(audit::check(&all), Ok(()));
    assert_eq!(all.last().map(|line| (line.entry.number, line.hash)), Some(fixture.cluster.audit_newest()));
}

#[test]
fn what_changes_nothing_has_no_entry() {
    let mut fixture = fixture();
    let before = fixture.cluster.audit_newest();
    let refused = by_ann(&mut fixture, Command::RemoveHost(host(9)));
    assert!(matches!(refused, Outcome::Rejected(_)), "{refused:?}");
    let stranger = Person { token: TokenId([8; 5]), name: name("eve"), from: None };
    let proposal = Proposal { request: None, by: Some(stranger), command: put_key("x") };
    fixture.cluster.apply(&Batch { at: fixture.now, proposals: vec![proposal] });
    fixture.done(Command::HostLeaves(host(2)));
    assert_eq!(fixture.cluster.audit_newest(), before, "an agent's own reports are not kept");
}

#[test]
fn entries_hold_no_secret() {
    let mut fixture = fixture();
    by_ann(&mut fixture, put_key("k"));
    let password = Secret::new("hunter2".to_owned());
    let credentials = RegistryCredentials { registry: "registry.example".into(), username: "ann".into(), password };
    by_ann(&mut fixture, Command::PutRegistry(credentials));
    let stored = codec::encode(&fixture.cluster.audit).expect("it is written");
    assert!(!stored.windows(7).any(|window| window == b"hunter2"));
    assert!(!stored.windows(32).any(|window| window == [7; 32]), "nor the hash of a token");
    assert!(lines(&fixture.cluster).iter().any(|line| line.entry.subject == "registry.example"));
}

#[test]
fn the_oldest_entries_go_and_the_chain_stays() {
    let mut fixture = fixture();
    for number in 0..MOST_ENTRIES {
        by_ann(&mut fixture, put_key(&format!("k{}", number % 10)));
    }
    let kept = lines(&fixture.cluster);
    assert_eq!(kept.len(), MOST_ENTRIES);
    assert_ne!(kept[0].entry.previous, AuditHash::default(), "there were others before");
    assert_eq!(audit::check(&kept), Ok(()));
    let read: State = codec::decode(&codec::encode(&fixture.cluster).expect("it is written")).expect("it is read");
    assert_eq!(read, fixture.cluster);
}

#[test]
fn there_is_no_audit_below_its_level() {
    let mut fixture = fixture();
    fixture.cluster.audit = Audit::default();
    fixture.cluster.basics.level = level::AUDIT - 1;
    by_ann(&mut fixture, put_key("k"));
    assert_eq!(fixture.cluster.audit_newest().0, 0);
    fixture.cluster.basics.level = LEVEL;
    by_ann(&mut fixture, put_key("k"));
    assert_eq!(fixture.cluster.audit_newest().0, 1);
}

#[test]
fn a_person_without_an_address_is_stored_as_before() {
    let person = |from| Proposal {
        request: None,
        by: Some(Person { token: ANN, name: name("ann"), from }),
        command: put_key("k"),
    };
    let before = codec::encode(&(None::<crate::command::Request>, Some((ANN, name("ann"))), put_key("k")));
    assert_eq!(codec::encode(&person(None)).expect("it is written"), before.expect("it is written"));
    for proposal in [person(None), person(Some([10, 0, 0, 7].into())), put_key("k").into()] {
        let bytes = codec::encode(&proposal).expect("it is written");
        assert_eq!(codec::decode::<Proposal>(&bytes).expect("it is read"), proposal);
    }
}
