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

/// A lab of hosts; it is taken down when it is dropped.
pub struct Lab {
    folder: PathBuf,
    script: PathBuf,
    hosts: usize,
    seat: Seat,
    /// What differs from the script's defaults.
    environment: Vec<(&'static str, String)>,
}

/// The number of a lab, which no other lab of this machine has at the same time. Labs of different numbers have
/// folders, namespaces and control groups of their own, and may have the same addresses: each hangs on a bridge in a
/// namespace of its own. How many run side by side is the test runner's choice (`.config/nextest.toml`).
struct Seat {
    number: usize,
    /// Locked while the lab exists; the kernel unlocks it even if this process is killed.
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

    /// The same on a Docker of newer Debians (`scripts/docker28`), which refuses versions of its API before 1.44 as Docker
    /// 29 does.
    pub fn on_newer_docker(hosts: usize) -> Lab {
        let fetched = Command::new(root().join("scripts/docker28")).output().context("scripts/docker28 cannot be run");
        let programs = fetched.and_then(|output| said(&output)).expect("it is fetched");
        let environment =
            vec![("WHARF_LAB_DOCKER", programs.trim().to_owned()), ("DOCKER_MIN_API_VERSION", "1.44".to_owned())];
        Lab::begin(hosts, "up", environment)
    }

    /// Hosts with Docker alone.
    pub fn bare(hosts: usize) -> Lab {
        Lab::begin(hosts, "hosts", Vec::new())
    }

    /// Hosts with Docker alone, as it comes: with its own defaults.
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
        // Whatever an earlier run that was ended by force has left.
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

    /// Runs a command of the script; its output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output().context("scripts/lab cannot be run")?;
        said(&output).with_context(|| format!("lab {}", arguments.join(" ")))
    }

    /// Runs something in a host; its output.
    pub fn exec(&self, host: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["exec", host], arguments].concat())
    }

    /// Runs something in a host; exit code, stdout, stderr.
    pub fn try_exec(&self, host: &str, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(&[&["exec", host], arguments].concat()).stdin(Stdio::null()).output();
        let output = output.expect("scripts/lab can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Runs a host's Docker.
    pub fn docker(&self, host: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["docker", host], arguments].concat())
    }

    /// What `wharf ARGUMENTS -o json` says on a host.
    pub fn wharf<T: DeserializeOwned>(&self, host: &str, arguments: &[&str]) -> anyhow::Result<T> {
        let said = self.exec(host, &[&["wharf"], arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("wharf {} said {said}", arguments.join(" ")))
    }

    /// All instances, as a host's command line sees them.
    pub fn instances(&self, host: &str) -> anyhow::Result<Vec<InstanceView>> {
        self.wharf::<List<InstanceView>>(host, &["ps"]).map(|list| list.items)
    }

    /// All hosts.
    pub fn hosts(&self, host: &str) -> anyhow::Result<Vec<HostView>> {
        self.wharf::<List<HostView>>(host, &["host", "ls"]).map(|list| list.items)
    }

    /// The members.
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

    /// The path of the load generator, which every host sees, and containers may be given.
    pub fn load(&self) -> String {
        load().display().to_string()
    }

    /// Copies one host's state folder to another, as a cloned disk would.
    pub fn copy_state(&self, from: &str, to: &str) {
        let (from, to) = (self.folder.join(from).join("wharf"), self.folder.join(to).join("wharf"));
        let copied = Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(&to).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} is copied", from.display());
        std::fs::remove_file(to.join("wharf.log")).ok();
    }

    /// Waits until a host's log says something; the whole log.
    pub fn wait_for_log(&self, host: &str, limit: Duration, words: &str) -> String {
        let path = self.folder.join(host).join("wharf/wharf.log");
        until(limit, &format!("{host} logs {words}"), || {
            let log = std::fs::read_to_string(&path)?;
            ensure!(log.contains(words), "it says {log}");
            anyhow::Ok(log)
        })
    }

    /// Writes a file into a host's home; its path there.
    pub fn put_file(&self, host: &str, name: &str, text: &str) -> String {
        let path = self.folder.join(host).join("root").join(name);
        std::fs::write(&path, text).expect("the home is there");
        path.display().to_string()
    }

    /// The containers of a cluster on a host that run: name and Docker's id.
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

    /// Waits until so many containers run in all.
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

    /// Expects every acknowledged write to be there; how many there were.
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
