//! Kernel limits and weights of a container besides CPU and memory.

use std::collections::BTreeMap;

use common::{
    quantity::Bytes,
    spec::{Blkio, DeviceRate, DeviceWeight, Tuning, Ulimit},
    time::Span,
};

use super::environment::texts;
use crate::field::{Field, cut, whole};

/// Reads these settings.
pub(super) fn tuning(service: &Field<'_>) -> Tuning {
    let of_deploy = service.along(&["deploy", "resources", "limits", "pids"]);
    let pids = of_deploy.or_else(|| service.get("pids_limit"));
    Tuning {
        pids_limit: pids.and_then(|pids| pids.number()),
        memory_swap: service.get("memswap_limit").and_then(|limit| bytes_or_none(&limit)),
        memory_swappiness: service.number_of("mem_swappiness"),
        cpu_shares: service.number_of("cpu_shares"),
        cpu_quota: service.get("cpu_quota").and_then(|quota| microseconds(&quota)),
        cpu_period: service.get("cpu_period").and_then(|period| microseconds(&period)),
        cpu_rt_runtime: service.get("cpu_rt_runtime").and_then(|runtime| microseconds(&runtime)),
        cpu_rt_period: service.get("cpu_rt_period").and_then(|period| microseconds(&period)),
        cpuset: service.text_of("cpuset"),
        oom_score_adj: service.number_of("oom_score_adj"),
        oom_kill_disable: service.is("oom_kill_disable"),
        shm_size: service.parse_of("shm_size"),
        ulimits: ulimits(service),
        sysctls: texts(service, "sysctls"),
        storage_opt: texts(service, "storage_opt"),
        blkio: service.get("blkio_config").map(|config| blkio(&config)).unwrap_or_default(),
    }
}

/// An amount of memory, or -1 for no limit.
fn bytes_or_none(field: &Field<'_>) -> Option<i64> {
    if field.text()? == "-1" {
        return Some(-1);
    }
    i64::try_from(field.parse::<Bytes>()?.0).ok()
}

/// Reads a number of microseconds, or a duration such as `400ms`.
fn microseconds<T: TryFrom<i64>>(field: &Field<'_>) -> Option<T> {
    let text = field.text()?;
    let duration = || text.parse::<Span>().ok().and_then(|span| i64::try_from(span.0).ok()?.checked_mul(1000));
    let number = whole(&text).or_else(duration).and_then(|number| T::try_from(number).ok());
    if number.is_none() {
        field.problem(format!("{:?} is neither a number of microseconds nor a duration such as 400ms", cut(&text)));
    }
    number
}

fn ulimits(service: &Field<'_>) -> BTreeMap<String, Ulimit> {
    let mut found = BTreeMap::new();
    for (name, field) in service.entries_of("ulimits") {
        let limit = if field.is_mapping() {
            let (Some(soft), Some(hard)) = (field.get("soft"), field.get("hard")) else {
                field.problem("both soft and hard are required, or one number for both");
                continue;
            };
            soft.number().zip(hard.number()).map(|(soft, hard)| Ulimit { soft, hard })
        } else {
            field.number().map(|both| Ulimit { soft: both, hard: both })
        };
        found.extend(limit.map(|limit| (name.to_owned(), limit)));
    }
    found
}

fn blkio(config: &Field<'_>) -> Blkio {
    let rates = |key: &str| config.items_of(key).iter().filter_map(rate).collect();
    let weight = |item: Field<'_>| {
        Some(DeviceWeight { path: needed(&item, "path")?.text()?, weight: needed(&item, "weight")?.number()? })
    };
    Blkio {
        weight: config.number_of("weight"),
        weight_device: config.items_of("weight_device").into_iter().filter_map(weight).collect(),
        device_read_bps: rates("device_read_bps"),
        device_write_bps: rates("device_write_bps"),
        device_read_iops: rates("device_read_iops"),
        device_write_iops: rates("device_write_iops"),
    }
}

fn rate(item: &Field<'_>) -> Option<DeviceRate> {
    Some(DeviceRate { path: needed(item, "path")?.text()?, rate: needed(item, "rate")?.parse::<Bytes>()?.0 })
}

fn needed<'a>(field: &Field<'a>, key: &str) -> Option<Field<'a>> {
    let found = field.get(key);
    if found.is_none() {
        field.problem(format!("{key} is missing"));
    }
    found
}
