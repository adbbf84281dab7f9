//! One round: clients at work, faults meanwhile, all of them healed, and then what every member knows.

use std::{fs, io::Write, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use super::{
    clients::{Reads, Shared, Worker},
    faults::{Faults, MEMBERS, Network},
    history::{History, Recorder, STACK, Tally},
    model::Input,
};
use crate::processes::Group;

const CLIENTS: usize = 5;
/// The time for every member to take part again after the last fault.
const BACK: Duration = Duration::from_secs(120);
/// A round is kept, too, if no write was acknowledged for longer than this.
const SLOW: Duration = Duration::from_secs(8);

/// What a round does.
pub struct Round<'a> {
    /// What all random choices follow from.
    pub seed: u64,
    /// For how long clients work.
    pub lasts: Duration,
    /// How they read.
    pub reads: Reads,
    /// Where its history is kept if something is wrong.
    pub folder: &'a Path,
}

/// What came of a round.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The round's seed.
    pub seed: u64,
    /// How operations ended.
    #[serde(flatten)]
    pub tally: Tally,
    /// How many faults there were.
    pub faults: usize,
    /// The longest time without an acknowledged write, faults included.
    pub longest_silence_ms: u64,
    /// How long after the last fault every member acknowledged a write.
    pub back_after_ms: u64,
    /// What cannot have happened.
    pub violations: Vec<String>,
}

impl Round<'_> {
    /// Runs the round and judges its history.
    pub async fn run(&self, group: &mut Group, network: &Network) -> anyhow::Result<Report> {
        let (endpoint, round) = (group.endpoint(), format!("{:x}", self.seed));
        let shared = Arc::new(Shared { endpoint, round, reads: self.reads, recorder: Recorder::begin() });
        let end = Instant::now() + self.lasts;
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(Worker::new(number, shared.clone(), self.seed).work(end));
        }
        let mut faults = Faults::new(network, group, self.seed);
        let broken = faults.run(group, &shared.recorder, end).await;
        let back = self.all_are_back(&shared).await;
        clients.join_all().await;
        self.read_everything(&shared).await;
        let history = shared.recorder.end();
        let mut violations = history.violations();
        violations.append(&mut faults.complaints);
        violations.extend(broken.err().map(|error| format!("{error:#}")));
        let back_after = back.unwrap_or_else(|error| {
            violations.push(format!("{error:#}"));
            BACK
        });
        let is_slow = Duration::from_micros(history.longest_silence()).max(back_after) > SLOW;
        if is_slow || !violations.is_empty() {
            self.keep(group, (&history, &faults.events, &violations))?;
        }
        Ok(Report {
            seed: self.seed,
            tally: history.tally,
            faults: faults.events.iter().filter(|line| line.contains(" begins ")).count(),
            longest_silence_ms: history.longest_silence() / 1000,
            back_after_ms: back_after.as_millis() as u64,
            violations,
        })
    }

    /// Waits until every member has acknowledged a write.
    async fn all_are_back(&self, shared: &Arc<Shared>) -> anyhow::Result<Duration> {
        let began = Instant::now();
        for member in 0..MEMBERS {
            let path = format!("/api/v1/environments/default/keys/back-{}", shared.round);
            let mut last = anyhow::anyhow!("it was not asked");
            loop {
                if began.elapsed() > BACK {
                    return Err(last.context(format!("member {} does not come back within {BACK:?}", member + 1)));
                }
                let asked = async {
                    let mut client = shared.endpoint.connect(member).await?;
                    let body = bytes::Bytes::from_static(b"0");
                    let patience = Duration::from_secs(5);
                    let (status, body) = client.send(hyper::Method::PUT, &path, body, None, patience).await?;
                    if !status.is_success() {
                        bail!("{status}: {}", String::from_utf8_lossy(&body));
                    }
                    Ok(())
                };
                match tokio::time::timeout(Duration::from_secs(6), asked).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => last = error,
                    Err(_) => last = anyhow::anyhow!("no connection"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(began.elapsed())
    }

    /// Reads each object through each member: what is lost shows by now.
    async fn read_everything(&self, shared: &Arc<Shared>) {
        let mut reader = Worker::new(CLIENTS, shared.clone(), self.seed);
        for object in shared.objects() {
            for member in 0..MEMBERS {
                let input = if object.starts_with(STACK) { Input::Look } else { Input::Get };
                reader.perform(&object, input, member).await;
            }
        }
    }

    /// Keeps the history, the faults and the members' logs.
    fn keep(&self, group: &Group, found: (&History, &[String], &[String])) -> anyhow::Result<()> {
        let (history, faults, violations) = found;
        let folder = self.folder.join(format!("seed-{}", self.seed));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("faults"), faults.join("\n"))?;
        fs::write(folder.join("violations"), violations.join("\n"))?;
        let mut file = fs::File::create(folder.join("history"))?;
        for line in history.lines() {
            writeln!(file, "{}", serde_json::to_string(&line)?)?;
        }
        for (number, member) in group.members.iter().enumerate() {
            for entry in fs::read_dir(member.folder())? {
                let path = entry?.path();
                let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
                if name.ends_with(".log") {
                    fs::copy(&path, folder.join(format!("h{}-{name}", number + 1)))?;
                }
            }
        }
        Ok(())
    }
}
