//! doctor names a path that carries nothing in one direction within half a minute, with the likely cause, and reports
//! nothing else. On real hosts.

use std::time::Duration;

use anyhow::{Context, ensure};
use common::{
    api::{DoctorView, FindingView, PathState, PathsView},
    finding::Finding,
    name::Name,
};
use tests::{lab::Lab, wait::until};

/// The time limit for naming a silent path.
const NAMED: Duration = Duration::from_secs(30);
/// The time without a probe after which a peer counts as silent, with some reserve.
const SILENCE: Duration = Duration::from_secs(18);
/// The time limit for naming a path that carries only small packets; large probes are sent four times a minute.
const NARROW: Duration = Duration::from_secs(90);

/// The output of doctor; an error while no coordinator leads.
fn doctor(lab: &Lab) -> anyhow::Result<DoctorView> {
    let (_, said, error) = lab.try_exec("h1", &["wharf", "doctor", "-o", "json"]);
    serde_json::from_str(&said).with_context(|| format!("{said}{error}"))
}

/// Waits until doctor reports exactly these findings.
fn wait_for(lab: &Lab, limit: Duration, what: &str, is_it: impl Fn(&[FindingView]) -> bool) -> Vec<FindingView> {
    until(limit, what, || {
        let findings = doctor(lab)?.findings;
        ensure!(is_it(&findings), "{findings:?}");
        anyhow::Ok(findings)
    })
}

fn sh(lab: &Lab, host: &str, script: &str) {
    lab.exec(host, &["sh", "-c", script]).expect("it is done");
}

#[test]
fn a_broken_path_is_named_with_its_direction() {
    let lab = sound_lab();
    let (code, said, _) = lab.try_exec("h1", &["wharf", "doctor"]);
    assert!(code == 0 && said.contains("✓ 3 of 3 hosts") && said.contains("✓ 6 of 6 paths"), "{code} {said}");

    // Small packets from h1 arrive at h3, and none at h2; the other directions work.
    lose(&lab, "h2", "ip saddr 10.97.0.1 udp dport 8472 drop");
    lose(&lab, "h3", "ip saddr 10.97.0.1 udp dport 8472 udp length > 1400 drop");
    let began = std::time::Instant::now();
    let found = wait_for(&lab, NAMED, "the path is named", |findings| !findings.is_empty());
    eprintln!("a path that carries nothing in one direction was named after {:.1} s", began.elapsed().as_secs_f64());
    let [silent] = found.as_slice() else { panic!("nothing else is wrong: {found:?}") };
    assert_eq!(silent.what, "No overlay packets from h1 arrive at h2");
    assert!(silent.why[0].ends_with("UDP 8472 from 10.97.0.1 to 10.97.0.2 is lost on the way"), "{silent:?}");
    let narrow = |found: &FindingView| matches!(found.finding, Some(Finding::Narrow { mtu: 1450, .. }));
    let found = wait_for(&lab, NARROW, "the narrow path is named, too", |findings| findings.len() == 2);
    assert!(found.iter().any(|f| narrow(f) && f.what.ends_with("from h1 do not arrive at h3")), "{found:?}");
    let (code, said, _) = lab.try_exec("h1", &["wharf", "doctor"]);
    assert!(code == 1 && said.contains("✓ 3 of 3 hosts") && said.contains("· 4 of 6 paths"), "{code} {said}");
    let state = |from: &str, to: &str| match (from, to) {
        ("h1", "h2") => PathState::Silent,
        ("h1", "h3") => PathState::Narrow,
        _ => PathState::Whole,
    };
    let name = |text: &str| Name::parse(text).expect("a name");
    let hosts = ["h1", "h2", "h3"];
    let others = |to| hosts.iter().filter(move |from| **from != to).map(move |from| (name(from), state(from, to)));
    let wanted = PathsView { arriving: hosts.iter().map(|to| (name(to), others(to).collect())).collect() };
    let (code, said, error) = lab.try_exec("h1", &["wharf", "doctor", "--paths", "-o", "json"]);
    assert_eq!((code, serde_json::from_str(&said).ok()), (1, Some(wanted)), "{said}{error}");
    let (_, said, _) = lab.try_exec("h1", &["wharf", "doctor", "--paths"]);
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let table: Vec<Vec<String>> = said.lines().map(cells).collect();
    assert_eq!(table, [["FROM", "h1", "h2", "h3"].as_slice(), &["h1", "✗", "~"], &["h2", "✓", "✓"], &["h3", "✓", "✓"]]);

    for host in ["h2", "h3"] {
        sh(&lab, host, "nft delete table ip lost");
    }
    wait_for(&lab, NAMED, "all is well again", <[FindingView]>::is_empty);
}

fn lose(lab: &Lab, host: &str, rule: &str) {
    let table = format!("table ip lost {{ chain in {{ type filter hook prerouting priority -400; {rule}; }}; }}");
    sh(lab, host, &format!("nft '{table}'"));
}

/// A lab without findings.
fn sound_lab() -> Lab {
    let lab = Lab::up(3);
    wait_for(&lab, NAMED, "all is well", <[FindingView]>::is_empty);
    lab
}

#[test]
fn what_forwards_nothing_is_named() {
    let lab = sound_lab();
    // A host may answer while its forwarded packets are lost: a firewall was turned on.
    lab.deploy("web", "services: {web: {image: lab/web:1, deploy: {mode: global}}}");
    sh(&lab, "h2", "iptables -I FORWARD -j DROP");
    let found = wait_for(&lab, NAMED, "it is named", |findings| !findings.is_empty());
    let whole = |found: &[FindingView]| found.len() == 1 && found[0].what == "No instance of h2 answers h1, h3";
    if !whole(&found) {
        wait_for(&lab, NAMED, "by both of the others, and nothing else", whole);
    }
    sh(&lab, "h2", "iptables -D FORWARD -j DROP");
    wait_for(&lab, NAMED, "all is well, with instances to be asked", <[FindingView]>::is_empty);

    // A foreign rule may block only a service's address.
    sh(
        &lab,
        "h2",
        "nft 'table ip lost { chain out { type filter hook output priority -400; ip daddr 10.43.0.0/16 drop; }; }'",
    );
    let found = wait_for(&lab, NAMED, "the service is named", |findings| !findings.is_empty());
    let [astray] = found.as_slice() else { panic!("nothing else is wrong: {found:?}") };
    assert_eq!(astray.what, "On h2, the address of default/web/web (10.43.0.1) leads nowhere");
    sh(&lab, "h2", "nft delete table ip lost");
    wait_for(&lab, NAMED, "all is well, with a service to be asked", <[FindingView]>::is_empty);

    // A missing host is one finding, not one from each of the others.
    lab.run(&["kill", "h2"]).expect("its power is cut");
    let found = wait_for(&lab, NAMED, "it is missed", |findings| findings.iter().any(|f| f.what.contains("(down)")));
    let found = found.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>();
    assert_eq!(found, ["The coordinators get no heartbeats from the agent of h2 (down)"]);
}

#[test]
fn whoever_leads_knows() {
    const LOST: &str = "No overlay packets from h2 arrive at h3";
    let lab = sound_lab();
    // Only the leading coordinator has the findings: the others ask it.
    lab.run(&["stop-wharf", "h1"]).expect("the leader dies");
    until(NAMED, "another one leads", || {
        let leader = lab.leader()?;
        ensure!(leader != "h1", "it is gone");
        anyhow::Ok(())
    });
    lab.run(&["start-wharf", "h1"]).expect("it starts, and follows");
    lab.wait_until_whole(NAMED);
    lose(&lab, "h3", "ip saddr 10.97.0.2 udp dport 8472 drop");
    // The new leader may have missed h1 for a moment.
    let lost = |findings: &[FindingView]| findings.iter().map(|found| found.what.as_str()).eq([LOST]);
    wait_for(&lab, NAMED, "a follower knows it, too", lost);
    assert!(lab.leader().is_ok_and(|leader| leader != "h1"), "h1 follows");
    sh(&lab, "h3", "nft delete table ip lost");
    wait_for(&lab, NAMED, "all is well once more", <[FindingView]>::is_empty);
    what_a_pause_explains_is_no_finding(&lab);
}

fn what_a_pause_explains_is_no_finding(lab: &Lab) {
    let leader = lab.leader().expect("one leads");
    let host = lab.names().into_iter().rev().find(|host| *host != leader && host != "h1").expect("another host");
    let answers = || -> anyhow::Result<Option<bool>> {
        let number: u8 = host.trim_start_matches('h').parse()?;
        let is_it = |address: std::net::IpAddr| address == std::net::IpAddr::from([10, 97, 0, number]);
        let members = lab.members("h1")?.into_iter().find(|member| is_it(member.address.ip()));
        Ok(members.context("it is a member")?.answers)
    };
    assert_eq!(answers().expect("they are listed"), Some(true));
    sh(lab, &host, "pkill -STOP -x wharf");
    let absent = format!("The coordinators get no heartbeats from the agent of {host}");
    let is_absent = |findings: &[FindingView]| findings.len() == 1 && findings[0].what.starts_with(&absent);
    wait_for(lab, NAMED, "it is missed", |findings| is_absent(findings) && findings[0].what.contains("(down)"));
    until(NAMED, "the member does not answer", || {
        ensure!(answers()? == Some(false), "it does");
        anyhow::Ok(())
    });
    // Longer than peers go without its probes before they report a silence.
    let began = std::time::Instant::now();
    while began.elapsed() < SILENCE {
        let findings = doctor(lab).expect("h1 is there").findings;
        assert!(is_absent(&findings), "the pause is the cause of all: {findings:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
    sh(lab, &host, "pkill -CONT -x wharf");
    let began = std::time::Instant::now();
    while began.elapsed() < SILENCE {
        let findings = doctor(lab).expect("h1 is there").findings;
        assert!(findings.is_empty() || is_absent(&findings), "it was no more than a pause: {findings:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    wait_for(lab, NAMED, "all is well after it", <[FindingView]>::is_empty);
}
