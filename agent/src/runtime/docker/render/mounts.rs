//! The parts of the host's disks that a container sees.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountTmpfsOptions, MountType, MountVolumeOptions,
    MountVolumeOptionsDriverConfig,
};
use common::{
    assignment::AssignedInstance,
    id::ClusterId,
    part::Part,
    spec::{ContainerSpec, MountSource, MountSpec, Propagation, VolumeName, VolumeSpec},
};

use super::{CLUSTER_LABEL, Site};
use crate::guard;

/// The mounts of a part: those of its spec, its files, and those of a guard.
pub(super) fn mounts(instance: &AssignedInstance, part: &Part, spec: &ContainerSpec, site: Site<'_>) -> Vec<Mount> {
    let Site { cluster, places } = site;
    let asked = spec.mounts.iter().filter(|mount| !is_bind(mount)).map(|mount| self::mount(instance, mount, cluster));
    let own = places.of(instance).filter(|(of, ..)| of == part);
    let files = own.map(|(_, path, file)| shown(&path, &file.target));
    let (program, lease) = (places.binary(), places.lease(&instance.id));
    let guard = [(program, guard::PROGRAM), (lease.as_path(), guard::LEASE)];
    let guard = guard.into_iter().filter(|_| instance.spec.strict_singleton);
    asked.chain(files).chain(guard.map(|(path, target)| shown(path, target))).collect()
}

/// Paths of the host that are made if they are not there: every Docker does so for what it calls binds.
pub(super) fn binds(spec: &ContainerSpec) -> Vec<String> {
    let bind = |mount: &MountSpec| {
        let MountSource::Bind(path) = &mount.source else { return None };
        let propagation = mount.propagation.map(|propagation| propagation_of(propagation).to_string());
        let options = [mount.read_only.then(|| "ro".to_owned()), propagation];
        let options: Vec<String> = options.into_iter().flatten().collect();
        let colon = if options.is_empty() { "" } else { ":" };
        Some(format!("{path}:{}{colon}{}", mount.target, options.join(",")))
    };
    spec.mounts.iter().filter(|mount| is_bind(mount)).filter_map(bind).collect()
}

fn is_bind(mount: &MountSpec) -> bool {
    mount.create_host_path
}

/// Something of the host that the container may only read.
pub(super) fn shown(source: &Path, target: &str) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Mount::default()
    }
}

/// The volumes that a part mounts, by the names that Docker has for them, and what the stack says of them.
pub(in crate::runtime::docker) fn volumes(
    instance: &AssignedInstance,
    spec: &ContainerSpec,
) -> Vec<(String, VolumeSpec)> {
    let names = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume(name) => Some(name),
        MountSource::Bind(_) | MountSource::Anonymous | MountSource::Tmpfs(_) => None,
    });
    names.map(|name| volume(instance, name)).collect()
}

fn volume(instance: &AssignedInstance, name: &VolumeName) -> (String, VolumeSpec) {
    let declared = instance.spec.volumes.get(name).cloned().unwrap_or_default();
    (declared.docker_name(instance.id.stack(), name), declared)
}

fn mount(instance: &AssignedInstance, mount: &MountSpec, cluster: ClusterId) -> Mount {
    let plain = Mount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    };
    match &mount.source {
        MountSource::Bind(path) => {
            let propagation = mount.propagation.map(propagation_of);
            let options = propagation.map(|_| MountBindOptions { propagation, ..MountBindOptions::default() });
            Mount { source: Some(path.clone()), typ: Some(MountType::BIND), bind_options: options, ..plain }
        }
        MountSource::Volume(name) => {
            let (source, declared) = volume(instance, name);
            let options = volume_options(mount, &declared, cluster);
            Mount { source: Some(source), volume_options: Some(options), ..plain }
        }
        MountSource::Anonymous => plain,
        MountSource::Tmpfs(options) => Mount {
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: options.size.and_then(|size| i64::try_from(size.0).ok()),
                mode: options.mode.map(i64::from),
                ..MountTmpfsOptions::default()
            }),
            ..plain
        },
    }
}

/// The options by which Docker makes a volume that does not exist.
fn volume_options(mount: &MountSpec, declared: &VolumeSpec, cluster: ClusterId) -> MountVolumeOptions {
    let mut labels: HashMap<String, String> = declared.labels.clone().into_iter().collect();
    labels.insert(CLUSTER_LABEL.to_owned(), cluster.to_string());
    let is_plain = declared.driver.is_none() && declared.driver_opts.is_empty();
    let driver_config = (!is_plain).then(|| MountVolumeOptionsDriverConfig {
        name: Some(declared.driver.clone().unwrap_or_else(|| "local".to_owned())),
        options: Some(declared.driver_opts.clone().into_iter().collect()),
    });
    MountVolumeOptions {
        no_copy: mount.nocopy.then_some(true),
        labels: (!declared.external).then_some(labels),
        driver_config,
        subpath: mount.subpath.clone(),
    }
}

fn propagation_of(propagation: Propagation) -> MountBindOptionsPropagationEnum {
    match propagation {
        Propagation::Private => MountBindOptionsPropagationEnum::PRIVATE,
        Propagation::Rprivate => MountBindOptionsPropagationEnum::RPRIVATE,
        Propagation::Shared => MountBindOptionsPropagationEnum::SHARED,
        Propagation::Rshared => MountBindOptionsPropagationEnum::RSHARED,
        Propagation::Slave => MountBindOptionsPropagationEnum::SLAVE,
        Propagation::Rslave => MountBindOptionsPropagationEnum::RSLAVE,
    }
}

#[cfg(test)]
mod tests {
    use common::{quantity::Bytes, spec::TmpfsOptions};

    use super::*;
    use crate::{files::Places, runtime::docker::render::tests::instance};

    #[test]
    fn mounts_are_what_was_asked_for() {
        let data: VolumeName = "db_data".parse().expect("a name");
        let mut web = instance(|spec| {
            let of = |source, target| MountSpec::of(source, target);
            spec.container.mounts = vec![
                MountSpec { nocopy: true, subpath: Some("a".into()), ..of(MountSource::Volume(data.clone()), "/data") },
                MountSpec { propagation: Some(Propagation::Rslave), ..of(MountSource::Bind("/mnt".into()), "/mnt") },
                MountSpec { create_host_path: true, ..of(MountSource::Bind("/srv/a".into()), "/a") },
                MountSpec {
                    create_host_path: true,
                    read_only: true,
                    propagation: Some(Propagation::Shared),
                    ..of(MountSource::Bind("/srv/b".into()), "/b")
                },
                of(MountSource::Anonymous, "/cache"),
                of(MountSource::Tmpfs(TmpfsOptions { size: Some(Bytes(1 << 20)), mode: Some(0o1777) }), "/t"),
            ];
        });
        let places = Places::new(Path::new("/state"), Path::new("/memory"));
        let spec = web.spec.container.clone();
        let found = |web: &AssignedInstance| {
            mounts(web, &Part::Main, &spec, Site { cluster: ClusterId([1; 10]), places: &places })
        };
        let all = found(&web);
        let [volume, bind, anonymous, tmpfs] = all.as_slice() else { panic!("four: {all:?}") };
        assert_eq!(volume.source.as_deref(), Some("default.shop.db_data"), "it belongs to its stack");
        let options = volume.volume_options.clone().expect("it has options");
        assert_eq!((options.no_copy, options.subpath.as_deref()), (Some(true), Some("a")));
        assert_eq!(options.driver_config, None);
        assert!(options.labels.is_some_and(|labels| labels.contains_key(CLUSTER_LABEL)), "it is found for a removal");
        assert_eq!(bind.source.as_deref(), Some("/mnt"));
        assert_eq!(
            bind.bind_options.clone().and_then(|options| options.propagation),
            Some(MountBindOptionsPropagationEnum::RSLAVE)
        );
        assert_eq!((anonymous.typ, anonymous.source.clone()), (Some(MountType::VOLUME), None));
        let options = tmpfs.tmpfs_options.clone().expect("it has options");
        assert_eq!((options.size_bytes, options.mode), (Some(1 << 20), Some(0o1777)));
        assert_eq!(binds(&spec), ["/srv/a:/a", "/srv/b:/b:ro,shared"]);

        let declare = |web: &mut AssignedInstance, volume: VolumeSpec| {
            std::sync::Arc::make_mut(&mut web.spec).volumes = [(data.clone(), volume)].into();
        };
        let options = [("type".to_owned(), "nfs".to_owned())];
        declare(&mut web, VolumeSpec { driver_opts: options.into(), ..VolumeSpec::default() });
        let config = found(&web)[0].volume_options.clone().and_then(|options| options.driver_config);
        assert_eq!(config.and_then(|config| config.name).as_deref(), Some("local"));
        declare(&mut web, VolumeSpec { external: true, ..VolumeSpec::default() });
        let external = found(&web)[0].clone();
        assert_eq!(external.source.as_deref(), Some("db_data"), "somebody else made it by this name");
        assert_eq!(external.volume_options.and_then(|options| options.labels), None, "it is not ours to remove");
    }
}
