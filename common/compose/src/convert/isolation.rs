//! The isolation of a container from its host.

use common::spec::{CgroupMode, HostDevice, IpcMode, Isolation};

use super::Context;
use crate::field::Field;

/// Reads these settings.
pub(super) fn isolation(service: &Field<'_>, context: &Context<'_>) -> Isolation {
    Isolation {
        privileged: service.is("privileged"),
        cap_add: service.texts_of("cap_add"),
        cap_drop: service.texts_of("cap_drop"),
        security_opt: service.items_of("security_opt").iter().filter_map(|item| security(item, context)).collect(),
        devices: service.items_of("devices").iter().filter_map(device).collect(),
        device_cgroup_rules: service.texts_of("device_cgroup_rules"),
        group_add: service.texts_of("group_add"),
        ipc: service.get("ipc").and_then(|mode| ipc(&mode)),
        host_pid: is_host(service, "pid"),
        host_uts: is_host(service, "uts"),
        host_users: is_host(service, "userns_mode"),
        cgroup: service
            .get("cgroup")
            .and_then(|mode| mode.word(&[("host", CgroupMode::Host), ("private", CgroupMode::Private)])),
        cgroup_parent: service.text_of("cgroup_parent"),
    }
}

/// A security option in Docker's format. Compose files name a seccomp profile by its file, and Docker takes its text.
fn security(item: &Field<'_>, context: &Context<'_>) -> Option<String> {
    let text = item.text()?;
    let profile = text.strip_prefix("seccomp=").or_else(|| text.strip_prefix("seccomp:"));
    let Some(profile) = profile.filter(|profile| !["unconfined", "builtin"].contains(profile)) else {
        return Some(match text.as_str() {
            "no-new-privileges" => "no-new-privileges:true".to_owned(),
            _ => text,
        });
    };
    let read = context.file(profile).map_err(|error| error.to_string());
    let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
    text.map(|text| format!("seccomp={text}")).map_err(|reason| item.problem(format!("{profile}: {reason}"))).ok()
}

fn device(item: &Field<'_>) -> Option<HostDevice> {
    let Some(source) = item.text_of("source") else {
        item.problem("source is missing: the path of the device on the host");
        return None;
    };
    let target = item.text_of("target").unwrap_or_else(|| source.clone());
    let permissions = item.text_of("permissions").unwrap_or_else(|| "rwm".to_owned());
    Some(HostDevice { source, target, permissions })
}

fn ipc(mode: &Field<'_>) -> Option<IpcMode> {
    let words = [
        ("none", IpcMode::None),
        ("private", IpcMode::Private),
        ("shareable", IpcMode::Shareable),
        ("host", IpcMode::Host),
    ];
    mode.word(&words)
}

fn is_host(service: &Field<'_>, key: &str) -> bool {
    let words = [("host", true), ("private", false), ("", false)];
    service.get(key).and_then(|mode| mode.word(&words)).unwrap_or(false)
}
