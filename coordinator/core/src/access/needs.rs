//! What a command needs of the token that asks for it: the one list, for every command there is.

use common::{
    explain,
    id::StackId,
    name::Name,
    role::{Permission, Resource},
    spec::{Privilege, StackSpec, VolumeSpec},
};

use crate::Command;

/// A permission, and what it is needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The permission.
    pub permission: Permission,
    /// What it is needed for.
    pub resource: Resource,
    /// What in the command needs it, where that is not obvious.
    pub because: Option<String>,
}

impl Need {
    fn of(permission: Permission, resource: Resource) -> Need {
        Need { permission, resource, because: None }
    }
}

/// All that a command needs. No token may ask for a command that has none: such a command is the cluster's own.
pub fn needs(command: &Command) -> Vec<Need> {
    use Permission::{Deploy, Drain, Manage, Operate};
    match command {
        Command::PutStack { id, spec, .. } => deploying(id, spec),
        Command::RemoveStack(id) => vec![Need::of(Deploy, within(id))],
        Command::ScaleService { id: service, .. }
        | Command::MoveRollout { service, .. }
        | Command::Promote { service, .. }
        | Command::RollBack { service, .. }
        | Command::Retry(service) => vec![Need::of(Operate, within(&service.stack))],
        Command::Rebalance { services } => services.iter().map(|id| Need::of(Operate, within(&id.stack))).collect(),
        Command::PutFile { id, .. } | Command::RemoveFile(id) => {
            vec![Need::of(Deploy, Resource::Environment(id.environment.clone()))]
        }
        Command::PutKey { environment, .. } | Command::RemoveKey { environment, .. } => {
            vec![Need::of(Deploy, Resource::Environment(environment.clone()))]
        }
        Command::PutEnvironment(name) | Command::RemoveEnvironment(name) => {
            vec![Need::of(Manage, Resource::Environment(name.clone()))]
        }
        Command::SetAvailability { .. } => vec![Need::of(Drain, Resource::Cluster)],
        Command::PutToken { .. } | Command::PutApiToken { .. } | Command::RemoveApiToken(_) => {
            vec![Need::of(Manage, Resource::Covered)]
        }
        Command::PutSettings(_)
        | Command::SetClockBack { .. }
        | Command::PutJoinToken(_)
        | Command::RevokeJoinToken(_)
        | Command::PutRegistry(_)
        | Command::RemoveRegistry(_)
        | Command::PutHostLabels { .. }
        | Command::Oversubscribe { .. }
        | Command::AcceptHost { .. }
        | Command::RemoveHost(_)
        | Command::RotateSealingKey { .. }
        | Command::RotateJoinKey { .. }
        | Command::RotateRoot(_)
        | Command::MoveRoot { .. }
        | Command::PutBackupKey { .. }
        | Command::PutBackupSchedule(_)
        | Command::PutReplacingToken { .. }
        | Command::RemoveMember(_)
        | Command::BeginUpgrade(_)
        | Command::PauseUpgrade
        | Command::ResumeUpgrade
        | Command::AbortUpgrade => vec![Need::of(Manage, Resource::Cluster)],
        Command::Initialize(_)
        | Command::Tick { .. }
        | Command::EndRebalance(_)
        | Command::PinImage { .. }
        | Command::Admit(_)
        | Command::HostReported { .. }
        | Command::HostSaid { .. }
        | Command::RefuseClone(_)
        | Command::HostConditions { .. }
        | Command::HostLeaves(_)
        | Command::HostLiveness { .. }
        | Command::Place(_)
        | Command::Desire { .. }
        | Command::Observe { .. }
        | Command::Judge { .. }
        | Command::MemberAddress { .. }
        | Command::MemberReached { .. }
        | Command::MemberUnderstands { .. }
        | Command::RaiseLevel(_)
        | Command::SealAuthority { .. }
        | Command::HoldsSealingKey { .. }
        | Command::HostTrusts { .. }
        | Command::UseSealingKey(_)
        | Command::Reseal(_)
        | Command::EndSealingKey(_)
        | Command::BackupEnded { .. }
        | Command::ForgetMember(_)
        | Command::UpgradeHost { .. }
        | Command::HostRuns { .. }
        | Command::EndUpgrade => Vec::new(),
    }
}

fn within(stack: &StackId) -> Resource {
    Resource::Environment(stack.environment.clone())
}

/// A stack needs its own environment, each one that a service joins, and the whole cluster if a container could leave
/// its environment by way of its host.
fn deploying(id: &StackId, spec: &StackSpec) -> Vec<Need> {
    let need = |resource, because: String| Need { permission: Permission::Deploy, resource, because: Some(because) };
    let mut all = vec![Need::of(Permission::Deploy, within(id))];
    for (name, service) in &spec.services {
        let joined = |environment: &Name| {
            need(Resource::Environment(environment.clone()), format!("{name} joins the environment {environment}"))
        };
        all.extend(service.joins.iter().map(joined));
        let privilege = service.privileges().first().map(|asked| format!("{name} {}", in_words(asked)));
        let log = service.containers().map(|(_, container)| container.log.driver());
        let log = log.filter(|driver| !OWN_LOGS.contains(driver)).map(|driver| {
            format!("{name} has the log driver {driver}, which its host's Docker connects to something else")
        });
        all.extend(privilege.into_iter().chain(log).map(|because| need(Resource::Cluster, because)));
    }
    let foreign = spec.volumes.iter().filter(|(_, volume)| is_foreign(volume));
    all.extend(foreign.map(|(name, _)| {
        need(Resource::Cluster, format!("the volume {name} has a name, a driver or options of its own at Docker"))
    }));
    all
}

/// Log drivers that keep the output on the host.
const OWN_LOGS: [&str; 3] = ["json-file", "local", "none"];

/// Whether a volume could be another stack's, or show something else of the host or the network.
fn is_foreign(volume: &VolumeSpec) -> bool {
    volume.external || volume.name.is_some() || volume.driver.is_some() || !volume.driver_opts.is_empty()
}

fn in_words(privilege: &Privilege) -> String {
    explain::privilege(privilege).unwrap_or_else(|| match privilege {
        Privilege::WritesHost { path } | Privilege::ReadsHost { path } => format!("mounts {path} of its host"),
        _ => "asks for a privilege on its host".to_owned(),
    })
}
