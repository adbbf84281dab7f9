//! A container engine in memory that does what a test wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

use agent_core::{
    ActionResult, Container, ContainerState,
    images::{Fill, HostImage, ImageId, ReadyImage},
    network::HostBridge,
};
use async_trait::async_trait;
use common::{
    assignment::AssignedInstance,
    device::Devices,
    id::InstanceId,
    instance::Health,
    output::LastLines,
    part::{Part, PartId},
    quantity::Bytes,
    time::Span,
    wire::{LogFrame, LogRequest},
};
use link::clock::now;
use tokio::sync::{Notify, mpsc};

use super::{ContainerRuntime, EngineFacts, Removed};

/// An engine without containers of its own.
#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<PartId, Container>,
    missing_images: BTreeSet<String>,
    /// The output of main programs, by container.
    printed: BTreeMap<String, String>,
    images: Vec<HostImage>,
    kept_images: BTreeSet<String>,
    /// The disk of the images; none as long as no test needs one.
    disk: Option<Fill>,
    silent: bool,
    starts: u64,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Makes the engine stop answering, or answer again.
    pub fn silence(&self, silent: bool) {
        self.state().silent = silent;
        self.changed.notify_one();
    }

    /// Makes an image impossible to get.
    pub fn lose_image(&self, image: &str) {
        self.state().missing_images.insert(image.to_owned());
    }

    /// Puts an image on the host.
    pub fn put_image(&self, image: HostImage) {
        self.state().images.push(image);
    }

    /// Uses an image without showing it.
    pub fn keep_image(&self, name: &str) {
        self.state().kept_images.insert(name.to_owned());
    }

    /// Gives the host a disk, which becomes emptier by each image that goes.
    pub fn put_disk(&self, disk: Fill) {
        self.state().disk = Some(disk);
    }

    /// Has the main program of an instance print something.
    pub fn print(&self, instance: &InstanceId, text: &str) {
        self.state().printed.entry(instance.main().container_name()).or_default().push_str(text);
    }

    /// Ends the program of an instance.
    pub fn crash(&self, instance: &InstanceId, exit_code: i64) {
        if let Some(container) = self.state().containers.get_mut(&instance.main())
            && let ContainerState::Running { started_at, .. } = container.state
        {
            container.state =
                ContainerState::Exited { started_at, finished_at: now(), exit_code, out_of_memory: false };
        }
        self.changed.notify_one();
    }

    /// The instances whose main programs run.
    pub fn running(&self) -> BTreeSet<InstanceId> {
        let runs = |(id, container): &(&PartId, &Container)| id.part == Part::Main && container.runs();
        self.state().containers.iter().filter(runs).map(|(id, _)| id.instance.clone()).collect()
    }

    /// How many main programs run.
    pub fn count_running(&self) -> usize {
        let state = self.state();
        state.containers.iter().filter(|(id, container)| id.part == Part::Main && container.runs()).count()
    }

    /// How many programs were ever started.
    pub fn starts(&self) -> u64 {
        self.state().starts
    }

    fn with(&self, id: &str, change: impl FnOnce(&mut Container)) -> ActionResult {
        let mut state = self.state();
        match state.containers.values_mut().find(|container| container.id == id) {
            Some(container) => change(container),
            None => return ActionResult::Failed(format!("no such container: {id}")),
        }
        drop(state);
        self.changed.notify_one();
        ActionResult::Done
    }
}

#[async_trait]
impl ContainerRuntime for Fake {
    async fn observe(&self) -> Result<BTreeMap<PartId, Container>, String> {
        let state = self.state();
        if state.silent { Err("the engine does not answer".to_owned()) } else { Ok(state.containers.clone()) }
    }

    async fn watch(&self, wake: &Notify) {
        loop {
            self.changed.notified().await;
            wake.notify_one();
        }
    }

    async fn prepare(&self, instance: &AssignedInstance, part: &Part) -> Result<ReadyImage, ActionResult> {
        let image = instance.image_of(part);
        if self.state().missing_images.contains(image) {
            return Err(ActionResult::Impossible(format!("image {image}: not found")));
        }
        Ok(ReadyImage::found(ImageId(image.to_owned())))
    }

    async fn create(&self, instance: &AssignedInstance, part: &Part) -> ActionResult {
        let id = instance.id.part(part.clone());
        let container = Container {
            id: id.container_name(),
            state: ContainerState::Created,
            image_digest: None,
            address: None,
            sender: None,
            output: LastLines::default(),
            published: BTreeSet::new(),
        };
        self.state().containers.entry(id).or_insert(container);
        self.changed.notify_one();
        ActionResult::Done
    }

    async fn start(&self, container: &str) -> ActionResult {
        self.state().starts += 1;
        self.with(container, |container| {
            container.state = ContainerState::Running { started_at: now(), health: Health::Unchecked };
        })
    }

    async fn stop(&self, container: &str, _grace: Span) -> ActionResult {
        self.with(container, |container| {
            if let ContainerState::Running { started_at, .. } = container.state {
                container.state =
                    ContainerState::Exited { started_at, finished_at: now(), exit_code: 143, out_of_memory: false };
            }
        })
    }

    async fn remove(&self, container: &str) -> ActionResult {
        self.state().containers.retain(|_, other| other.id != container);
        self.changed.notify_one();
        ActionResult::Done
    }

    async fn logs(&self, request: &LogRequest, output: mpsc::Sender<LogFrame>) {
        let bytes = format!("output of {}\n", request.part).into_bytes();
        if output.send(LogFrame::Output { stderr: false, bytes, at: String::new() }).await.is_err() {
            return;
        }
        match request.follow {
            // Nothing more is printed; the stream lasts until the receiver is gone.
            true => output.closed().await,
            false => drop(output.send(LogFrame::End).await),
        }
    }

    async fn tail(&self, container: &str) -> LastLines {
        self.state().printed.get(container).map_or_else(LastLines::default, |text| LastLines::of(text.as_bytes()))
    }

    async fn ensure_bridge(&self, _bridge: HostBridge) -> Result<(), String> {
        Ok(())
    }

    fn lacks_bridge(&self, _why: &str) {}

    async fn ping(&self) -> Result<(), String> {
        if self.state().silent { Err("the engine does not answer".to_owned()) } else { Ok(()) }
    }

    fn root(&self) -> Option<PathBuf> {
        None
    }

    async fn disk(&self) -> Option<Fill> {
        self.state().disk
    }

    async fn images(&self) -> Result<Vec<HostImage>, String> {
        let state = self.state();
        if state.silent { Err("the engine does not answer".to_owned()) } else { Ok(state.images.clone()) }
    }

    async fn remove_image(&self, name: &str) -> Result<Removed, String> {
        let mut state = self.state();
        let is_named = |image: &HostImage| image.id.0 == name || image.references.iter().any(|r| r.as_str() == name);
        let Some(place) = state.images.iter().position(is_named) else { return Ok(Removed::Gone) };
        if state.images[place].is_used || state.kept_images.contains(name) {
            return Ok(Removed::Kept);
        }
        state.images[place].references.retain(|reference| reference.as_str() != name);
        if state.images[place].references.is_empty() {
            let size = state.images.remove(place).size.0;
            let disk = state.disk.as_mut().expect("a host whose images go has a disk");
            (disk.used.0, disk.available.0) = (disk.used.0 - size, disk.available.0 + size);
        }
        drop(state);
        self.changed.notify_one();
        Ok(Removed::Gone)
    }

    async fn prune_build_caches(&self, _unused_for: Span) -> Result<Bytes, String> {
        // It builds nothing.
        Ok(Bytes(0))
    }

    async fn facts(&self) -> Result<EngineFacts, String> {
        let devices = Devices::default();
        Ok(EngineFacts { version: "fake".into(), os: "linux".into(), arch: "amd64".into(), devices })
    }
}
