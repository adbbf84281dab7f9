//! The clocks of the coordinators, and what is wrong with them.

use common::{
    api::{ClockView, FindingView, MemberClock},
    id::MemberId,
    name::Name,
    time::Span,
};

use crate::{
    State,
    clock::{APART, Agreement, Clocks, apart},
};

/// The time of the cluster, and how the clocks of its coordinators differ from what most of them say.
pub fn clock(cluster: &State, clocks: &Clocks) -> ClockView {
    let members = cluster.members().iter().map(|(id, member)| MemberClock {
        member: *id,
        host: member.host,
        ahead: clocks.differences.get(id).copied(),
    });
    ClockView {
        state: cluster.clock(),
        clocks: clocks.agreement.time(),
        certain: matches!(clocks.agreement, Agreement::Certain(_)),
        members: members.collect(),
    }
}

/// What is wrong with the clocks of the coordinators, and with the time of the cluster.
pub fn clock_findings(cluster: &State, clocks: &Clocks) -> Vec<FindingView> {
    let host = |id: MemberId| {
        let member = cluster.members().get(&id)?;
        Some(cluster.hosts().get(&member.host)?.name.clone())
    };
    let is_apart = |difference: &i64| difference.unsigned_abs() > APART.0;
    let wrong = clocks.differences.iter().filter(|(_, difference)| is_apart(difference));
    let certain = matches!(clocks.agreement, Agreement::Certain(_));
    let mut findings: Vec<FindingView> =
        wrong.filter_map(|(id, difference)| Some(wrong_clock(&host(*id)?, *difference, certain))).collect();
    let time = clocks.agreement.time();
    if (certain || clocks.voters <= 1) && cluster.clock() > time && apart(cluster.clock(), time) > APART {
        let leader = cluster.members().keys().next().and_then(|id| host(*id));
        findings.extend(leader.map(|host| FindingView {
            host,
            finding: None,
            what: format!(
                "The time of the cluster is {} ahead of its coordinators' clocks",
                cluster.clock().since(time)
            ),
            why: vec![
                "a coordinator with a wrong clock has led it; what should happen at a time happens late".to_owned(),
            ],
            fix: vec!["Set it back: wharf clock repair".to_owned()],
        }));
    }
    findings
}

fn wrong_clock(host: &Name, difference: i64, certain: bool) -> FindingView {
    let span = Span(difference.unsigned_abs() / 1000 * 1000);
    let word = if difference > 0 { "ahead of" } else { "behind" };
    let (what, why) = match certain {
        true => (
            format!("The clock of {host} is {span} {word} that of most coordinators"),
            "its coordinator uses their time, and leads only if no other can",
        ),
        false => (
            format!("The clock of {host} is {span} {word} that of another coordinator"),
            "two clocks do not say which of them is wrong; the time of the cluster goes on without following either",
        ),
    };
    let fix = format!("Synchronise the coordinators with a time server: timedatectl on {host}");
    FindingView { host: host.clone(), finding: None, what, why: vec![why.to_owned()], fix: vec![fix] }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::time::Timestamp;

    use super::*;
    use crate::state::Member;
    use crate::testing::{Fixture, admission, host};

    const HOUR: i64 = 3_600_000;

    fn findings(differences: &[i64], state: u64, agreement: fn(Timestamp) -> Agreement) -> Vec<String> {
        let mut fixture = Fixture::of_hosts(3);
        let member = |number: u8| (MemberId(number.into()), Member::new(host(number), admission(number).address));
        fixture.cluster.set_members((1..=differences.len() as u8).map(member).collect(), 3);
        let time = Timestamp(fixture.cluster.clock().0 - state);
        let differences: BTreeMap<_, _> = (1..).map(MemberId).zip(differences.iter().copied()).collect();
        let voters = differences.len();
        let clocks = Clocks { agreement: agreement(time), differences, voters };
        clock_findings(&fixture.cluster, &clocks).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn the_odd_clock_is_named() {
        assert_eq!(findings(&[0, 20_000, -30_000], 0, Agreement::Certain), Vec::<String>::new());
        assert_eq!(
            findings(&[0, HOUR, -2 * HOUR], 0, Agreement::Certain),
            [
                "The clock of h2 is 1h ahead of that of most coordinators",
                "The clock of h3 is 2h behind that of most coordinators"
            ]
        );
        assert_eq!(
            findings(&[0, HOUR], 0, Agreement::Vague),
            ["The clock of h2 is 1h ahead of that of another coordinator"]
        );
        let ahead = ["The time of the cluster is 2m ahead of its coordinators' clocks"];
        assert_eq!(findings(&[0, 0, 0], 120_000, Agreement::Certain), ahead);
        assert_eq!(findings(&[0], 120_000, Agreement::Vague), ahead);
        assert_eq!(findings(&[0, 0], 120_000, Agreement::Vague), Vec::<String>::new());
    }
}
