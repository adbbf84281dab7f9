//! Everything of a cluster on a host, for its removal.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    query_parameters::{
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder,
    },
};
use common::id::ClusterId;

use super::{CLUSTER_LABEL, reason, version};

/// The remains of a cluster.
#[derive(Debug, Default)]
pub struct Found {
    /// Containers, by id.
    pub containers: Vec<String>,
    /// Networks, by name.
    pub networks: Vec<String>,
    /// Volumes, by name.
    pub volumes: Vec<String>,
}

async fn connect(socket: &str) -> Result<Docker, String> {
    version::connect(socket).await.map_err(reason)
}

/// Finds everything that carries the cluster's label.
pub async fn find(socket: &str, cluster: ClusterId) -> Result<Found, String> {
    let docker = connect(socket).await?;
    let filters = HashMap::from([("label".to_owned(), vec![format!("{CLUSTER_LABEL}={cluster}")])]);
    let looking = async {
        let containers = docker
            .list_containers(Some(ListContainersOptionsBuilder::new().all(true).filters(&filters).build()))
            .await?;
        let networks = docker.list_networks(Some(ListNetworksOptionsBuilder::new().filters(&filters).build())).await?;
        let volumes = docker.list_volumes(Some(ListVolumesOptionsBuilder::new().filters(&filters).build())).await?;
        Ok::<Found, bollard::errors::Error>(Found {
            containers: containers.into_iter().filter_map(|container| container.id).collect(),
            networks: networks.into_iter().filter_map(|network| network.name).collect(),
            volumes: volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect(),
        })
    };
    let found = tokio::time::timeout(Duration::from_secs(10), looking).await;
    found.map_err(|_| "it did not answer within 10 s".to_owned())?.map_err(|e| e.to_string())
}

/// Removes it, and returns all errors: none ends the work.
pub async fn remove(socket: &str, found: Found, volumes: bool) -> Vec<String> {
    let docker = match connect(socket).await {
        Ok(docker) => docker,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for container in found.containers {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        errors.extend(
            docker
                .remove_container(&container, Some(options))
                .await
                .err()
                .map(|e| format!("container {container}: {e}")),
        );
    }
    for network in found.networks {
        errors.extend(docker.remove_network(&network).await.err().map(|e| format!("network {network}: {e}")));
    }
    for volume in found.volumes.into_iter().filter(|_| volumes) {
        let options = RemoveVolumeOptionsBuilder::new().build();
        errors
            .extend(docker.remove_volume(&volume, Some(options)).await.err().map(|e| format!("volume {volume}: {e}")));
    }
    errors
}
