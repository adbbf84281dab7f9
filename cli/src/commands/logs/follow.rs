//! Follows the output of a service across restarts and replacements, until the service is removed.

use std::{collections::BTreeMap, time::Duration};

use common::{
    api::{InstanceView, StackView},
    error::{Code, Problem},
    id::InstanceId,
    instance::{Phase, Want},
};
use futures::{StreamExt, stream::FuturesUnordered};

use super::{Reading, print, without_container};
use crate::{
    args::Logs,
    commands::{
        Session,
        instances::{find, short},
    },
    output,
};

/// How often the instances are listed to find new output.
const LOOK: Duration = Duration::from_secs(1);

/// The state of an instance whose output has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    is_read: bool,
    /// The instance's restart count when its output was opened.
    restart: u32,
    /// Whether the connection broke while the output was read.
    broke_off: bool,
    after: Option<String>,
}

/// The reason for opening an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The instance is new.
    IsNew,
    /// The program was restarted.
    Restarted,
    /// The connection broke.
    BrokeOff,
}

/// Selects the outputs to open now.
fn to_open<'a>(known: &BTreeMap<InstanceId, Known>, found: &'a [InstanceView]) -> Vec<(&'a InstanceView, Why)> {
    let why = |view: &InstanceView| match known.get(&view.id) {
        // Earlier phases have no container.
        None if view.observed.phase < Phase::Ready => None,
        None => Some(Why::IsNew),
        Some(known) if known.is_read => None,
        Some(known) if known.broke_off => Some(Why::BrokeOff),
        Some(known) => (view.observed.restart > known.restart).then_some(Why::Restarted),
    };
    found.iter().filter_map(|view| Some((view, why(view)?))).collect()
}

/// Whether all instances have ended for good, so that nothing will replace them.
fn has_ended(found: &[InstanceView]) -> bool {
    let ended = |view: &InstanceView| {
        matches!(view.observed.phase, Phase::Completed | Phase::Failed) && view.desired.want <= Want::Run
    };
    !found.is_empty() && found.iter().all(ended)
}

/// Prints the output of a service's instances, or of one slot, until the service is removed.
pub(super) async fn follow(session: &Session, service: &str, slot: Option<u32>, logs: &Logs) -> Result<u8, Problem> {
    let read = |mut reading: Reading| async move {
        let result = print(session, &mut reading, logs).await;
        (reading, result)
    };
    let mut reading = FuturesUnordered::new();
    let mut known: BTreeMap<InstanceId, Known> = BTreeMap::new();
    let (mut is_first, mut prefix) = (true, false);
    loop {
        match find(session, Some(service)).await {
            Ok(found) => {
                let found: Vec<InstanceView> =
                    found.items.into_iter().filter(|view| slot.is_none_or(|slot| view.id.slot.slot == slot)).collect();
                prefix |= found.len() > 1;
                reading.extend(open(&mut known, &found, is_first, prefix).into_iter().map(read));
                is_first = false;
                if reading.is_empty() && has_ended(&found) {
                    output::note(format!("! {service} has ended: no instance of it runs any more"));
                    return Ok(0);
                }
                if reading.is_empty() && found.is_empty() && is_removed(session, service).await? {
                    output::note(format!("! {service} was removed"));
                    return Ok(0);
                }
            }
            // The next request goes to another coordinator.
            Err(problem) if matches!(problem.code, Code::Unreachable | Code::NoLeader) => {}
            Err(problem) => return Err(problem),
        }
        let looked = tokio::time::sleep(LOOK);
        tokio::pin!(looked);
        loop {
            tokio::select! {
                () = &mut looked => break,
                Some((done, result)) = reading.next() => note(&mut known, done, result)?,
            }
        }
    }
}

/// Notes which output is opened now, and says so unless it is the first time.
fn open(known: &mut BTreeMap<InstanceId, Known>, found: &[InstanceView], is_first: bool, prefix: bool) -> Vec<Reading> {
    if is_first {
        let without = |view: &&InstanceView| view.observed.phase < Phase::Ready;
        for view in found.iter().filter(without) {
            without_container(view, prefix);
        }
    }
    let mut opened = Vec::new();
    for (view, why) in to_open(known, found) {
        if !is_first {
            tell(view, why);
        }
        let after = known.get(&view.id).and_then(|known| known.after.clone());
        let (is_read, restart, broke_off) = (true, view.observed.restart, false);
        known.insert(view.id.clone(), Known { is_read, restart, broke_off, after: after.clone() });
        opened.push(Reading { id: view.id.clone(), after, prefix });
    }
    opened
}

/// Notes how far an instance's output was read, and why no further.
fn note(known: &mut BTreeMap<InstanceId, Known>, done: Reading, result: Result<(), Problem>) -> Result<(), Problem> {
    match result {
        Err(problem) if problem.code == Code::NotFound && done.after.is_none() => {
            // The container does not exist yet or any more. If it appears, it counts as new.
            known.remove(&done.id);
        }
        Ok(()) | Err(Problem { code: Code::NotFound | Code::Unreachable | Code::NoLeader, .. }) => {
            if let Some(known) = known.get_mut(&done.id) {
                known.broke_off = result.is_err_and(|problem| problem.code != Code::NotFound);
                known.is_read = false;
                known.after = done.after;
            }
        }
        Err(problem) => return Err(problem),
    }
    Ok(())
}

fn tell(view: &InstanceView, why: Why) {
    let host = view.host_name.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
    output::note(match why {
        Why::IsNew => format!("! now following {}{host}", short(&view.id)),
        Why::Restarted => format!("! {}{host} was started again", short(&view.id)),
        Why::BrokeOff => format!("! the output of {}{host} broke off; continuing", short(&view.id)),
    });
}

/// Whether a service without instances was removed, rather than waiting for a host.
async fn is_removed(session: &Session, service: &str) -> Result<bool, Problem> {
    let (stack, name) = service.split_once('/').unwrap_or((service, ""));
    match session.client.get::<StackView>(&session.in_environment(&format!("stacks/{stack}"))).await {
        Ok(view) => Ok(view.removing || !view.services.iter().any(|service| service.id.service.as_str() == name)),
        Err(problem) if problem.code == Code::NotFound => Ok(true),
        Err(problem) if matches!(problem.code, Code::Unreachable | Code::NoLeader) => Ok(false),
        Err(problem) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use common::{
        id::HostId,
        instance::{Desired, Observed, Verdict},
        time::Timestamp,
    };

    use super::*;

    fn id(text: &str) -> InstanceId {
        format!("default/x/web/{text}").parse().expect("an id")
    }

    fn view(text: &str, restart: u32, phase: Phase) -> InstanceView {
        InstanceView {
            id: id(text),
            revision: 1,
            image: String::new(),
            host: HostId([1; 10]),
            host_name: None,
            address: None,
            state: String::new(),
            desired: Desired { want: Want::Run, reason: None },
            observed: Observed { restart, phase, ..Observed::nothing() },
            verdict: Verdict::Reachable,
            ports: Vec::new(),
            devices: Vec::new(),
            created_at: Timestamp(0),
        }
    }

    fn known(is_read: bool, restart: u32, broke_off: bool) -> BTreeMap<InstanceId, Known> {
        BTreeMap::from([(id("1.1"), Known { is_read, restart, broke_off, after: None })])
    }

    #[test]
    fn what_replaces_an_instance_or_its_program_is_read_and_nothing_twice() {
        let running = |text: &str, restart| view(text, restart, Phase::Running);
        for (what, known, found, expected) in [
            ("it is read", known(true, 0, false), vec![running("1.1", 0)], vec![]),
            ("it is read on while it is started again", known(true, 0, false), vec![running("1.1", 1)], vec![]),
            ("it has ended", known(false, 0, false), vec![view("1.1", 0, Phase::Failed)], vec![]),
            ("started again", known(false, 0, false), vec![running("1.1", 1)], vec![Why::Restarted]),
            ("broken", known(false, 0, true), vec![running("1.1", 0)], vec![Why::BrokeOff]),
            ("replaced", known(true, 0, false), vec![running("1.1", 0), running("1.2", 0)], vec![Why::IsNew]),
            ("not made yet", known(false, 0, false), vec![view("1.2", 0, Phase::Pulling)], vec![]),
        ] {
            let opened: Vec<Why> = to_open(&known, &found).into_iter().map(|(_, why)| why).collect();
            assert_eq!(opened, expected, "{what}");
        }
    }

    #[test]
    fn how_far_it_was_read_is_kept() {
        let mut of = known(true, 0, false);
        let done = |after: Option<&str>| Reading { id: id("1.1"), after: after.map(str::to_owned), prefix: false };
        let broken = || Problem::new(Code::Unreachable, "it broke off");
        note(&mut of, done(Some("moment")), Err(broken())).expect("it is gone on with");
        let expected = Known { is_read: false, restart: 0, broke_off: true, after: Some("moment".into()) };
        assert_eq!(of[&id("1.1")], expected);
        note(&mut of, done(None), Err(Problem::new(Code::NotFound, "no container"))).expect("it may come");
        assert!(of.is_empty());
        let mut of = known(true, 0, false);
        note(&mut of, done(None), Err(Problem::new(Code::Denied, "revoked"))).expect_err("that is the end");
    }

    #[test]
    fn it_ends_when_all_has_ended_for_good() {
        let mut failed = view("1.1", 0, Phase::Failed);
        assert!(has_ended(&[view("1.1", 0, Phase::Completed), failed.clone()]));
        failed.desired.want = Want::Stop;
        assert!(!has_ended(&[failed]), "another one takes its place");
        assert!(!has_ended(&[]) && !has_ended(&[view("1.1", 0, Phase::Running)]));
    }
}
