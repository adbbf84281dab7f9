//! The container engines of the agent: Docker, and a fake for states that Docker will not reach on command.

pub mod docker;
pub mod fake;

use std::{collections::BTreeMap, path::PathBuf};

use agent_core::{
    ActionResult, Container,
    images::{Fill, HostImage, ReadyImage},
    network::HostBridge,
};
use async_trait::async_trait;
use common::{
    assignment::AssignedInstance,
    device::Devices,
    output::LastLines,
    part::{Part, PartId},
    quantity::Bytes,
    time::Span,
    wire::{LogFrame, LogRequest},
};
use tokio::sync::{Notify, mpsc};

pub use docker::Docker;

/// A container engine.
#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// All containers of this cluster. An error means "unknown", never "none".
    async fn observe(&self) -> Result<BTreeMap<PartId, Container>, String>;

    /// Wakes the reconciler whenever something may have changed; never returns.
    async fn watch(&self, wake: &Notify);

    /// Fetches the image of an instance's part, unless the host has it. An error is the result of the action.
    async fn prepare(&self, instance: &AssignedInstance, part: &Part) -> Result<ReadyImage, ActionResult>;

    /// Makes the container of an instance's part; one that exists already is as good.
    async fn create(&self, instance: &AssignedInstance, part: &Part) -> ActionResult;

    /// Starts a container.
    async fn start(&self, container: &str) -> ActionResult;

    /// Asks a container's program to end, and ends it after the grace time.
    async fn stop(&self, container: &str, grace: Span) -> ActionResult;

    /// Removes a container that does not run.
    async fn remove(&self, container: &str) -> ActionResult;

    /// Sends the output of a part until it ends or the receiver is gone.
    async fn logs(&self, request: &LogRequest, output: mpsc::Sender<LogFrame>);

    /// The last lines that a container has printed; none if they cannot be had.
    async fn tail(&self, container: &str) -> LastLines;

    /// Makes the bridge that containers hang on from now on, unless the host has it.
    async fn ensure_bridge(&self, bridge: HostBridge) -> Result<(), String>;

    /// Notes why there is no bridge yet: calls that wait for it fail with that.
    fn lacks_bridge(&self, why: &str);

    /// Whether the engine answers at all.
    async fn ping(&self) -> Result<(), String>;

    /// The folder of images and containers, once the engine has said which.
    fn root(&self) -> Option<PathBuf>;

    /// The fill of the disk of images and containers; none if the engine does not say where that is.
    async fn disk(&self) -> Option<Fill>;

    /// All images on the host, whosever they are.
    async fn images(&self) -> Result<Vec<HostImage>, String>;

    /// Removes a reference, or an image by its id if it has no reference. The image goes with its last reference, unless
    /// something uses it.
    async fn remove_image(&self, name: &str) -> Result<Removed, String>;

    /// Removes the build caches that were not used for a time; returns how large they were.
    async fn prune_build_caches(&self, unused_for: Span) -> Result<Bytes, String>;

    /// The engine's facts about itself; an error if it does not answer.
    async fn facts(&self) -> Result<EngineFacts, String>;
}

/// What the engine made of the request to remove an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone, or was not there.
    Gone,
    /// Something uses it, so it stays.
    Kept,
}

/// An engine's facts about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its version.
    pub version: String,
    /// The operating system that its containers see.
    pub os: String,
    /// The architecture.
    pub arch: String,
    /// The generic resources that the operator gave it.
    pub devices: Devices,
}
