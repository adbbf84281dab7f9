//! What is in an instance's configs and secrets, for the host that it runs on and nobody else.

use common::{
    error::{Code, Problem},
    id::{HostId, InstanceId},
    instance::Want,
    secret::Secret,
    wire::Files,
};
use coordinator_core::{State, state::Content};

use crate::seal::{Purpose, Seals};

/// Answers a host.
pub fn answer(cluster: &State, seals: &Seals, host: HostId, instance: &InstanceId) -> Files {
    contents(cluster, seals, host, instance).map_or_else(Files::Refused, Files::Contents)
}

fn contents(cluster: &State, seals: &Seals, host: HostId, id: &InstanceId) -> Result<Vec<Secret<Vec<u8>>>, Problem> {
    let instance = cluster
        .instances()
        .get(id)
        .filter(|instance| cluster.is_admitted(host) && instance.host == host && instance.desired.want <= Want::Run);
    // Whether there is such an instance elsewhere is nobody's business.
    let instance = instance.ok_or_else(|| {
        Problem::new(Code::Denied, format!("The files of {id} were not sent"))
            .why("no such instance should run on that host")
    })?;
    let content = |file: &common::file::FileSpec| {
        let id = file.id(id.stack());
        let version = cluster.files().get(&id).and_then(|record| record.versions.get(&file.version?));
        let version = version.ok_or_else(|| Problem::new(Code::NotFound, format!("{id} has no such version")))?;
        match &version.content {
            Content::Plain(bytes) => Ok(Secret::new(bytes.to_vec())),
            Content::Sealed(sealed) => seals.open(Purpose::Secret(&id), sealed),
        }
    };
    instance.spec.files().map(|(_, file)| content(file)).collect()
}
