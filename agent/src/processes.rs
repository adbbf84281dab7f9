//! The first processes of containers, as the kernel shows them: the agent knows without Docker whether they live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use agent_core::Container;
use common::{
    id::InstanceId,
    part::{Part, PartId},
};

/// The processes of the containers that ran when Docker showed them last.
#[derive(Debug, Default)]
pub(crate) struct Processes(BTreeMap<PartId, Process>);

/// A process, distinct from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    number: u32,
    /// When it began, in ticks of the kernel.
    began: u64,
}

impl Processes {
    /// Notes the processes that Docker shows.
    pub(crate) fn learn(&mut self, containers: &BTreeMap<PartId, Container>) {
        let known = std::mem::take(&mut self.0);
        let running = containers.iter().filter(|(_, container)| container.runs());
        let process = |(id, container): (&PartId, &Container)| {
            let number = container.sender?.process;
            let same = known.get(id).filter(|process| process.number == number);
            let process = same.copied().or_else(|| Some(Process { number, began: began(number)? }))?;
            Some((id.clone(), process))
        };
        self.0 = running.filter_map(process).collect();
    }

    /// The instances of which a process that ran is gone.
    pub(crate) fn gone(&self) -> BTreeSet<InstanceId> {
        let is_gone = |(id, process): &(&PartId, &Process)| {
            // The end of a step is no problem.
            !matches!(id.part, Part::Step(_)) && began(process.number) != Some(process.began)
        };
        self.0.iter().filter(is_gone).map(|(id, _)| id.instance.clone()).collect()
    }
}

/// When a process began; none if it is gone, or has ended and waits for its parent.
fn began(number: u32) -> Option<u64> {
    began_by(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
}

fn began_by(stat: &str) -> Option<u64> {
    // The fields behind the program's name, which may contain anything: the state is field 3, the start field 22.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let lives = !matches!(fields.first(), None | Some(&("Z" | "X")));
    fields.get(19).filter(|_| lives)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use agent_core::{ContainerState, Sender};
    use common::{instance::Health, output::LastLines, time::Timestamp};

    use super::*;

    #[test]
    fn a_process_that_is_gone_is_known_to_be() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("it begins");
        let id: InstanceId = "default/shop/web/1.1".parse().expect("an id");
        let state = ContainerState::Running { started_at: Timestamp(1), health: Health::Unchecked };
        let sender = Some(Sender { process: child.id(), hardware_address: [0; 6] });
        let output = LastLines::default();
        let container = Container {
            id: "c".into(),
            state,
            image_digest: None,
            address: None,
            sender,
            output,
            published: BTreeSet::new(),
        };
        let mut processes = Processes::default();
        processes.learn(&BTreeMap::from([(id.main(), container.clone())]));
        assert_eq!(processes.gone(), BTreeSet::new());
        child.kill().expect("it is ours");
        while began(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(processes.gone(), BTreeSet::from([id.clone()]), "although its parent has not taken note of it");
        child.wait().expect("it has ended");
        assert_eq!(processes.gone(), BTreeSet::from([id.clone()]));
        processes.learn(&BTreeMap::new());
        assert_eq!(processes.gone(), BTreeSet::new(), "Docker has said so");
    }

    #[test]
    fn a_number_that_another_process_has_now_is_not_the_same_process() {
        let stat = |state: &str, began: u64| {
            format!("7 (a) b) {state} 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {began} 1 1 1")
        };
        assert_eq!((began_by(&stat("S", 9)), began_by(&stat("S", 12))), (Some(9), Some(12)));
        assert_eq!((began_by(&stat("Z", 9)), began_by("")), (None, None));
    }
}
