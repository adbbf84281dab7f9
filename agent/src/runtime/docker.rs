//! Docker Engine, by its API.

pub mod cleanup;
mod devices;
mod images;
mod logs;
mod network;
mod ready;
mod render;
mod version;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use agent_core::{
    ActionResult, Container, ContainerState,
    images::{Fill, HostImage, ReadyImage},
    network::HostBridge,
};
use async_trait::async_trait;
use bollard::{
    errors::Error,
    models::ContainerSummary,
    query_parameters::{
        CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    },
};
use common::{
    assignment::AssignedInstance,
    id::{ClusterId, InstanceId},
    instance::Health,
    output::{LastLines, MOST_LINES},
    part::{Part, PartId},
    quantity::Bytes,
    spec::{ContainerSpec, NetworkMode},
    time::{Span, Timestamp},
    wire::{LogFrame, LogRequest},
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Notify, mpsc};
use tracing::debug;

use super::{ContainerRuntime, EngineFacts, Removed};
use crate::files::Places;
use network::DockerNetwork;
use render::{CLUSTER_LABEL, INSTANCE_LABEL, PART_LABEL, Site};

/// Docker's usual socket.
pub const SOCKET: &str = "/var/run/docker.sock";
/// How long Docker may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take for a list or an inspection; a slower Docker counts as unknown.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take for the last lines of a container that has ended: the report of its failure waits for them.
const TAIL_TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of them that the agent holds.
const TAIL_BYTES: usize = 64 << 10;
/// How many containers the agent inspects at a time.
const INSPECTIONS: usize = 8;

/// A Docker Engine.
pub struct Docker {
    socket: String,
    /// Made when the engine answers: a host may boot faster than its Docker. Made again after the engine has gone away:
    /// another version may have taken its place.
    client: Mutex<Option<bollard::Docker>>,
    cluster: ClusterId,
    places: Places,
    /// The containers as inspected, each with the short form that the list showed then.
    inspected: Mutex<HashMap<String, (String, Container)>>,
    network: DockerNetwork,
    /// Where it keeps images and containers.
    root: OnceLock<PathBuf>,
    /// The ids of the images that this process has pulled.
    pulled: Mutex<BTreeSet<String>>,
}

impl Docker {
    /// The engine behind a socket. Nothing is sent yet.
    pub fn new(socket: &str, cluster: ClusterId, places: Places) -> Docker {
        Docker {
            socket: socket.to_owned(),
            client: Mutex::default(),
            cluster,
            places,
            inspected: Mutex::default(),
            network: DockerNetwork::default(),
            root: OnceLock::new(),
            pulled: Mutex::default(),
        }
    }

    async fn client(&self) -> Result<bollard::Docker, Error> {
        let known = self.known_client().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = version::connect(&self.socket).await?;
        *self.known_client() = Some(client.clone());
        Ok(client)
    }

    fn known_client(&self) -> MutexGuard<'_, Option<bollard::Docker>> {
        self.client.lock().expect("no panic while it is held")
    }

    fn inspected(&self) -> MutexGuard<'_, HashMap<String, (String, Container)>> {
        self.inspected.lock().expect("no panic while it is held")
    }

    fn site(&self) -> Site<'_> {
        Site { cluster: self.cluster, places: &self.places }
    }

    fn forget(&self, container: &str) {
        self.inspected().remove(container);
    }

    fn own_label(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{CLUSTER_LABEL}={}", self.cluster)])])
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>, String> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.own_label()).build();
        let client = self.client().await.map_err(reason)?;
        let listed = tokio::time::timeout(OBSERVE_TIMEOUT, client.list_containers(Some(options))).await;
        listed.map_err(|_| format!("Docker did not answer within {OBSERVE_TIMEOUT:?}"))?.map_err(|e| e.to_string())
    }

    /// Inspects a container unless the list shows that nothing has changed since.
    async fn inspect(&self, id: &str, short: String) -> Result<Option<Container>, String> {
        if let Some((_, container)) = self.inspected().get(id).filter(|(known, _)| *known == short) {
            return Ok(Some(container.clone()));
        }
        let client = self.client().await.map_err(reason)?;
        let answered = tokio::time::timeout(OBSERVE_TIMEOUT, client.inspect_container(id, None)).await;
        let inspected = match answered.map_err(|_| format!("Docker did not answer within {OBSERVE_TIMEOUT:?}"))? {
            Ok(inspected) => inspected,
            Err(error) if status(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let known = self.inspected().get(id).map(|(_, known)| known.image_digest.clone());
        let image_digest = match (known, &inspected.image) {
            (Some(digest), _) => digest,
            (None, Some(image)) => self.digest_of(image).await,
            (None, None) => None,
        };
        let state = inspected.state.unwrap_or_default();
        let output = output_of_check(&state);
        let settings = inspected.network_settings.unwrap_or_default();
        let published = network::published(&settings.ports.unwrap_or_default());
        let networks = settings.networks.unwrap_or_default();
        let (address, sender) = (network::address_of(&networks), network::sender_of(&networks, state.pid));
        let state = state_of(state);
        let container = Container { id: id.to_owned(), state, image_digest, address, sender, published, output };
        self.inspected().insert(id.to_owned(), (short, container.clone()));
        Ok(Some(container))
    }

    /// Wakes for every event of ours until the stream ends.
    async fn listen(&self, wake: &Notify) -> Result<(), Error> {
        let mut filters = self.own_label();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let client = self.client().await?;
        let mut events = std::pin::pin!(client.events(Some(options)));
        while let Some(event) = events.next().await {
            let event = event?;
            // Health checks announce each of their runs; only their verdict counts.
            if event.action.as_deref().is_some_and(|action| action.starts_with("exec_")) {
                continue;
            }
            if let Some(id) = event.actor.and_then(|actor| actor.id) {
                self.forget(&id);
            }
            wake.notify_one();
        }
        Ok(())
    }

    async fn try_start(&self, container: &str) -> Result<(), Error> {
        // The network may have been pruned while no container of it ran.
        self.ensure_network().await?;
        self.forget(container);
        let started = self.client().await?.start_container(container, None).await;
        self.forget(container);
        started
    }

    async fn try_stop(&self, container: &str, grace: Span) -> Result<(), Error> {
        let seconds = i32::try_from(grace.0.div_ceil(1000)).unwrap_or(i32::MAX);
        // Docker answers when the program has ended; that takes as long as the grace time.
        let client = self.client().await?.with_timeout(grace.duration() + TIMEOUT);
        client.stop_container(container, Some(StopContainerOptionsBuilder::new().t(seconds).build())).await
    }

    async fn try_remove(&self, container: &str) -> Result<(), Error> {
        // Anonymous volumes go with it; named ones stay.
        let options = RemoveContainerOptionsBuilder::new().v(true).build();
        self.client().await?.remove_container(container, Some(options)).await
    }

    async fn try_tail(&self, container: &str) -> Result<LastLines, Error> {
        let tail = MOST_LINES.to_string();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&tail).build();
        let mut output = Vec::new();
        let mut pieces = std::pin::pin!(self.client().await?.logs(container, Some(options)));
        while let Some(piece) = pieces.next().await {
            output.extend_from_slice(&piece?.into_bytes());
            // A line may have any length, and only the end counts.
            output.drain(..output.len().saturating_sub(TAIL_BYTES));
        }
        Ok(LastLines::of(&output))
    }

    /// The words that start a container's program: its own, or its image's where it has none. An entrypoint
    /// of its own leaves nothing of the image's command, as with Docker itself.
    async fn words_of(&self, spec: &ContainerSpec, image: &str) -> Result<Vec<String>, Error> {
        let config = self.client().await?.inspect_image(image).await?.config.unwrap_or_default();
        let own = spec.entrypoint.clone();
        let command = spec.command.clone().or(if own.is_some() { None } else { config.cmd });
        let entrypoint = own.or(config.entrypoint);
        Ok([entrypoint.unwrap_or_default(), command.unwrap_or_default()].concat())
    }

    async fn try_create(&self, instance: &AssignedInstance, part: &Part) -> Result<(), Error> {
        let is_ours = instance.spec.network_mode == NetworkMode::Cluster;
        let has_names = instance.spec.network_mode != NetworkMode::None;
        let bridge = if has_names { Some(self.ensure_network().await?) } else { None };
        let name = instance.id.part(part.clone()).container_name();
        let mut options = CreateContainerOptionsBuilder::new().name(&name);
        let platform = instance.spec.container_of(part).and_then(|container| container.platform.as_deref());
        if let Some(platform) = platform {
            options = options.platform(platform);
        }
        let guarded = match instance.spec.container_of(part).filter(|_| instance.spec.strict_singleton) {
            Some(container) => Some(self.words_of(container, instance.image_of(part)).await?),
            None => None,
        };
        let mut body = render::container(instance, part, self.site(), guarded);
        if !render::shares_network(instance, part) {
            render::names(&mut body, instance, bridge);
            if let Some(bridge) = bridge.filter(|_| is_ours) {
                render::address(&mut body, self.next_address(bridge).await?);
            }
        }
        match self.client().await?.create_container(Some(options.build()), body).await {
            // It exists: it was made before the agent died, and is adopted.
            Err(error) if status(&error) == Some(409) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Docker's own message, without the wrapper.
fn reason(error: Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message,
        Error::DockerStreamError { error } => error,
        other => other.to_string(),
    }
}

/// Whether Docker did not answer at all, which says nothing about the request.
fn is_silence(error: &Error) -> bool {
    matches!(
        error,
        Error::RequestTimeoutError
            | Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::HttpClientError { .. }
            | Error::SocketNotFoundError(_)
    )
}

/// The result of an action that Docker did not do: no fault of the instance if Docker did not even answer.
fn failed(error: Error) -> ActionResult {
    if is_silence(&error) {
        return ActionResult::Waits("Docker does not answer".to_owned());
    }
    ActionResult::Failed(reason(error))
}

/// The part of a list's entry that changes when the container does, and not with the time alone.
fn short_form(summary: &ContainerSummary) -> String {
    let status = summary.status.as_deref().unwrap_or_default();
    let health = ["(healthy)", "(unhealthy)", "(health: starting)"].into_iter().find(|word| status.contains(word));
    let exit = status.split(')').next().filter(|text| text.starts_with("Exited"));
    format!("{:?} {} {}", summary.state, health.unwrap_or_default(), exit.unwrap_or_default())
}

fn state_of(state: bollard::models::ContainerState) -> ContainerState {
    let at = |text: Option<String>| text.and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or_default();
    let (started_at, finished_at) = (at(state.started_at), at(state.finished_at));
    if state.running == Some(true) {
        use bollard::models::HealthStatusEnum;
        let health = match state.health.and_then(|health| health.status) {
            Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
            Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
            Some(HealthStatusEnum::STARTING) => Health::Starting,
            _ => Health::Unchecked,
        };
        return ContainerState::Running { started_at, health };
    }
    // Docker gives the year 1 for what has never been, which parses as the epoch.
    if started_at == Timestamp(0) {
        return ContainerState::Created;
    }
    let exit_code = state.exit_code.unwrap_or(-1);
    ContainerState::Exited { started_at, finished_at, exit_code, out_of_memory: state.oom_killed == Some(true) }
}

/// The last output of a container's health check, if that fails.
fn output_of_check(state: &bollard::models::ContainerState) -> LastLines {
    use bollard::models::HealthStatusEnum;
    let health = state.health.as_ref().filter(|health| health.status == Some(HealthStatusEnum::UNHEALTHY));
    let last = health.and_then(|health| health.log.as_ref()?.last()?.output.as_deref());
    last.map_or_else(LastLines::default, |output| LastLines::of(output.as_bytes()))
}

/// Takes those status codes as done: the container is gone, or in the desired state already.
fn done_if(status_codes: &[u16], result: Result<(), Error>) -> ActionResult {
    match result {
        Ok(()) => ActionResult::Done,
        Err(error) if status(&error).is_some_and(|code| status_codes.contains(&code)) => ActionResult::Done,
        Err(error) => failed(error),
    }
}

#[async_trait]
impl ContainerRuntime for Docker {
    async fn observe(&self) -> Result<BTreeMap<PartId, Container>, String> {
        let listed = self.list().await?;
        let of_instance = |summary: &ContainerSummary| {
            let id = summary.id.clone()?;
            let labels = summary.labels.as_ref()?;
            let label = labels.get(INSTANCE_LABEL)?;
            let part = labels.get(PART_LABEL).map_or(Ok(Part::Main), |label| label.parse());
            let (Ok(instance), Ok(part)) = (label.parse::<InstanceId>(), part) else {
                debug!(container = %id, label, "a container has labels that match no instance");
                return None;
            };
            Some((instance.part(part), id, short_form(summary)))
        };
        let inspecting = listed.iter().filter_map(of_instance).map(|(part, id, short)| async move {
            let container = self.inspect(&id, short).await?;
            Ok::<_, String>(container.map(|container| (part, container)))
        });
        let inspected = stream::iter(inspecting).buffered(INSPECTIONS).try_collect::<Vec<_>>().await?;
        let found = inspected.into_iter().flatten().collect();
        let ids: Vec<&String> = listed.iter().filter_map(|summary| summary.id.as_ref()).collect();
        self.inspected().retain(|id, _| ids.contains(&id));
        Ok(found)
    }

    async fn watch(&self, wake: &Notify) {
        loop {
            // A look finds what happened while the agent did not listen.
            self.inspected().clear();
            wake.notify_one();
            match self.listen(wake).await {
                Ok(()) => debug!("Docker's events ended; listening again"),
                Err(error) => debug!(%error, "Docker's events cannot be read; trying again"),
            }
            self.known_client().take();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn prepare(&self, instance: &AssignedInstance, part: &Part) -> Result<ReadyImage, ActionResult> {
        self.ready(instance, part).await
    }

    async fn create(&self, instance: &AssignedInstance, part: &Part) -> ActionResult {
        match self.lacks(instance, part).await {
            Ok(None) => {}
            Ok(Some(why)) => return ActionResult::Impossible(why),
            Err(error) => return ActionResult::Failed(reason(error)),
        }
        match self.try_create(instance, part).await {
            Ok(()) => ActionResult::Done,
            // 400: Docker will never accept it. 404: the image was removed since it was prepared.
            Err(error) if matches!(status(&error), Some(400 | 404)) => ActionResult::Impossible(reason(error)),
            Err(error) => failed(error),
        }
    }

    async fn start(&self, container: &str) -> ActionResult {
        match self.try_start(container).await {
            Err(error) if is_silence(&error) => failed(error),
            // Docker itself is away: that is no failure of the program.
            Err(error) if status(&error).is_none() => ActionResult::Waits(reason(error)),
            Err(error) if status(&error) != Some(304) => {
                let why = reason(error);
                match render::taken_port(&why) {
                    Some(port) => {
                        let holder = link::socket::holder_of(port).unwrap_or_else(|| "another process".to_owned());
                        ActionResult::Impossible(format!("port {port} is held by {holder}"))
                    }
                    None => ActionResult::Failed(why),
                }
            }
            _ => ActionResult::Done,
        }
    }

    async fn stop(&self, container: &str, grace: Span) -> ActionResult {
        let stopped = self.try_stop(container, grace).await;
        self.forget(container);
        done_if(&[304, 404], stopped)
    }

    async fn remove(&self, container: &str) -> ActionResult {
        let removed = self.try_remove(container).await;
        self.forget(container);
        done_if(&[404], removed)
    }

    async fn logs(&self, request: &LogRequest, output: mpsc::Sender<LogFrame>) {
        self.send_output(request, &output).await;
    }

    async fn tail(&self, container: &str) -> LastLines {
        match tokio::time::timeout(TAIL_TIMEOUT, self.try_tail(container)).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => {
                debug!(%error, container, "the output of a container that has ended cannot be read");
                LastLines::default()
            }
            Err(_) => {
                debug!(container, "the output of a container that has ended was not read in time");
                LastLines::default()
            }
        }
    }

    async fn ensure_bridge(&self, bridge: HostBridge) -> Result<(), String> {
        self.network.note(bridge);
        self.ensure_network().await.map(drop).map_err(reason)
    }

    fn lacks_bridge(&self, why: &str) {
        self.network.note_lack(why);
    }

    async fn ping(&self) -> Result<(), String> {
        self.client().await.map_err(reason)?.ping().await.map(drop).map_err(reason)
    }

    fn root(&self) -> Option<PathBuf> {
        self.root.get().cloned()
    }

    async fn disk(&self) -> Option<Fill> {
        self.fill().await
    }

    async fn images(&self) -> Result<Vec<HostImage>, String> {
        self.host_images().await.map_err(reason)
    }

    async fn remove_image(&self, name: &str) -> Result<Removed, String> {
        self.try_remove_image(name).await.map_err(reason)
    }

    async fn prune_build_caches(&self, unused_for: Span) -> Result<Bytes, String> {
        self.try_prune(unused_for).await.map_err(reason)
    }

    async fn facts(&self) -> Result<EngineFacts, String> {
        let client = self.client().await.map_err(reason)?;
        let asked = tokio::time::timeout(OBSERVE_TIMEOUT, async { tokio::try_join!(client.version(), client.info()) });
        let (version, info) =
            asked.await.map_err(|_| format!("Docker did not answer within {OBSERVE_TIMEOUT:?}"))?.map_err(reason)?;
        if let Some(root) = info.docker_root_dir {
            self.root.get_or_init(|| PathBuf::from(root));
        }
        Ok(EngineFacts {
            version: version.version.unwrap_or_default(),
            os: version.os.unwrap_or_default(),
            arch: version.arch.unwrap_or_default(),
            devices: devices::generic(info.generic_resources.unwrap_or_default()),
        })
    }
}
