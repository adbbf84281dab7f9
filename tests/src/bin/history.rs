//! Rounds of clients and faults against three coordinators, and a checker of what the clients saw. `run` makes
//! namespaces of its own for network and processes, so that nothing outlives it; that needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use tests::{
    linear::{
        checker::{self, Verdict},
        clients::Reads,
        faults::{self, Network},
        history::{Line, initial},
        round::{Report, Round},
    },
    processes::Group,
};

/// The exit code when something was seen that cannot have happened.
const VIOLATION: u8 = 3;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs rounds, and prints a line of JSON for each. Ends with 3 if a history cannot have happened. With stale reads
    /// it stops there.
    Run(Run),
    /// Checks a history that a round has kept.
    Check { file: PathBuf },
}

#[derive(clap::Args)]
struct Run {
    /// The binary of wharf.
    #[arg(long)]
    wharf: PathBuf,
    /// Where the histories and logs of rounds are kept in which something was wrong.
    #[arg(long)]
    keep: PathBuf,
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// The seed of the first round; the next ones count on. The time by default.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many rounds use the same three coordinators.
    #[arg(long, default_value_t = 10)]
    together: u64,
    #[arg(long, value_enum, default_value_t = Reads::Linearizable)]
    reads: Reads,
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        What::Check { file } => check(&file),
        What::Run(run) if std::process::id() == 1 => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(rounds(&run))
        }
        What::Run(_) => inside(),
    }
}

/// Runs this again in namespaces of its own. When it ends, however it ends, the kernel ends all that it started.
fn inside() -> anyhow::Result<ExitCode> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]);
    let status = unshare.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).status().context("unshare")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

async fn rounds(run: &Run) -> anyhow::Result<ExitCode> {
    let network = Network::take()?;
    let first = match run.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let mut reports: Vec<Report> = Vec::new();
    let mut number = 0;
    while number < run.rounds {
        let folder = tempfile::tempdir()?;
        let mut group = Group::at(folder.path(), &run.wharf, faults::addresses()).await;
        let mut is_well = true;
        let end = run.rounds.min(number + run.together.max(1));
        while is_well && number < end {
            let (lasts, seed) = (Duration::from_secs(run.seconds), first + number);
            let round = Round { seed, lasts, reads: run.reads, folder: &run.keep };
            let report = round.run(&mut group, &network).await?;
            println!("{}", serde_json::to_string(&report)?);
            report.violations.iter().for_each(|text| eprintln!("seed {seed}: {text}"));
            is_well = report.violations.is_empty();
            reports.push(report);
            // One wrong read that is found is enough.
            number = if is_well || run.reads == Reads::Linearizable { number + 1 } else { run.rounds };
        }
    }
    let wrong = reports.iter().filter(|report| !report.violations.is_empty()).count();
    eprintln!("{}", summary(&reports, wrong));
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(VIOLATION) })
}

fn summary(reports: &[Report], wrong: usize) -> String {
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    let most = |of: fn(&Report) -> u64| reports.iter().map(of).max().unwrap_or(0);
    format!(
        "{} rounds, {} faults: {} operations answered, {} unknown, {} refused, {} repeated; {wrong} rounds with a violation; at most {} ms without an acknowledged write, {} ms until all were back",
        reports.len(),
        sum(|report| report.faults),
        sum(|report| report.tally.answered),
        sum(|report| report.tally.unknown),
        sum(|report| report.tally.refused),
        sum(|report| report.tally.repeated),
        most(|report| report.longest_silence_ms),
        most(|report| report.back_after_ms),
    )
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut objects = std::collections::BTreeMap::<String, Vec<_>>::new();
    for line in text.lines() {
        let Line { object, operation } = serde_json::from_str(line)?;
        objects.entry(object).or_default().push(operation);
    }
    ensure!(!objects.is_empty(), "{} is empty", file.display());
    let mut is_wrong = false;
    for (object, operations) in objects {
        let verdict = checker::check(&operations, initial(&object));
        println!("{object}: {} operations: {verdict:?}", operations.len());
        is_wrong |= verdict != Verdict::Linearizable;
    }
    Ok(if is_wrong { ExitCode::from(VIOLATION) } else { ExitCode::SUCCESS })
}
