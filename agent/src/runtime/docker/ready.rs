//! The requirements of a container on a host's Docker: volumes as the stack declares them, and the features of its
//! version. Docker itself would make an empty volume, or ignore options that it does not know.

use bollard::errors::Error;
use common::{assignment::AssignedInstance, part::Part, spec::VolumeSpec};

use super::{Docker, render, status};

/// The API of Docker 26, the first that mounts a part of a volume.
const SUBPATH_API: (usize, usize) = (1, 45);

impl Docker {
    /// Why a part can never be made here as it was asked for, if it cannot.
    pub(super) async fn lacks(&self, instance: &AssignedInstance, part: &Part) -> Result<Option<String>, Error> {
        let Some(spec) = instance.spec.container_of(part) else { return Ok(None) };
        if let Some(mount) = spec.mounts.iter().find(|mount| mount.subpath.is_some()) {
            let version = self.client().await?.client_version();
            let api = (version.major_version, version.minor_version);
            if api < SUBPATH_API {
                return Ok(Some(format!(
                    "{} is a subpath of a volume, which needs Docker 26 or later: this host's Docker has API {}.{}",
                    mount.target, api.0, api.1
                )));
            }
        }
        for (name, declared) in render::volumes(instance, spec) {
            let found = match self.client().await?.inspect_volume(&name).await {
                Ok(volume) => Some((volume.driver, volume.options)),
                Err(error) if status(&error) == Some(404) => None,
                Err(error) => return Err(error),
            };
            let found = found.as_ref().map(|(driver, options)| (driver.as_str(), options));
            if let Some(why) = differs(&name, &declared, found) {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }
}

/// Why a volume is not the one that was declared, if it is not. Options are not shown: some drivers take passwords.
fn differs(
    name: &str,
    declared: &VolumeSpec,
    found: Option<(&str, &std::collections::HashMap<String, String>)>,
) -> Option<String> {
    let Some((driver, options)) = found else {
        let missing = format!("volume {name} is external and does not exist on this host: docker volume create {name}");
        return declared.external.then_some(missing);
    };
    if declared.external {
        return None;
    }
    let wanted = declared.driver.as_deref().unwrap_or("local");
    if wanted != driver {
        let cure = "remove it with its data, or give the new one another name";
        return Some(format!("volume {name} is on this host with driver {driver}, not {wanted}: {cure}"));
    }
    let is_same = declared.driver_opts.len() == options.len()
        && declared.driver_opts.iter().all(|(key, value)| options.get(key) == Some(value));
    (!is_same).then(|| {
        format!(
            "volume {name} is on this host with other driver_opts: remove it with its data, or give the new \
             one another name"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_volume_is_the_one_that_was_declared() {
        let none = HashMap::new();
        let nfs = HashMap::from([("type".to_owned(), "nfs".to_owned())]);
        let plain = VolumeSpec::default();
        let external = VolumeSpec { external: true, ..VolumeSpec::default() };
        let remote = VolumeSpec { driver_opts: nfs.clone().into_iter().collect(), ..VolumeSpec::default() };
        let driven = VolumeSpec { driver: Some("other".into()), ..VolumeSpec::default() };
        for (declared, found, fault) in [
            (&plain, None, ""),
            (&plain, Some(("local", &none)), ""),
            (&plain, Some(("local", &nfs)), "other driver_opts"),
            (&external, None, "is external and does not exist on this host"),
            (&external, Some(("other", &nfs)), ""),
            (&remote, None, ""),
            (&remote, Some(("local", &nfs)), ""),
            (&remote, Some(("local", &none)), "other driver_opts"),
            (&driven, Some(("local", &none)), "with driver local, not other"),
        ] {
            let why = differs("data", declared, found);
            assert!(
                why.as_deref().map_or(fault.is_empty(), |why| !fault.is_empty() && why.contains(fault)),
                "{fault}: {why:?}"
            );
        }
    }
}
