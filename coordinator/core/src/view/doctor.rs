//! What is wrong, as people should read it: where, why, and what to do.

mod claims;
mod paths;

use std::collections::BTreeMap;

use common::{
    api::{DoctorView, FindingView},
    finding::Finding,
    host::{HostCondition, Liveness},
    id::{HostId, MemberId, ServiceId},
    name::Name,
    network::{Backend, Subnet},
};

use crate::{State, state::Host};

pub use paths::{each_path, paths};

/// What hosts' agents have found wrong: nothing, of a host whose agent is not heard.
pub type Found = BTreeMap<HostId, Vec<Finding>>;

/// Most hosts that are named in one line.
const MOST_SHOWN: usize = 3;

/// A cluster that is looked at, and what its hosts' agents have found.
struct Examination<'a> {
    cluster: &'a State,
    found: &'a Found,
}

/// What is wrong, why, and what to do.
type Told = (String, String, String);

/// All that is wrong by what the hosts' agents have found, and by what the cluster knows of the hosts.
pub fn doctor(cluster: &State, found: &Found) -> DoctorView {
    let examination = Examination { cluster, found };
    let ready = cluster.hosts().values().filter(|host| host.liveness == Liveness::Ready).count();
    let mut findings: Vec<FindingView> = cluster.hosts().values().filter_map(absent).collect();
    findings.extend(cluster.hosts().values().flat_map(|host| conditions(cluster, host)));
    findings.extend(cluster.hosts().values().flat_map(claims::of));
    let mut misses: BTreeMap<Subnet, Vec<(HostId, &Host)>> = BTreeMap::new();
    for (id, of_host) in found {
        // What an agent said before it fell silent is not what is now.
        let Some(host) = cluster.hosts().get(id).filter(|host| host.liveness == Liveness::Ready) else { continue };
        for finding in of_host {
            match finding {
                Finding::Unreached { peer } => misses.entry(*peer).or_default().push((*id, host)),
                _ => findings.extend(examination.explain((*id, host), finding)),
            }
        }
    }
    findings.extend(backups(cluster));
    findings.extend(misses.into_iter().filter_map(|(peer, by)| examination.unreached(peer, &by)));
    let has_overlay = cluster.network().backend != Backend::None;
    let directions = if has_overlay { ready * ready.saturating_sub(1) } else { 0 };
    DoctorView { hosts: cluster.hosts().len(), ready, directions, findings }
}

/// A host whose agent is not heard.
fn absent(host: &Host) -> Option<FindingView> {
    if host.liveness == Liveness::Ready {
        return None;
    }
    let what = format!("The coordinators get no heartbeats from the agent of {} ({})", host.name, host.liveness.word());
    let fix = format!("On {}: systemctl status wharf, and journalctl -u wharf", host.name);
    Some(FindingView { host: host.name.clone(), finding: None, what, why: vec![], fix: vec![fix] })
}

/// The coordinators that should make backups by themselves and do not.
fn backups(cluster: &State) -> impl Iterator<Item = FindingView> {
    let late = |member: MemberId| {
        let (due, schedule) = cluster.backup_due(member).zip(cluster.backup_schedule())?;
        // A coordinator that is off makes one as soon as it is back.
        (cluster.clock() > due + schedule.every).then(|| format!("the last one was due at {due}"))
    };
    let schedule = cluster.backup_schedule();
    cluster.members().iter().filter(move |_| schedule.is_some()).filter_map(move |(id, member)| {
        let failed = cluster.backup_reports().get(id).and_then(|report| report.failed.as_ref());
        let why = failed.map(|failed| format!("at {}: {}", failed.at, failed.why)).or_else(|| late(*id))?;
        let host = cluster.hosts().get(&member.host)?.name.clone();
        let what = format!("The coordinator on {host} makes no backups");
        let fix = vec![format!("Remove the cause on {host}; it tries again every five minutes: wharf backup status")];
        Some(FindingView { host, finding: None, what, why: vec![why], fix })
    })
}

/// What a host cannot do; nothing is said of one that is not heard.
fn conditions(cluster: &State, host: &Host) -> Vec<FindingView> {
    let name = &host.name;
    let told = |condition: &HostCondition| {
        let (what, why, fix) = match condition {
            HostCondition::DockerSilent { since } => (
                format!("Docker on {name} has not answered since {since}"),
                format!(
                    "{name} gets no new instances; those that end are replaced elsewhere after {}",
                    cluster.settings().lost_after
                ),
                format!("On {name}: systemctl status docker, and journalctl -u docker; systemctl restart docker"),
            ),
            HostCondition::DiskFull { path, size } => (
                format!("A disk of {name} is full, so it gets no new instances"),
                format!("less than 2 % of the {size} at {path} is free"),
                "Free some space; docker system df shows what Docker uses".to_owned(),
            ),
        };
        let finding = Some(Finding::Condition(condition.clone()));
        FindingView { host: name.clone(), finding, what, why: vec![why], fix: vec![fix] }
    };
    let is_heard = host.liveness == Liveness::Ready;
    host.conditions.iter().filter(|_| is_heard).map(told).collect()
}

fn is_full(host: &Host, folder: &str) -> bool {
    host.conditions.iter().any(|condition| matches!(condition, HostCondition::DiskFull { path, .. } if path == folder))
}

impl<'a> Examination<'a> {
    fn explain(&self, (id, host): (HostId, &Host), finding: &Finding) -> Option<FindingView> {
        let name = &host.name;
        let (what, why, fix) = match finding {
            Finding::Unheard { peer, answers } => self.unheard(host, *peer, *answers)?,
            Finding::Narrow { peer, mtu } => self.narrow(host, *peer, *mtu)?,
            Finding::Network { why } => (
                format!("The agent of {name} cannot set up the host's network"),
                why.clone(),
                "Remove the cause; the agent tries again every two seconds".to_owned(),
            ),
            Finding::Names { why } => (
                format!("{name} cannot answer DNS queries of its containers"),
                why.clone(),
                format!("Free port 53 of {}", host.subnet.gateway()),
            ),
            // A disk that is full is told as such.
            Finding::Disk { path, .. } if is_full(host, path) => return None,
            Finding::Disk { path, size } => (
                format!("A disk of {name} is nearly full"),
                format!("less than 5 % of the {size} at {path} is free"),
                "Free some space; docker system df shows what Docker uses".to_owned(),
            ),
            Finding::Clock { seconds } => (
                format!("The clock of {name} or of the leader is wrong"),
                format!("they differ by more than {seconds} s"),
                format!("Synchronise both with a time server: timedatectl on {name}"),
            ),
            Finding::Certificate { ends } => (
                format!("The certificate of {name} expires soon, at {ends}"),
                "the agent should have renewed it after half of its validity".to_owned(),
                format!("Find the reason in its log: on {name}, journalctl -u wharf | grep certificate"),
            ),
            Finding::Service { service } => self.led_astray((id, host), service)?,
            Finding::Connections { most } => many_connections(name, *most),
            // Told once for all who find it, and from the state.
            Finding::Unreached { .. } | Finding::Condition(_) => return None,
        };
        Some(FindingView { host: name.clone(), finding: Some(finding.clone()), what, why: vec![why], fix: vec![fix] })
    }

    /// Large packets from one of the others are lost.
    fn narrow(&self, host: &Host, peer: Subnet, mtu: u32) -> Option<Told> {
        let (_, other) = self.of_subnet(peer)?;
        Some((
            format!("Large overlay packets from {} do not arrive at {}", other.name, host.name),
            format!("small packets arrive; packets of {mtu} bytes should, too"),
            "The network between them carries less than the MTU of their interfaces: lower that MTU".to_owned(),
        ))
    }

    fn unheard(&self, host: &Host, peer: Subnet, answers: bool) -> Option<Told> {
        let (id, other) = self.of_subnet(peer)?;
        // Whose agent is away does not say anything, and that is told already.
        if other.liveness != Liveness::Ready {
            return None;
        }
        let address = |host: &Host| host.facts.as_ref().map(|facts| facts.address);
        let (to, from) = (address(host)?, address(other)?);
        let (here, there): (&Name, &Name) = (&host.name, &other.name);
        let what = format!("No overlay packets from {there} arrive at {here}");
        let (why, fix) = if self.has(id, |finding| matches!(finding, Finding::Network { .. })) {
            (format!("the agent of {there} cannot set up the host's network"), format!("Fix {there} first"))
        } else if answers {
            (
                format!("{there} answers {here} on the underlay: UDP 8472 from {from} to {to} is lost on the way"),
                format!("Allow UDP 8472 from {from} to {to} in the firewalls of both hosts and between them"),
            )
        } else {
            (
                format!("{there} ({from}) does not answer {here} ({to}) on the underlay either"),
                format!("Check the network between them: on {here}, ping {from} and ip route get {from}"),
            )
        };
        Some((what, why, fix))
    }

    /// A service whose address leads nowhere, and no path or host is the reason.
    fn led_astray(&self, (id, host): (HostId, &Host), service: &ServiceId) -> Option<Told> {
        let explains = |finding: &Finding| {
            matches!(finding, Finding::Unheard { .. } | Finding::Unreached { .. } | Finding::Network { .. })
        };
        let is_unheard = |finding: &Finding| matches!(finding, Finding::Unheard { peer, .. } if *peer == host.subnet);
        if self.has(id, explains) || self.found.values().flatten().any(is_unheard) || self.is_on_a_known_fault(service)
        {
            return None;
        }
        let (name, address) = (&host.name, self.cluster.service(service)?.address?);
        Some((
            format!("On {name}, the address of {service} ({address}) leads nowhere"),
            "some of its instances serve, and all paths to them work".to_owned(),
            format!(
                "On {name}, look for rules about {address} that wharf did not create: nft list ruleset, iptables-save"
            ),
        ))
    }

    /// Whether what is wrong with a host that has instances of a service is told already: who is led there is not answered.
    fn is_on_a_known_fault(&self, service: &ServiceId) -> bool {
        self.cluster.instances_of(service).any(|(_, instance)| {
            let is_away = self.cluster.hosts().get(&instance.host).is_none_or(|host| host.liveness != Liveness::Ready);
            is_away || self.has(instance.host, |finding| matches!(finding, Finding::Network { .. }))
        })
    }

    /// A host that is heard while its instances are not: what it forwards is lost.
    fn unreached(&self, peer: Subnet, by: &[(HostId, &Host)]) -> Option<FindingView> {
        let (id, host) = self.of_subnet(peer)?;
        // What is told already is the reason.
        if host.liveness != Liveness::Ready || self.has(id, |finding| matches!(finding, Finding::Network { .. })) {
            return None;
        }
        let hears = |id: HostId, other: &Host| {
            !self.has(id, |finding| matches!(finding, Finding::Unheard { peer, .. } if *peer == other.subnet))
        };
        let whole = by.iter().filter(|(asker, asking)| hears(id, asking) && hears(*asker, host));
        let mut names: Vec<&str> = whole.map(|(_, asking)| asking.name.as_str()).collect();
        names.sort_unstable();
        let (shown, more) = names.split_at(names.len().min(MOST_SHOWN));
        let from = match (shown, more) {
            ([], _) => return None,
            (_, []) => shown.join(", "),
            _ => format!("{} and {} more", shown.join(", "), more.len()),
        };
        let name = &host.name;
        Some(FindingView {
            host: name.clone(),
            finding: Some(Finding::Unreached { peer }),
            what: format!("No instance of {name} answers {from}"),
            why: vec![format!("{name} itself answers, so packets are lost between the host and its containers")],
            fix: vec![format!("On {name}, look for rules that drop them: iptables -S FORWARD, nft list ruleset")],
        })
    }

    /// Whether a host has found something.
    fn has(&self, host: HostId, is_it: impl Fn(&Finding) -> bool) -> bool {
        self.found.get(&host).is_some_and(|all| all.iter().any(is_it))
    }

    fn of_subnet(&self, subnet: Subnet) -> Option<(HostId, &'a Host)> {
        self.cluster.hosts().iter().find(|(_, host)| host.subnet == subnet).map(|(id, host)| (*id, host))
    }
}

fn many_connections(name: &Name, most: u64) -> Told {
    (
        format!("The connection table of {name}'s kernel is nearly full"),
        format!("more than 80 % of {most} entries are used; when it is full, the kernel drops new connections"),
        format!(
            "On {name}, find out what opens so many (conntrack -L), or raise net.netfilter.nf_conntrack_max (sysctl)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command,
        testing::{Fixture, host, web},
    };
    use common::{spec::Mode, time::Timestamp};

    fn subnet(fixture: &Fixture, number: u8) -> Subnet {
        fixture.cluster.hosts().get(&host(number)).expect("it is there").subnet
    }

    fn told(fixture: &Fixture, found: &[(u8, Finding)]) -> Vec<String> {
        let mut by_host = Found::new();
        for (number, finding) in found {
            by_host.entry(host(*number)).or_default().push(finding.clone());
        }
        let view = doctor(&fixture.cluster, &by_host);
        view.findings.iter().map(|f| format!("{}: {}", f.what, f.why.join("; "))).collect()
    }

    #[test]
    fn a_silent_path_is_told_with_its_direction_and_likely_cause() {
        let mut fixture = Fixture::of_hosts(3);
        let unheard = |fixture: &Fixture, peer, answers| Finding::Unheard { peer: subnet(fixture, peer), answers };
        let view = doctor(&fixture.cluster, &Found::new());
        assert_eq!((view.hosts, view.ready, view.directions, view.findings.len()), (3, 3, 6, 0));

        let blocked = told(&fixture, &[(2, unheard(&fixture, 1, true))]);
        assert_eq!(
            blocked,
            ["No overlay packets from h1 arrive at h2: h1 answers h2 on the underlay: UDP 8472 from 10.0.0.1 \
              to 10.0.0.2 is lost on the way"]
        );
        let apart = told(&fixture, &[(2, unheard(&fixture, 1, false))]);
        assert!(apart[0].contains("does not answer h2 (10.0.0.2) on the underlay either"), "{apart:?}");
        let broken = Finding::Network { why: "no".into() };
        let two = told(&fixture, &[(1, broken), (2, unheard(&fixture, 1, true))]);
        assert!(two[1].ends_with("the agent of h1 cannot set up the host's network"), "{two:?}");

        let liveness = Liveness::Down { since: fixture.now };
        fixture.done(Command::HostLiveness { host: host(1), liveness });
        let down = told(&fixture, &[(2, unheard(&fixture, 1, true)), (3, unheard(&fixture, 1, false))]);
        assert_eq!(down.len(), 1, "one cause, told once: {down:?}");
        assert!(down[0].starts_with("The coordinators get no heartbeats from the agent of h1 (down)"), "{down:?}");
    }

    #[test]
    fn who_forwards_nothing_is_told_once_and_only_if_it_is_heard() {
        let fixture = Fixture::of_hosts(6);
        let misses = |by: u8| (by, Finding::Unreached { peer: subnet(&fixture, 2) });
        let all = told(&fixture, &[misses(1), misses(3), misses(4), misses(5), misses(6)]);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].starts_with("No instance of h2 answers h1, h3, h4 and 2 more: h2 itself answers"), "{all:?}");

        let silent = |at: u8, from: u8| (at, Finding::Unheard { peer: subnet(&fixture, from), answers: true });
        let one = told(&fixture, &[misses(1), silent(1, 2)]);
        assert!(one.len() == 1 && one[0].starts_with("No overlay packets"), "{one:?}");
        let other_way = told(&fixture, &[misses(1), misses(3), silent(2, 1)]);
        assert!(other_way.iter().any(|text| text.starts_with("No instance of h2 answers h3: ")), "{other_way:?}");
        let broken = told(&fixture, &[misses(1), (2, Finding::Network { why: "no".into() })]);
        assert_eq!(broken.len(), 1, "{broken:?}");
    }

    #[test]
    fn what_a_host_cannot_do_is_told_once_with_what_follows() {
        let mut fixture = Fixture::of_hosts(2);
        let path = "/var/lib/docker".to_owned();
        let size = common::quantity::Bytes(1 << 30);
        let silent = HostCondition::DockerSilent { since: fixture.now };
        let conditions = vec![silent, HostCondition::DiskFull { path: path.clone(), size }];
        fixture.done(Command::HostConditions { host: host(2), conditions });
        let told = told(&fixture, &[(2, Finding::Disk { path, size })]);
        assert_eq!(told.len(), 2, "that the disk is nearly full goes without saying: {told:?}");
        assert!(told[0].starts_with("Docker on h2 has not answered since "), "{told:?}");
        assert!(told[1].starts_with("A disk of h2 is full, so it gets no new instances"), "{told:?}");
        fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since: fixture.now } });
        let view = doctor(&fixture.cluster, &Found::new());
        assert_eq!(view.findings.len(), 1, "nobody knows any more: {view:?}");
    }

    #[test]
    fn a_service_is_led_astray_where_nothing_else_is_wrong() {
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&[("web", web(|_| {}))]);
        let service: ServiceId = "default/shop/web".parse().expect("an id");
        let address = fixture.cluster.service(&service).and_then(|service| service.address).expect("it has one");
        let astray = || (2, Finding::Service { service: service.clone() });
        let text = format!("On h2, the address of default/shop/web ({address}) leads nowhere");
        assert!(told(&fixture, &[astray()])[0].starts_with(&text));
        for (at, reason) in [
            (2, Finding::Unheard { peer: subnet(&fixture, 1), answers: true }),
            (1, Finding::Unheard { peer: subnet(&fixture, 2), answers: true }),
            (2, Finding::Unreached { peer: subnet(&fixture, 1) }),
            (2, Finding::Network { why: "no".into() }),
        ] {
            let told = told(&fixture, &[astray(), (at, reason.clone())]);
            assert!(told.len() == 1 && !told[0].starts_with(&text), "{reason:?} is the reason: {told:?}");
        }
        assert_eq!(told(&fixture, &[astray(), (1, Finding::Clock { seconds: 6 })]).len(), 2);
    }

    #[test]
    fn what_follows_from_a_host_that_is_away_is_told_with_it() {
        let away = [Liveness::Down { since: Timestamp(1) }, Liveness::Suspect { since: Timestamp(1) }];
        for liveness in away {
            let mut fixture = Fixture::of_hosts(3);
            fixture.deploy(&[("web", web(|web| web.mode = Mode::Global))]);
            fixture.settle();
            let service: ServiceId = "default/shop/web".parse().expect("an id");
            let is_there = |fixture: &Fixture, number: u8| {
                fixture.cluster.instances().values().any(|instance| instance.host == host(number))
            };
            assert!((1..=3).all(|number| is_there(&fixture, number)), "one on each host");
            fixture.done(Command::HostLiveness { host: host(2), liveness });
            let peer = subnet(&fixture, 2);
            let follows = [
                (3, Finding::Service { service: service.clone() }),
                (3, Finding::Unreached { peer }),
                (1, Finding::Unheard { peer, answers: true }),
                // What it said itself before it fell silent.
                (2, Finding::Narrow { peer: subnet(&fixture, 1), mtu: 1450 }),
                (2, Finding::Clock { seconds: 60 }),
            ];
            let told = told(&fixture, &follows);
            assert_eq!(told.len(), 1, "one cause, one finding: {told:?}");
            assert!(told[0].starts_with("The coordinators get no heartbeats from the agent of h2"), "{told:?}");
        }
        // A fault of its own is told beside it.
        let mut fixture = Fixture::of_hosts(3);
        fixture.deploy(&[("web", web(|web| web.mode = Mode::Global))]);
        fixture.done(Command::HostLiveness { host: host(2), liveness: Liveness::Down { since: fixture.now } });
        assert_eq!(told(&fixture, &[(3, Finding::Clock { seconds: 60 })]).len(), 2);
    }
}
