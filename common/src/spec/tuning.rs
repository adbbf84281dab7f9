//! What the kernel gives a container beside processor time and memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::quantity::Bytes;

/// Limits and weights of the kernel; the engine's own where absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// The most processes and threads; -1 is no limit.
    pub pids_limit: Option<i64>,
    /// Memory and swap together, in bytes; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// How readily its memory is swapped out, from 0 to 100.
    pub memory_swappiness: Option<u32>,
    /// Its share of processor time beside others, where 1024 is usual.
    pub cpu_shares: Option<u32>,
    /// Processor time in each period, in microseconds; -1 is no limit. Not together with a limit in cores.
    pub cpu_quota: Option<i64>,
    /// The period of the quota, in microseconds.
    pub cpu_period: Option<u32>,
    /// The same for tasks in real time.
    pub cpu_rt_runtime: Option<u32>,
    /// The period of that.
    pub cpu_rt_period: Option<u32>,
    /// The cores that it may run on: `0-2,4`.
    pub cpuset: Option<String>,
    /// How readily the kernel kills it when memory runs out, from -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Whether the kernel never kills it for its own limit of memory (control groups of version 1 alone).
    pub oom_kill_disable: bool,
    /// The size of `/dev/shm`; 64 MiB if absent.
    pub shm_size: Option<Bytes>,
    /// Limits of its processes by name: `nofile`, `nproc`, …
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Parameters of the kernel that are its own: `net.*`, `kernel.shm*`, `fs.mqueue.*`, …
    pub sysctls: BTreeMap<String, String>,
    /// What its storage driver is told, such as its `size`.
    pub storage_opt: BTreeMap<String, String>,
    /// Limits and weights of reading and writing devices.
    pub blkio: Blkio,
}

/// A limit of processes (setrlimit(2)); -1 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// What holds.
    pub soft: i64,
    /// Up to where a process may raise it.
    pub hard: i64,
}

/// Limits and weights of reading and writing devices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Blkio {
    /// Its weight beside others, from 10 to 1000.
    pub weight: Option<u16>,
    /// The same for single devices.
    pub weight_device: Vec<DeviceWeight>,
    /// Bytes read in a second.
    pub device_read_bps: Vec<DeviceRate>,
    /// Bytes written in a second.
    pub device_write_bps: Vec<DeviceRate>,
    /// Reads in a second.
    pub device_read_iops: Vec<DeviceRate>,
    /// Writes in a second.
    pub device_write_iops: Vec<DeviceRate>,
}

/// The weight at a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceWeight {
    /// The device's path.
    pub path: String,
    /// From 10 to 1000.
    pub weight: u16,
}

/// A limit at a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceRate {
    /// The device's path.
    pub path: String,
    /// So much in a second.
    pub rate: u64,
}
