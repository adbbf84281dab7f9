use std::{collections::BTreeSet, sync::Arc};

use common::{
    id::{ClusterId, HostId},
    instance::{Desired, Want},
    network::Network,
    output::LastLines,
    spec::{ContainerSpec, ServiceSpec, Sidekick},
    time::Span,
};

use super::*;
use crate::{ContainerState, Local, Memory};

fn id(slot: u8) -> InstanceId {
    format!("default/shop/web/{slot}.1").parse().expect("an id")
}

fn assigned(change: impl FnOnce(&mut ServiceSpec)) -> Assignment {
    let mut spec = ServiceSpec::of_image("web");
    change(&mut spec);
    let instance = AssignedInstance {
        id: id(1),
        desired: Desired { want: Want::Run, reason: None },
        spec: Arc::new(spec),
        image: "web".into(),
        ports: Vec::new(),
        devices: Vec::new(),
        restarts: 0,
        retries: 0,
        ended: None,
        credentials: Vec::new(),
    };
    let (network, surplus) = (Network::default(), BTreeSet::new());
    let (cluster, host) = (ClusterId([0; 10]), HostId([0; 10]));
    Assignment { cluster, host, generation: 1, network, instances: vec![instance], surplus }
}

fn with_sidekick(spec: &mut ServiceSpec) {
    let sidekick = Sidekick { container: ContainerSpec::of_image("log"), depends_on: BTreeMap::new() };
    spec.sidekicks.insert("log".parse().expect("a name"), sidekick);
}

fn container(address: Option<[u8; 4]>, state: ContainerState) -> Container {
    Container {
        id: "c".into(),
        state,
        image_digest: None,
        address: address.map(Into::into),
        sender: None,
        output: LastLines::default(),
        published: BTreeSet::new(),
    }
}

/// Every action for a part of an instance, in the order of its life.
fn actions(part: &PartId) -> [Action; 5] {
    let (part, container) = (part.clone(), "c".to_owned());
    [
        Action::Prepare(part.clone()),
        Action::Create(part.clone()),
        Action::Start { part: part.clone(), container: container.clone() },
        Action::Stop { part: part.clone(), container: container.clone(), grace: Span::seconds(10) },
        Action::Remove { part, container },
    ]
}

fn work(action: &Action, assignment: &Assignment) -> Result<Work, ActionResult> {
    Work::of(action, assignment, &BTreeMap::new(), &Node::default())
}

#[test]
fn what_must_be_in_its_place_comes_before_a_container() {
    let sidekick = Part::Sidekick("log".parse().expect("a name"));
    let strict = |spec: &mut ServiceSpec| spec.strict_singleton = true;
    let strict_with_sidekick = |spec: &mut ServiceSpec| {
        with_sidekick(spec);
        strict(spec);
    };
    for (assignment, part, expected) in [
        (assigned(|_| {}), id(1).main(), vec![Need::Files]),
        (assigned(strict), id(1).main(), vec![Need::Files, Need::Lease]),
        (assigned(with_sidekick), id(1).part(sidekick.clone()), vec![Need::Files]),
        (assigned(strict_with_sidekick), id(1).part(sidekick), vec![Need::Files, Need::Lease]),
        (assigned(strict_with_sidekick), id(1).part(Part::Network), vec![Need::Holder]),
        (assigned(strict), id(2).main(), vec![]),
    ] {
        for (place, action) in actions(&part).iter().enumerate() {
            let work = work(action, &assignment).expect("it can be done");
            let expected = if place < 3 { expected.clone() } else { vec![] };
            assert_eq!(work.needs, expected, "{action:?}");
            assert_eq!(work.instance.is_some(), part.instance == id(1), "{action:?}");
        }
    }
}

#[test]
fn only_the_last_removal_ends_an_instance_on_its_host() {
    let sidekick = Part::Sidekick("log".parse().expect("a name"));
    let (alone, with_others) = (assigned(|_| {}), assigned(with_sidekick));
    for (assignment, part, expected) in [
        (&alone, id(1).main(), true),
        (&alone, id(1).part(Part::Step(1)), false),
        (&with_others, id(1).main(), false),
        (&with_others, id(1).part(sidekick.clone()), false),
        (&with_others, id(1).part(Part::Network), true),
        // An instance that is not assigned: its network or, without one, its main container is the last.
        (&alone, id(2).main(), true),
        (&alone, id(2).part(sidekick), false),
        (&alone, id(2).part(Part::Network), true),
    ] {
        let ends = actions(&part).map(|action| work(&action, assignment).expect("it can be done").is_last);
        assert_eq!(ends, [false, false, false, false, expected], "{part}");
    }
}

#[test]
fn a_start_awaits_the_rules_and_a_stop_the_directory() {
    let part = id(1).main();
    for (address, expected) in
        [(None, None), (Some([10, 42, 1, 2]), Some(Awaited::Admitted([10, 42, 1, 2].into(), id(1).into())))]
    {
        let containers = [(part.clone(), container(address, ContainerState::Created))].into();
        let awaits = actions(&part).map(|action| {
            let work = Work::of(&action, &assigned(|_| {}), &containers, &Node::default());
            work.expect("it can be done").awaits
        });
        assert_eq!(awaits, [None, None, expected, Some(Awaited::Unlisted(id(1))), None]);
    }
}

#[test]
fn a_container_is_made_only_of_templates_that_can_be_filled_in() {
    let node = Node { hostname: "host-7".into(), ..Node::default() };
    let named = |hostname: &str| assigned(|spec| spec.container.hostname = Some(hostname.to_owned()));
    let (right, wrong) = (named("{{.Node.Hostname}}"), named("{{.Node.Colour}}"));
    for (place, action) in actions(&id(1).main()).iter().enumerate() {
        let hostname = |assignment: &Assignment| {
            let work = Work::of(action, assignment, &BTreeMap::new(), &node)?;
            Ok(work.instance.and_then(|instance| instance.spec.container.hostname.clone()))
        };
        assert_eq!(hostname(&right), Ok(Some("host-7".to_owned())), "{action:?}");
        match hostname(&wrong) {
            Err(ActionResult::Impossible(why)) if place == 1 => assert!(why.contains("{{.Node.Colour}}"), "{why}"),
            found => {
                assert_ne!(place, 1, "{found:?}");
                assert_eq!(found, Ok(Some("{{.Node.Colour}}".to_owned())), "{action:?}");
            }
        }
    }
}

#[test]
fn files_stay_of_what_is_assigned_and_of_what_has_a_container() {
    let containers = [(id(2).main(), container(None, ContainerState::Created))].into();
    assert_eq!(kept(&assigned(|_| {}), &containers), [id(1), id(2)].into());
    assert_eq!(kept(&assigned(|_| {}), &BTreeMap::new()), [id(1)].into());
}

#[test]
fn output_is_read_once_for_each_run_that_has_ended() {
    let (started_at, earlier) = (common::time::Timestamp(2000), common::time::Timestamp(1000));
    let ended = ContainerState::Exited { started_at, finished_at: started_at, exit_code: 1, out_of_memory: false };
    let running = ContainerState::Running { started_at, health: common::instance::Health::Unchecked };
    for (state, known, expected) in [
        (ContainerState::Created, None, 0),
        (running, None, 0),
        (ended, None, 1),
        (ended, Some(earlier), 1),
        (ended, Some(started_at), 0),
    ] {
        let containers = BTreeMap::from([(id(1).main(), container(None, state))]);
        let local = Local { ended_run: known, ..Local::accepted() };
        let memory = Memory([(id(1).main(), local)].into());
        assert_eq!(memory.new_ends(&containers).count(), expected, "{state:?} {known:?}");
        if known.is_none() {
            assert_eq!(Memory::default().new_ends(&containers).count(), expected, "nothing is remembered: {state:?}");
        }
    }
}
