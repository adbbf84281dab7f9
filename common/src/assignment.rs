//! Everything that one host should run, fully decided.

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

/// The complete assignment of one host. The newest generation wins, so replays are harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The cluster that sends it; an agent refuses another one's.
    pub cluster: ClusterId,
    /// The host that it is for.
    pub host: HostId,
    /// Increases with every change of the replicated state: the log index from which it was derived.
    pub generation: u64,
    /// The addresses of the host's containers, and how to reach those on other hosts.
    pub network: Network,
    /// Every instance of this host, to be run or to be ended.
    pub instances: Vec<AssignedInstance>,
    /// Instances that the agent reported and the cluster does not know. The agent removes them. Omitting an instance
    /// from `instances` does not end it: only this list, or an order, does.
    pub surplus: BTreeSet<InstanceId>,
}

/// One instance and what its host should do with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignedInstance {
    /// The instance's id.
    pub id: InstanceId,
    /// The state that the leader wants.
    pub desired: Desired,
    /// The service's spec at the instance's revision.
    pub spec: Arc<ServiceSpec>,
    /// The image of the main container, by digest if one is pinned.
    pub image: String,
    /// The host ports booked for it.
    pub ports: Vec<BoundPort>,
    /// The host's devices reserved for its containers.
    pub devices: Vec<BoundDevice>,
    /// The restarts that the cluster knows of. An agent that lost its ledger continues from this number.
    pub restarts: u32,
    /// The retries that its slot has used for its task. The agent continues from this number.
    pub retries: u32,
    /// How it ended, if the cluster knows. It then no longer occupies the host.
    pub ended: Option<Phase>,
    /// The credentials for the registries of its images.
    pub credentials: Vec<RegistryCredentials>,
}

impl Assignment {
    /// The same without the credentials for registries.
    pub fn without_credentials(mut self) -> Assignment {
        self.instances.iter_mut().for_each(|instance| instance.credentials.clear());
        self
    }

    /// The assignment of a host that was removed from the cluster: everything assigned or reported ends.
    pub fn dismissed(&self, report: &Report) -> Assignment {
        let assigned = self.instances.iter().map(|instance| &instance.id);
        let reported = report.instances.iter().map(|(id, _)| id);
        let surplus = assigned.chain(reported).chain(&report.unknown).chain(&self.surplus).cloned().collect();
        Assignment { generation: self.generation + 1, instances: Vec::new(), surplus, ..self.clone() }
    }
}

impl AssignedInstance {
    /// The image of a part; for the main container by digest if one is pinned. The network holder uses the same image.
    pub fn image_of(&self, part: &Part) -> &str {
        match self.spec.container_of(part) {
            Some(container) if *part != Part::Main => &container.image,
            _ => &self.image,
        }
    }

    /// Fills in Swarm templates for the host. The error names the template that cannot be filled in.
    pub fn filled(self, node: &Node) -> Result<AssignedInstance, String> {
        if !self.spec.has_templates() {
            return Ok(self);
        }
        let spec = Arc::new(self.spec.filled(&self.id, node)?);
        Ok(AssignedInstance { spec, ..self })
    }

    /// The parts in start order.
    pub fn parts(&self) -> Vec<Part> {
        // The validator refuses cycles before a deployment.
        self.spec.start_order(&self.id.service().service).unwrap_or_default()
    }

    /// The credentials for the registry of an image.
    pub fn credentials_for(&self, image: &str) -> Option<&RegistryCredentials> {
        self.credentials.iter().find(|credentials| credentials.registry == registry_of(image))
    }
}

/// The registry of an image reference; Docker Hub if it names none.
pub fn registry_of(image: &str) -> &str {
    let first = image
        .split('/')
        .next()
        .filter(|first| image.contains('/') && (first.contains(['.', ':']) || *first == "localhost"));
    first.unwrap_or("docker.io")
}

/// Credentials for an image registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryCredentials {
    /// The registry as `host[:port]`.
    pub registry: String,
    /// The user name at the registry.
    pub username: String,
    /// The password or an access token.
    pub password: Secret<String>,
}

impl Assignment {
    /// The assignment of a host that has not received any yet; its generation is 0.
    pub fn nothing(cluster: ClusterId, host: HostId) -> Assignment {
        let (network, instances, surplus) = (Network::default(), Vec::new(), BTreeSet::new());
        Assignment { cluster, host, generation: 0, network, instances, surplus }
    }

    /// Whether the host has ever received an assignment.
    pub fn is_known(&self) -> bool {
        self.generation > 0
    }

    /// The overlay, if the cluster has one and the host knows it.
    pub fn overlay(&self) -> Option<&Overlay> {
        match &self.network {
            Network::Overlay(overlay) if self.is_known() => Some(overlay),
            _ => None,
        }
    }

    /// Whether `next` may replace this assignment: same cluster and host, and not older.
    pub fn accepts(&self, next: &Assignment) -> bool {
        self.cluster == next.cluster && self.host == next.host && next.generation >= self.generation
    }
}
