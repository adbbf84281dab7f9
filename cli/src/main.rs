//! The `wharf` binary.

use std::process::ExitCode;

use clap::Parser;
use cli::{args, commands, output};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

fn main() -> ExitCode {
    if agent::guard::is_asked_for() {
        return ExitCode::from(agent::guard::run());
    }
    if agent::holder::is_asked_for() {
        return ExitCode::from(agent::holder::run());
    }
    if agent::tunnel::is_asked_for() {
        return ExitCode::from(agent::tunnel::run());
    }
    if cli::upgrade::watch::is_asked_for() {
        return ExitCode::from(cli::upgrade::watch::run());
    }
    link::private::for_owner_alone();
    let args = args::Args::parse();
    log(&args);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("✗ The async runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(args)) {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            output::problem(&problem);
            ExitCode::from(output::exit_code(problem.code))
        }
    }
}

fn log(args: &args::Args) {
    let level = match (args.command.is_service(), args.verbose) {
        (_, true) => LevelFilter::DEBUG,
        (true, false) => LevelFilter::INFO,
        (false, false) => LevelFilter::ERROR,
    };
    // openraft and quinn log much that matters only to their authors.
    let ours = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets(
            ["wharf", "cli", "agent", "agent_core", "coordinator", "coordinator_core", "link"]
                .map(|target| (target, level)),
        )
        .with_target("openraft", LevelFilter::ERROR)
        // openraft warns with every heartbeat to an absent member; our network layer logs the absence once.
        .with_target("openraft::replication", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(output::colour());
    tracing_subscriber::registry().with(lines.with_filter(ours)).init();
}
