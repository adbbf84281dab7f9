//! All that one host should run, with nothing left to choose.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    device::BoundDevice,
    id::{ClusterId, HostId, InstanceId},
    instance::{BoundPort, Desired, Phase},
    network::{Network, Overlay},
    part::Part,
    report::Report,
    secret::Secret,
    spec::{ServiceSpec, template::Node},
};

/// The full value for one host; the newest generation wins, replays are harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The cluster that says so.
    pub cluster: ClusterId,
    /// The host it is for.
    pub host: HostId,
    /// Grows with every change of the replicated state: the log index that it was derived at.
    pub generation: u64,
    /// How its containers are reached.
    pub network: Network,
    /// Every instance of this host, wanted or to be ended.
    pub instances: Vec<AssignedInstance>,
    /// Instances that the agent reported and the cluster does not know: remove them. Only this
    /// list ends what is not in `instances`; absence alone never does.
    pub surplus: BTreeSet<InstanceId>,
}

/// One instance as its host should treat it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignedInstance {
    /// Which one.
    pub id: InstanceId,
    /// What is wanted of it.
    pub desired: Desired,
    /// What to run.
    pub spec: Arc<ServiceSpec>,
    /// The image to run, by digest where one is pinned.
    pub image: String,
    /// The host ports booked for it.
    pub ports: Vec<BoundPort>,
    /// The devices of the host that its parts have to themselves.
    pub devices: Vec<BoundDevice>,
    /// Restarts that the cluster knows of; an agent that lost its ledger goes on from here.
    pub restarts: u32,
    /// How many retries its slot has used up for what it is to do; its agent counts on from here.
    pub retries: u32,
    /// How it ended, if the cluster knows that it did: it has no place on the host any more.
    pub ended: Option<Phase>,
    /// Who to be at the registries of its images.
    pub credentials: Vec<RegistryCredentials>,
}

impl Assignment {
    /// What a host does that was removed from the cluster: all that it was to run, and all that it reports, ends.
    pub fn dismissed(&self, report: &Report) -> Assignment {
        let assigned = self.instances.iter().map(|instance| &instance.id);
        let reported = report.instances.iter().map(|(id, _)| id);
        let surplus = assigned.chain(reported).chain(&report.unknown).chain(&self.surplus).cloned().collect();
        Assignment { generation: self.generation + 1, instances: Vec::new(), surplus, ..self.clone() }
    }
}

impl AssignedInstance {
    /// The image of a part: of the main container, by digest where one is pinned. The holder of the network
    /// is made of the same one.
    pub fn image_of(&self, part: &Part) -> &str {
        match self.spec.container_of(part) {
            Some(container) if *part != Part::Main => &container.image,
            _ => &self.image,
        }
    }

    /// The same with Swarm's templates filled in for its host; an error says which cannot be.
    pub fn filled(self, node: &Node) -> Result<AssignedInstance, String> {
        if !self.spec.has_templates() {
            return Ok(self);
        }
        let spec = Arc::new(self.spec.filled(&self.id, node)?);
        Ok(AssignedInstance { spec, ..self })
    }

    /// Its parts in the order in which they start.
    pub fn parts(&self) -> Vec<Part> {
        // A circle is refused before anything is deployed.
        self.spec.start_order(&self.id.service().service).unwrap_or_default()
    }

    /// Who to be at the registry of an image.
    pub fn credentials_for(&self, image: &str) -> Option<&RegistryCredentials> {
        self.credentials.iter().find(|credentials| credentials.registry == registry_of(image))
    }
}

/// The registry that an image names; Docker Hub if it names none.
pub fn registry_of(image: &str) -> &str {
    let first = image
        .split('/')
        .next()
        .filter(|first| image.contains('/') && (first.contains(['.', ':']) || *first == "localhost"));
    first.unwrap_or("docker.io")
}

/// Who to be at a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryCredentials {
    /// The registry, `host[:port]`.
    pub registry: String,
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: Secret<String>,
}

impl Assignment {
    /// What a host starts from that has not been told anything.
    pub fn nothing(cluster: ClusterId, host: HostId) -> Assignment {
        let (network, instances, surplus) = (Network::default(), Vec::new(), BTreeSet::new());
        Assignment { cluster, host, generation: 0, network, instances, surplus }
    }

    /// Whether the cluster has ever said what the host should run.
    pub fn is_known(&self) -> bool {
        self.generation > 0
    }

    /// The overlay, if the cluster has said that there is one.
    pub fn overlay(&self) -> Option<&Overlay> {
        match &self.network {
            Network::Overlay(overlay) if self.is_known() => Some(overlay),
            _ => None,
        }
    }

    /// Whether `next` may replace this: same cluster and host, and not older.
    pub fn accepts(&self, next: &Assignment) -> bool {
        self.cluster == next.cluster && self.host == next.host && next.generation >= self.generation
    }
}
