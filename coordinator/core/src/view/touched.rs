//! Whose assignment may differ between two states: to derive all of them anew after each change would take
//! time in proportion to all that runs.

use std::collections::BTreeSet;

use common::id::HostId;
use imbl::ordmap::DiffItem;

use crate::{Cluster, cluster::Instance};

/// The hosts that have to be told something, perhaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Every one.
    All,
    /// These.
    Hosts(BTreeSet<HostId>),
}

/// Which hosts' [`assignment`](super::assignment) or coordinators may differ.
pub fn touched(before: &Cluster, after: &Cluster) -> Touched {
    let same_for_all = before.members == after.members
        && before.registries == after.registries
        && before.identity.is_some() == after.identity.is_some();
    if !same_for_all {
        return Touched::All;
    }
    let mut hosts = BTreeSet::new();
    for item in before.hosts.diff(&after.hosts) {
        match item {
            DiffItem::Update { old: (_, old), new: (_, new) } if old.subnet == new.subnet => {}
            DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => {
                hosts.insert(*id);
            }
        }
    }
    for item in before.instances.diff(&after.instances) {
        let (one, other): (&Instance, Option<&Instance>) = match item {
            DiffItem::Add(_, instance) | DiffItem::Remove(_, instance) => (instance, None),
            DiffItem::Update { old: (_, old), new: (_, new) } => (old, Some(new)),
        };
        hosts.extend(std::iter::once(one).chain(other).map(|instance| instance.host));
    }
    // The digest that a tag was pinned to.
    for item in before.stacks.diff(&after.stacks) {
        let (DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. }) = item;
        hosts.extend(after.instances_of_stack(id).map(|(_, instance)| instance.host));
    }
    Touched::Hosts(hosts)
}

#[cfg(test)]
mod tests {
    use common::instance::Phase;

    use super::*;
    use crate::{
        Command,
        testing::{Fixture, host, name, stack, web},
    };

    fn hosts(numbers: &[u8]) -> Touched {
        Touched::Hosts(numbers.iter().map(|number| host(*number)).collect())
    }

    #[test]
    fn those_are_told_whose_instances_change() {
        let mut fixture = Fixture::of_hosts(4);
        fixture.deploy(&[("web", web(|spec| spec.replicas = 3))]);
        let before = fixture.cluster.clone();
        assert_eq!(touched(&before, &before), hosts(&[]));
        fixture.settle();
        assert_eq!(touched(&before, &fixture.cluster), hosts(&[1, 2, 3]));

        let before = fixture.cluster.clone();
        fixture.observe("web/2.1", Phase::Failed);
        assert_eq!(touched(&before, &fixture.cluster), hosts(&[2]));

        let before = fixture.cluster.clone();
        let (service, digest) = (stack().service(name("web")), "sha256:ab".to_owned());
        fixture.done(Command::PinImage { service, expect_revision: 1, digest });
        assert_eq!(touched(&before, &fixture.cluster), hosts(&[1, 2, 3]));

        let before = fixture.cluster.clone();
        fixture.done(Command::PutHostLabels { host: host(4), labels: [("disk".into(), "ssd".into())].into() });
        assert_eq!(touched(&before, &fixture.cluster), hosts(&[]), "labels are the planner's");

        let before = fixture.cluster.clone();
        fixture.done(Command::RemoveHost(host(4)));
        assert_eq!(touched(&before, &fixture.cluster), hosts(&[4]), "the others hear of it by the directory");

        let before = fixture.cluster.clone();
        let address = ([10, 0, 0, 9], 7443).into();
        fixture.done(Command::MemberAddress { member: common::id::MemberId(1), address });
        assert_eq!(touched(&before, &fixture.cluster), Touched::All);
    }
}
