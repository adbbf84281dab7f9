//! What hosts say of themselves that does not count, or cannot be checked.

use common::{api::FindingView, host::Liveness};

use crate::state::Host;

/// All of it for one host.
pub fn of(host: &Host) -> Vec<FindingView> {
    [refused(host), waiting(host), elsewhere(host)].into_iter().flatten().collect()
}

fn finding(host: &Host, what: String, why: Vec<String>, fix: String) -> FindingView {
    FindingView { host: host.name.clone(), finding: None, what, why, fix: vec![fix] }
}

fn refused(host: &Host) -> Option<FindingView> {
    let (name, why) = (&host.name, host.claims.refused.clone()?);
    let fix = format!("Correct it on {name}; if {name} is gone, or is not yours any more: wharf host rm {name}");
    Some(finding(host, format!("The coordinators refuse what {name} says of itself"), vec![why], fix))
}

fn waiting(host: &Host) -> Option<FindingView> {
    let (name, claims) = (&host.name, host.claims.in_words());
    if claims.is_empty() {
        return None;
    }
    let fix = format!("If you changed the machine: wharf host accept {name}; else find out who did");
    Some(finding(host, format!("{name} says that it is more than it was, or another machine"), claims, fix))
}

/// A host whose connection comes from another address than others are to use: no harm behind NAT.
fn elsewhere(host: &Host) -> Option<FindingView> {
    let (name, from, address) = (&host.name, host.claims.from?, host.address()?);
    let is_shown = from == address || from.is_loopback() || host.claims.waiting.is_some();
    if is_shown || host.liveness != Liveness::Ready {
        return None;
    }
    let why = format!("its connection comes from {from}, so the coordinators cannot check that {address} is its own");
    let fix = format!("Behind NAT, or with --advertise, that is right. Else correct the address on {name}");
    Some(finding(
        host,
        format!("{name} has others reach it at an address that its connection does not show"),
        vec![why],
        fix,
    ))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use common::{host::HostFacts, network::WireguardKey, quantity::MilliCpu};

    use crate::{
        Command,
        testing::{Fixture, facts, host},
        view::{self, Found},
    };

    #[test]
    fn claims_that_do_not_count_are_named_with_what_to_do() {
        let mut fixture = Fixture::of_hosts(3);
        let mut say = |number: u8, change: &dyn Fn(&mut HostFacts), from: Option<IpAddr>| {
            let mut facts = facts(number);
            change(&mut facts);
            fixture.apply(Command::HostSaid { host: host(number), facts, machine: [number; 16], from });
        };
        say(1, &|facts| facts.wireguard = Some(WireguardKey([1; 32])), None);
        say(2, &|facts| facts.wireguard = Some(WireguardKey([1; 32])), None);
        say(3, &|facts| facts.cpu = MilliCpu(9000), Some([192, 0, 2, 1].into()));
        let told = |fixture: &Fixture| {
            let view = view::doctor(&fixture.cluster, &Found::new());
            view.findings.into_iter().map(|f| format!("{}: {}", f.what, f.why.join("; "))).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&fixture),
            [
                "The coordinators refuse what h2 says of itself: its WireGuard key is that of h1",
                "h3 says that it is more than it was, or another machine: cores: 9 instead of 2",
            ]
        );
        let expect = fixture.cluster.hosts()[&host(3)].claims.waiting.clone().expect("it waits");
        fixture.done(Command::AcceptHost { host: host(3), expect });
        let last = told(&fixture).pop().expect("there is more");
        assert!(
            last.ends_with(
                "its connection comes from 192.0.2.1, so the coordinators cannot check that 10.0.0.3 is its own"
            ),
            "{last}"
        );
    }
}
