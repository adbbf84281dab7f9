use common::{
    api::{DrainedInstance, RolloutView},
    id::HostId,
    instance::{Desired, Observed},
    rollout::RolloutState,
    spec::ServiceSpec,
    time::Timestamp,
};

use super::*;

fn id(text: &str) -> InstanceId {
    format!("default/shop/{text}").parse().expect("an id")
}

fn stack(mode: Mode, serving: u32, blocked: &[&str]) -> StackView {
    let id = id("web/1.1").service().clone();
    let spec = ServiceSpec { mode, replicas: 2, ..ServiceSpec::of_image("web:1") };
    let rollout = RolloutView {
        state: RolloutState::Done,
        since: Timestamp(0),
        from_revision: None,
        back_from: None,
        why: String::new(),
        output: Default::default(),
        canary: None,
    };
    let service = ServiceView {
        id: id.clone(),
        spec,
        address: None,
        revision: 1,
        wanted: 2,
        rollout,
        serving,
        completed: 0,
        failed: Vec::new(),
        next_run: None,
        blocked: blocked.iter().map(ToString::to_string).collect(),
        failure: None,
    };
    StackView { id: id.stack.clone(), revision: 1, changed_at: Timestamp(0), removing: false, services: vec![service] }
}

fn instance(text: &str, want: Want) -> InstanceView {
    InstanceView {
        id: id(text),
        revision: 1,
        image: String::new(),
        host: HostId([1; 10]),
        host_name: None,
        address: None,
        state: String::new(),
        desired: Desired { want, reason: None },
        observed: Observed::nothing(),
        verdict: Verdict::Reachable,
        ports: Vec::new(),
        devices: Vec::new(),
        created_at: Timestamp(0),
    }
}

/// The instances of web that ran on the host and run nowhere; `None` while that is not known.
fn left(stacks: &[StackView], instances: &[InstanceView]) -> Option<Vec<String>> {
    let fate = Fate::Stays { why: vec!["its data is there".to_owned()] };
    let drained = |text| DrainedInstance { id: id(text), fate: fate.clone() };
    let plan = DrainPlan {
        host: "h1".parse().expect("a name"),
        instances: vec![
            drained("web/1.1"),
            drained("web/2.1"),
            DrainedInstance { id: id("agent/1.1"), fate: Fate::EndsHere },
        ],
    };
    let found = stranded(&plan, stacks, instances)?;
    Some(found.iter().map(|(id, why)| format!("{id}: {}", why.join("; "))).collect())
}

#[test]
fn what_was_stopped_and_runs_nowhere_is_found() {
    let why = &["slot 1 waits"];
    let all = ["default/shop/web/1.1: slot 1 waits", "default/shop/web/2.1: slot 1 waits"];
    let replicated = |serving, blocked| [stack(Mode::Replicated, serving, blocked)];
    assert_eq!(left(&replicated(0, why), &[]).expect("it is known"), all);
    // Ending instances fill nothing.
    assert_eq!(left(&replicated(0, why), &[instance("web/1.1", Want::Purge)]).expect("it is known"), all);
    assert_eq!(left(&replicated(1, why), &[instance("web/1.2", Want::Run)]).expect("it is known"), all[1..]);
    let both = [instance("web/1.2", Want::Run), instance("web/2.2", Want::Prepare)];
    assert_eq!(left(&replicated(1, why), &both).expect("it is known"), [""; 0]);
    assert_eq!(left(&replicated(0, &[]), &[]), None, "the planner has not looked yet");
    assert_eq!(left(&[], &[]).expect("it is known"), [""; 0], "the stack was removed meanwhile");
    assert_eq!(left(&[stack(Mode::Global, 0, why)], &[]).expect("it is known"), [""; 0]);
}
