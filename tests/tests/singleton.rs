//! A strict singleton on real hosts that are cut off and whose agents die: two instances must never run. `WHARF_ROUNDS`
//! selects the long form.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(30);

/// A program that writes its incarnation and the time twenty times a second to a shared folder. The hosts share a
/// kernel, and so its time since boot.
fn writes_to(folder: &str) -> String {
    format!(
        "
services:
  one:
    image: lab/web:1
    x-strict-singleton: true
    stop_grace_period: 1s
    command: [/bin/busybox, sh, -c, 'while :; do echo \"$$WHARF_INCARNATION $$(/bin/busybox cat /proc/uptime)\" >>/shared/log; /bin/busybox usleep 50000; done']
    volumes: ['{folder}:/shared']
"
    )
}

/// The first and last write of each incarnation, in hundredths of a second.
fn lives(log: &PathBuf) -> anyhow::Result<BTreeMap<u64, (u64, u64)>> {
    let text = std::fs::read_to_string(log)?;
    let mut lives = BTreeMap::new();
    // The last line may be incomplete.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let mut words = line.split(' ');
        let incarnation = words.next().context("an incarnation")?.parse()?;
        let at: u64 = words.next().context("a time")?.replace('.', "").parse()?;
        let life = lives.entry(incarnation).or_insert((at, at));
        *life = (at.min(life.0), at.max(life.1));
    }
    Ok(lives)
}

#[test]
fn a_strict_singleton_never_runs_twice() {
    let rounds: u64 = std::env::var("WHARF_ROUNDS").map_or(3, |text| text.parse().expect("a number"));
    // A host that comes and goes three times gets no new instances for a while, so no lab is reused more often.
    for first in (0..rounds).step_by(3) {
        lose_it(first..rounds.min(first + 3));
    }
}

fn lose_it(rounds: std::ops::Range<u64>) {
    let lab = Lab::up(3);
    let folder = PathBuf::from(lab.put_file("h1", "log", "")).with_file_name("");
    let log = folder.join("log");
    lab.deploy("one", &writes_to(&folder.display().to_string()));
    let newest = || lives(&log).map(|lives| lives.into_keys().max().unwrap_or(0));
    for round in rounds.clone() {
        let before = until(SOON, "it writes", || {
            let newest = newest()?;
            ensure!(newest > round - rounds.start, "incarnation {newest}");
            anyhow::Ok(newest)
        });
        let hosts = lab.all_running();
        let host = hosts.iter().find(|(_, containers)| !containers.is_empty()).expect("it runs").0.clone();
        let others: Vec<String> = lab.names().into_iter().filter(|name| *name != host).collect();
        match round % 3 {
            // The agent runs but is cut off.
            0 => drop(lab.run(&["cut", &host, &others.join(",")]).expect("it is cut off")),
            // The agent dies, and the host is cut off.
            1 => {
                lab.run(&["stop-wharf", &host]).expect("it is killed");
                lab.run(&["cut", &host, &others.join(",")]).expect("it is cut off");
            }
            // The network works, but the agent is dead.
            _ => drop(lab.run(&["stop-wharf", &host]).expect("it is killed")),
        }
        let after = until(SOON, "another one writes", || {
            let newest = newest()?;
            ensure!(newest > before, "incarnation {newest}");
            anyhow::Ok(newest)
        });
        let lives = lives(&log).expect("the log is whole");
        println!(
            "round {round}: {host} lost incarnation {before}; {after} began {} ms after its last word",
            (lives[&after].0 - lives[&before].1) * 10
        );
        lab.run(&["heal"]).expect("the cut is healed");
        if round % 3 != 0 {
            lab.run(&["start-wharf", &host]).expect("it starts");
        }
        lab.wait_until_whole(SOON);
        lab.wait_for_running(SOON, 1);
    }
    let lives: Vec<(u64, (u64, u64))> = lives(&log).expect("the log is whole").into_iter().collect();
    assert!(lives.len() > rounds.count(), "{lives:?}");
    for pair in lives.windows(2) {
        let [(earlier, (_, last)), (later, (first, _))] = pair else { continue };
        assert!(last < first, "{earlier} wrote until {last}, {later} since {first}: {lives:?}");
    }
}
