//! The commands, one file per noun.

mod audit;
mod backup;
mod clock;
mod config;
mod ctx;
mod deploy;
mod doctor;
mod drain;
mod environments;
mod events;
mod files;
mod hosts;
mod install;
mod instances;
mod logs;
mod members;
mod project;
mod recover;
mod restore;
mod rollouts;
mod rotate;
mod stacks;
mod tokens;
mod uninstall;
mod up;
mod upgrade;

use std::collections::BTreeSet;

use clap::CommandFactory;
use common::{
    error::{Code, Problem},
    explain::list,
    name::{Name, default_environment},
};
use futures::future::LocalBoxFuture;

use crate::{
    args::{AgentCommand, Args, Command, Format},
    client::Client,
    context::Contexts,
    host::{self, Roles},
    output,
};

/// The context of a command: the cluster, the environment, and how to print results.
pub struct Session {
    /// A client for the cluster's API.
    pub client: Client,
    /// The name of the context in use, for messages.
    pub context: String,
    /// The environment from `--env`.
    pub environment: Name,
    /// Every environment that `--env` names; empty if the command line names none.
    pub environments: BTreeSet<Name>,
    /// The format from `--output`.
    pub format: Format,
    /// Whether `--yes` answers every question.
    pub yes: bool,
}

impl Session {
    fn open(args: &Args) -> Result<Session, Problem> {
        let (context, found) = Contexts::load()?.choose(args.context.as_deref())?;
        let environments: BTreeSet<Name> = args.environment.iter().cloned().collect();
        if environments.len() > 1 && !matches!(args.command, Command::Token(_)) {
            return Err(Problem::new(Code::InvalidRequest, "The command works in one environment")
                .why(format!("-e names {}", list(&args.environment)))
                .fix("Run it once for each environment"));
        }
        Ok(Session {
            client: Client::of_context(&found)?,
            context,
            environment: environments.first().cloned().unwrap_or_else(default_environment),
            environments,
            format: args.output,
            yes: args.yes,
        })
    }

    /// Where the command acts, for messages: the context, and the environment unless it is the default one.
    pub fn place(&self) -> String {
        if self.environment == default_environment() {
            return self.context.clone();
        }
        format!("{} ({})", self.context, self.environment)
    }

    /// The API path of a resource in the environment.
    pub fn in_environment(&self, rest: &str) -> String {
        format!("/api/v1/environments/{}/{rest}", self.environment)
    }
}

/// Runs a command and returns its exit code.
///
/// The future is boxed so that this crate compiles it, and the binary does not compile it again.
pub fn run(args: Args) -> LocalBoxFuture<'static, Result<u8, Problem>> {
    Box::pin(dispatch(args))
}

async fn dispatch(args: Args) -> Result<u8, Problem> {
    match &args.command {
        Command::Up(up) => return up::up(up).await,
        Command::Coordinator(service) => return service_of(service, Roles::Coordinator).await,
        Command::Agent(agent) => {
            return match &agent.command {
                AgentCommand::Run(service) => service_of(service, Roles::Agent).await,
                AgentCommand::Install(install) => install::install(install).await,
                AgentCommand::Coordinators(given) => install::coordinators(given),
                AgentCommand::ResetIdentity { state } => install::reset_identity(state, args.yes),
            };
        }
        Command::Uninstall(uninstall) => return uninstall::uninstall(uninstall, args.yes).await,
        Command::Restore(asked) => return restore::restore(asked).await,
        Command::Recover(asked) => return recover::recover(asked, args.output).await,
        Command::Ctx(ctx) => return ctx::run(ctx, args.output),
        Command::Explain { code } => return explain(code),
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "wharf", &mut std::io::stdout());
            return Ok(0);
        }
        Command::Version { client: true } => {
            upgrade::own_version(args.output);
            return Ok(0);
        }
        _ => {}
    }
    if let Command::Backup(asked) = &args.command
        && let Some(done) = backup::run_alone(asked, args.output)
    {
        return done;
    }
    if let Command::Config { files, shown, command: None } = &args.command {
        return config::config(files, *shown, args.output);
    }
    let session = Session::open(&args)?;
    let result = run_in(&session, args.command).await;
    if let Some(servers) = session.client.learned() {
        Contexts::load()?.update_servers(&session.context, servers)?;
    }
    learn_root(&session).await;
    result
}

/// Stores the cluster's root if it is another one than the context has. The command has had its result before.
async fn learn_root(session: &Session) {
    let learning = async {
        let (_, context) = Contexts::load()?.choose(Some(&session.context))?;
        match session.client.learned_root(&context).await? {
            Some(root) => Contexts::load()?.update_root(&session.context, root),
            None => Ok(()),
        }
    };
    if let Err(problem) = learning.await {
        output::note(format!("! the new root of {} could not be stored: {}", session.context, problem.what));
    }
}

async fn run_in(session: &Session, command: Command) -> Result<u8, Problem> {
    match command {
        Command::Deploy(deploy) => deploy::deploy(session, deploy).await,
        Command::Diff(files) => deploy::diff(session, &files).await,
        Command::Ls => stacks::ls(session).await,
        Command::Rm { stack, wait } => stacks::rm(session, stack, wait).await,
        Command::Scale { target } => stacks::scale(session, &target).await,
        Command::History { stack } => rollouts::history(session, &stack).await,
        Command::Rollback(rollback) => rollouts::rollback(session, rollback).await,
        Command::Rebalance { target, plan } => rollouts::rebalance(session, target, plan).await,
        Command::Retry { service } => rollouts::retry(session, &service).await,
        Command::Rollout(rollout) => rollouts::rollout(session, rollout).await,
        Command::Ps { target } => instances::ps(session, target.as_deref()).await,
        Command::Logs(logs) => logs::logs(session, logs).await,
        Command::Env(command) => environments::run(session, command).await,
        Command::Host(host) => hosts::run(session, host).await,
        Command::Member(member) => members::run(session, member).await,
        Command::Token(token) => tokens::tokens(session, token).await,
        Command::Secret(secret) => files::secrets(session, secret).await,
        Command::Config { command: Some(command), .. } => files::configs(session, command).await,
        Command::Registry(registry) => tokens::registries(session, registry).await,
        Command::Backup(asked) => backup::run(session, asked).await,
        Command::Events { subject, follow } => events::events(session, subject, follow).await,
        Command::Audit(command) => audit::run(session, command).await,
        Command::Doctor { paths: false } => doctor::doctor(session).await,
        Command::Doctor { paths: true } => doctor::paths(session).await,
        Command::Clock { command } => clock::run(session, command).await,
        Command::Upgrade(asked) => upgrade::run(session, asked).await,
        Command::Rotate(command) => rotate::run(session, command).await,
        Command::Status => members::status(session).await,
        Command::Version { .. } => upgrade::version(session).await,
        Command::Up(_)
        | Command::Coordinator(_)
        | Command::Agent(_)
        | Command::Uninstall(_)
        | Command::Restore(_)
        | Command::Recover(_)
        | Command::Ctx(_)
        | Command::Config { command: None, .. }
        | Command::Explain { .. }
        | Command::Completion { .. } => Ok(0),
    }
}

async fn service_of(service: &crate::args::Service, roles: Roles) -> Result<u8, Problem> {
    let keyring = host::keyring(service)?.ok_or_else(|| {
        Problem::new(Code::NotFound, "This host does not belong to a cluster")
            .why(format!("there is no identity in {}", service.state.display()))
            .fix("Start a new cluster: wharf up")
            .fix("Or join one: run wharf host add on it, and paste the printed line here")
    })?;
    host::run(service, keyring, roles).await.map(|()| 0)
}

fn explain(text: &str) -> Result<u8, Problem> {
    let wanted = text.to_uppercase();
    let code = Code::ALL.iter().find(|code| code.as_str() == wanted);
    let code = code.ok_or_else(|| {
        Problem::new(Code::NotFound, format!("There is no code {text:?}")).fix("Codes look like this: E0107")
    })?;
    output::line(&format!("{code}: {}", code.explanation()));
    Ok(0)
}
