//! `scripts/lab`, driven from Rust: real hosts with real Docker, in namespaces.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use common::api::{HostView, InstanceView, List, MemberView};
use serde::de::DeserializeOwned;

use crate::{
    load::{self, Caller, Writer, load, root},
    wait::until,
};

/// A lab of hosts; dropping it takes it down.
pub struct Lab {
    folder: PathBuf,
    script: PathBuf,
    hosts: usize,
    seat: Seat,
    /// Variables that differ from the script's defaults.
    environment: Vec<(&'static str, String)>,
}

/// The number of a lab, unique on this machine. Labs with different numbers have their own folders, namespaces and
/// control groups, but can use the same addresses, because each has a bridge in its own namespace. The test runner
/// decides how many run side by side (`.config/nextest.toml`).
struct Seat {
    number: usize,
    /// Locked while the lab exists. The kernel unlocks it even if this process is killed.
    _lock: File,
}

impl Seat {
    fn take() -> Seat {
        let free = |number: usize| {
            let lock = File::create(Path::new("/run").join(format!("wharf-test-lab-{number}"))).ok()?;
            lock.try_lock().ok().map(|()| Seat { number, _lock: lock })
        };
        (0..100).find_map(free).expect("/run can be written, and fewer than 100 labs run")
    }
}

impl Lab {
    /// Hosts h1 to hN, all with wharf, all coordinators.
    pub fn up(hosts: usize) -> Lab {
        Lab::begin(hosts, "up", Vec::new())
    }

    /// Like [`Lab::up`], with the Docker of newer Debians (`scripts/docker 28`), which refuses API versions before 1.44,
    /// as Docker 29 does.
    pub fn on_newer_docker(hosts: usize) -> Lab {
        let fetched =
            Command::new(root().join("scripts/docker")).arg("28").output().context("scripts/docker cannot be run");
        let programs = fetched.and_then(|output| said(&output)).expect("it is fetched");
        let environment =
            vec![("WHARF_LAB_DOCKER", programs.trim().to_owned()), ("DOCKER_MIN_API_VERSION", "1.44".to_owned())];
        Lab::begin(hosts, "up", environment)
    }

    /// Hosts with Docker only.
    pub fn bare(hosts: usize) -> Lab {
        Lab::begin(hosts, "hosts", Vec::new())
    }

    /// Hosts with Docker only, with Docker's own defaults.
    pub fn plain(hosts: usize) -> Lab {
        let names: Vec<String> = (1..=hosts).map(|number| format!("h{number}")).collect();
        Lab::begin(hosts, "hosts", vec![("WHARF_LAB_PLAIN", names.join(" "))])
    }

    fn begin(hosts: usize, how: &str, environment: Vec<(&'static str, String)>) -> Lab {
        let seat = Seat::take();
        let lab = Lab {
            folder: std::env::temp_dir().join(format!("wharf-test-labs/{}", seat.number)),
            script: root().join("scripts/lab"),
            hosts,
            seat,
            environment,
        };
        // Removes the remains of an earlier run that was killed.
        lab.run(&["down"]).expect("the lab's remains can be removed");
        lab.run(&[how, &hosts.to_string()]).expect("the lab comes up");
        lab
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command
            .args(arguments)
            .env("WHARF_LAB", &self.folder)
            .env("WHARF_LAB_PREFIX", format!("wtl{}", self.seat.number))
            .env("WHARF_LAB_NET", "10.97.0")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command of the script; returns its output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output().context("scripts/lab cannot be run")?;
        said(&output).with_context(|| format!("lab {}", arguments.join(" ")))
    }

    /// Runs a command in a host; returns its output.
    pub fn exec(&self, host: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["exec", host], arguments].concat())
    }

    /// Runs a command in a host; returns exit code, stdout and stderr.
    pub fn try_exec(&self, host: &str, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(&[&["exec", host], arguments].concat()).stdin(Stdio::null()).output();
        let output = output.expect("scripts/lab can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Runs `docker` in a host; returns its output.
    pub fn docker(&self, host: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["docker", host], arguments].concat())
    }

    /// Runs `wharf ARGUMENTS -o json` in a host; returns the decoded output.
    pub fn wharf<T: DeserializeOwned>(&self, host: &str, arguments: &[&str]) -> anyhow::Result<T> {
        let said = self.exec(host, &[&["wharf"], arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("wharf {} said {said}", arguments.join(" ")))
    }

    /// All instances, as listed by a host's command line.
    pub fn instances(&self, host: &str) -> anyhow::Result<Vec<InstanceView>> {
        self.wharf::<List<InstanceView>>(host, &["ps"]).map(|list| list.items)
    }

    /// All hosts, as listed by a host's command line.
    pub fn hosts(&self, host: &str) -> anyhow::Result<Vec<HostView>> {
        self.wharf::<List<HostView>>(host, &["host", "ls"]).map(|list| list.items)
    }

    /// All members, as listed by a host's command line.
    pub fn members(&self, host: &str) -> anyhow::Result<Vec<MemberView>> {
        self.wharf(host, &["member", "ls"])
    }

    /// The host whose coordinator leads.
    pub fn leader(&self) -> anyhow::Result<String> {
        let members = self.members("h1")?;
        let leader = members.iter().find(|member| member.state == "leader").context("no member leads")?;
        Ok(format!("h{}", leader.address.to_string().split(['.', ':']).nth(3).context("an address")?))
    }

    /// The names of all hosts.
    pub fn names(&self) -> Vec<String> {
        (1..=self.hosts).map(|number| format!("h{number}")).collect()
    }

    /// The path of the binary, which every host sees.
    pub fn binary(&self) -> String {
        load().with_file_name("wharf").display().to_string()
    }

    /// The path of the load generator, which every host sees, and which can be mounted into containers.
    pub fn load(&self) -> String {
        load().display().to_string()
    }

    /// Copies one host's state folder to another, like a cloned disk.
    pub fn copy_state(&self, from: &str, to: &str) {
        let (from, to) = (self.folder.join(from).join("wharf"), self.folder.join(to).join("wharf"));
        let copied = Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(&to).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} is copied", from.display());
        std::fs::remove_file(to.join("wharf.log")).ok();
    }

    /// Waits until a host's log contains some words; returns the whole log.
    pub fn wait_for_log(&self, host: &str, limit: Duration, words: &str) -> String {
        let path = self.folder.join(host).join("wharf/wharf.log");
        until(limit, &format!("{host} logs {words}"), || {
            let log = std::fs::read_to_string(&path)?;
            ensure!(log.contains(words), "it says {log}");
            anyhow::Ok(log)
        })
    }

    /// Writes a file into a host's home; returns its path there.
    pub fn put_file(&self, host: &str, name: &str, text: &str) -> String {
        let path = self.folder.join(host).join("root").join(name);
        std::fs::write(&path, text).expect("the home is there");
        path.display().to_string()
    }

    /// The cluster's running containers on a host: name and Docker id.
    pub fn running(&self, host: &str) -> anyhow::Result<Vec<(String, String)>> {
        let listed = self.docker(host, &["ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}"])?;
        let mut running: Vec<_> = listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, id)| (name.to_owned(), id.to_owned()))
            .collect();
        running.sort();
        Ok(running)
    }

    /// The running containers of every host that answers.
    pub fn all_running(&self) -> Vec<(String, Vec<(String, String)>)> {
        self.names().into_iter().filter_map(|host| self.running(&host).ok().map(|running| (host, running))).collect()
    }

    /// Deploys a file from h1 and waits until it runs.
    pub fn deploy(&self, name: &str, compose: &str) {
        let path = self.put_file("h1", &format!("{name}.yaml"), compose);
        self.exec("h1", &["wharf", "deploy", "-f", &path, "-n", name, "-y", "--wait", "60s"]).expect("it is deployed");
    }

    /// Waits until this many containers run in total.
    pub fn wait_for_running(&self, limit: Duration, wanted: usize) -> Vec<(String, Vec<(String, String)>)> {
        until(limit, &format!("{wanted} containers run"), || {
            let running = self.all_running();
            let count: usize = running.iter().map(|(_, containers)| containers.len()).sum();
            if count == wanted { Ok(running) } else { Err(format!("{count}: {running:?}")) }
        })
    }

    /// Waits until all members vote, one of them leads, and all hosts are ready.
    pub fn wait_until_whole(&self, limit: Duration) {
        until(limit, "the cluster is whole", || {
            let members = self.members("h1")?;
            let hosts = self.hosts("h1")?;
            let ready = hosts.iter().filter(|host| host.liveness.word() == "ready").count();
            ensure!(members.iter().filter(|member| member.state == "leader").count() == 1, "{members:?}");
            ensure!(ready == self.hosts, "{hosts:?}");
            anyhow::Ok(())
        });
    }

    /// Writes keys from a host until the writer is stopped.
    pub fn writer(&self, host: &str, prefix: &str) -> Writer {
        Writer::start(self.command(&["exec", host, &load().display().to_string(), "write", prefix]))
    }

    /// Calls every instance of a service from a host until the caller is stopped.
    pub fn caller(&self, host: &str, service: &str) -> Caller {
        Caller::start(self.command(&["exec", host, &load().display().to_string(), "call", service]))
    }

    /// Checks that every acknowledged write exists; returns their number.
    pub fn verify(&self, host: &str, acknowledged: &[String]) -> usize {
        load::verify(self.command(&["exec", host, &load().display().to_string(), "verify"]), acknowledged)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in self.names() {
                let log = self.folder.join(&host).join("wharf/wharf.log");
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(25).collect();
                eprintln!("--- {host}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        if let Err(error) = self.run(&["down"]) {
            eprintln!("the lab is not taken down: {error:#}");
        }
    }
}

pub(crate) fn said(output: &Output) -> anyhow::Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
