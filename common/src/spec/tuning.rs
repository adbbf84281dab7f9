//! Kernel limits and weights of a container besides CPU and memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::quantity::Bytes;

/// Kernel limits and weights; Docker's defaults where absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// The maximum number of processes and threads; -1 means no limit.
    pub pids_limit: Option<i64>,
    /// The limit for memory and swap together, in bytes; -1 means no limit.
    pub memory_swap: Option<i64>,
    /// How readily the kernel swaps out its memory, from 0 to 100.
    pub memory_swappiness: Option<u32>,
    /// Its relative weight for CPU; the default is 1024.
    pub cpu_shares: Option<u32>,
    /// CPU time per period, in microseconds; -1 means no limit. Cannot be combined with a limit in cores.
    pub cpu_quota: Option<i64>,
    /// The period of the quota, in microseconds.
    pub cpu_period: Option<u32>,
    /// The quota for realtime tasks, in microseconds.
    pub cpu_rt_runtime: Option<u32>,
    /// The period of the realtime quota, in microseconds.
    pub cpu_rt_period: Option<u32>,
    /// The cores that it may use: `0-2,4`.
    pub cpuset: Option<String>,
    /// How readily the kernel kills it when memory runs out, from -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Whether the kernel never kills it for exceeding its own memory limit (only cgroups v1).
    pub oom_kill_disable: bool,
    /// The size of `/dev/shm`; 64 MiB if absent.
    pub shm_size: Option<Bytes>,
    /// Process limits by name: `nofile`, `nproc`, …
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel parameters of its own namespaces: `net.*`, `kernel.shm*`, `fs.mqueue.*`, …
    pub sysctls: BTreeMap<String, String>,
    /// Options for Docker's storage driver, such as `size`.
    pub storage_opt: BTreeMap<String, String>,
    /// Limits and weights for block devices.
    pub blkio: Blkio,
}

/// A process limit (setrlimit(2)); -1 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// The limit in effect.
    pub soft: i64,
    /// The maximum to which a process may raise the soft limit.
    pub hard: i64,
}

/// Limits and weights for reading and writing block devices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Blkio {
    /// Its relative weight, from 10 to 1000.
    pub weight: Option<u16>,
    /// Relative weights for single devices.
    pub weight_device: Vec<DeviceWeight>,
    /// Bytes read per second.
    pub device_read_bps: Vec<DeviceRate>,
    /// Bytes written per second.
    pub device_write_bps: Vec<DeviceRate>,
    /// Read operations per second.
    pub device_read_iops: Vec<DeviceRate>,
    /// Write operations per second.
    pub device_write_iops: Vec<DeviceRate>,
}

/// A relative weight for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceWeight {
    /// The path of the device.
    pub path: String,
    /// The weight, from 10 to 1000.
    pub weight: u16,
}

/// A limit for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceRate {
    /// The path of the device.
    pub path: String,
    /// Bytes or operations per second.
    pub rate: u64,
}
