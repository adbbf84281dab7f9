//! Power cuts. The store is on its own ext4 in a file. At a random moment the file is copied as it is, which is the
//! content of a disk after a power cut: everything unsynced is missing. After a start from the copy, every acknowledged
//! write must exist.
//!
//! `WHARF_ROUNDS` sets the number of cuts, each on the state after the previous one. Needs root.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tests::load::{self, Writer};
use tests::wait::until;

const IMAGE_SIZE: &str = "192M";
const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it can be run");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A disk in a file, mounted while the value exists.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    fn new(folder: &Path, number: u64) -> Disk {
        let disk = Disk::at(folder, number);
        run("truncate", &["-s", IMAGE_SIZE, disk.image()]);
        run("mkfs.ext4", &["-q", "-F", disk.image()]);
        disk.mount();
        disk
    }

    fn at(folder: &Path, number: u64) -> Disk {
        Disk { image: folder.join(format!("disk-{number}.img")), mounted: folder.join(format!("disk-{number}")) }
    }

    fn image(&self) -> &str {
        self.image.to_str().expect("our own path")
    }

    fn mount(&self) {
        std::fs::create_dir_all(&self.mounted).expect("a folder");
        run("mount", &["-o", "loop", self.image(), self.mounted.to_str().expect("our own path")]);
    }

    /// The disk as a power cut at this moment would leave it.
    fn after_power_cut(&self, folder: &Path, number: u64) -> Disk {
        let copy = Disk::at(folder, number);
        run("cp", &["--sparse=always", self.image(), copy.image()]);
        copy.mount();
        copy
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The process that used it has just been killed and may still hold a file open.
        let unmounted = (0..100).any(|_| {
            let done = Command::new("umount").arg(&self.mounted).stderr(Stdio::null()).status();
            done.is_ok_and(|status| status.success()) || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        });
        if !unmounted {
            eprintln!("{} stays mounted", self.mounted.display());
        }
        std::fs::remove_file(&self.image).ok();
    }
}

/// A coordinator in a group of one.
struct Coordinator {
    process: Child,
    log: PathBuf,
}

impl Coordinator {
    fn start(folder: &Path, disk: &Disk, port: u16) -> Coordinator {
        let address = format!("127.0.0.1:{port}");
        let log_path = folder.join("wharf.log");
        let log = std::fs::File::create(&log_path).expect("a log");
        let process = Command::new(load::load().with_file_name("wharf"))
            // It shares this machine's network, which tests must not change.
            .args([
                "up",
                "--overlay",
                "none",
                "--listen",
                &address,
                "--advertise",
                &address,
                "--docker",
                "/nowhere.sock",
                "--state",
            ])
            .arg(disk.mounted.join("state"))
            .env("WHARF_KEYS", folder.join("keys"))
            .env("WHARF_CONFIG", folder.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it can be run");
        Coordinator { process, log: log_path }
    }

    fn signal(&self, name: &str) {
        run("kill", &[name, &self.process.id().to_string()]);
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let rounds: u64 = std::env::var("WHARF_ROUNDS").map_or(6, |text| text.parse().expect("a number"));
    let port = TcpListener::bind("127.0.0.1:0").and_then(|any| any.local_addr()).expect("a free port").port();
    let load = |arguments: &[&str]| {
        let mut command = Command::new(load::load());
        command.args(arguments).env("WHARF_CONFIG", folder.path().join("config.toml"));
        command
    };
    let mut disk = Disk::new(folder.path(), 0);
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..rounds {
        let coordinator = Coordinator::start(folder.path(), &disk, port);
        until(SOON, "the cluster has a context", || std::fs::metadata(folder.path().join("config.toml")));
        let mut writer = Writer::start(load(&["write", &format!("power-{round}")]));
        // Sometimes right after the start, sometimes long after it.
        writer.wait_for_more(1 + (round as usize * 131) % 400);
        coordinator.signal("-STOP");
        let left = disk.after_power_cut(folder.path(), round + 1);
        acknowledged.extend(writer.abort());
        drop(coordinator);
        disk = left;

        let after = Coordinator::start(folder.path(), &disk, port);
        let mut first = Writer::start(load(&["write", &format!("after-{round}")]));
        first.wait_for_more(1);
        drop(first);
        let count = load::verify(load(&["verify"]), &acknowledged);
        assert_eq!(count, acknowledged.len(), "round {round}");
        drop(after);
    }
    println!("{rounds} power cuts, {} acknowledged writes, all there", acknowledged.len());
}
