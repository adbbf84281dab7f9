//! The load generator as a separate process: in a lab's host, or here.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::lab::said;

/// The longest time until a write is acknowledged, whatever happens to the cluster.
const PATIENCE: Duration = Duration::from_secs(20);

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// The path of the load generator, which is built with this test and lies beside its folder.
pub fn load() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its binary");
    test.parent().and_then(Path::parent).expect("tests lie in a folder of their own").join("load")
}

/// Checks with `load verify` that every acknowledged write exists; returns their number.
pub fn verify(mut command: Command, acknowledged: &[String]) -> usize {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be run");
    let mut stdin = child.stdin.take().expect("it is piped");
    let text = acknowledged.iter().fold(String::new(), |text, line| text + line + "\n");
    // The program may end early, and then prints why.
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()).ok());
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic");
    said(&output).expect("every acknowledged write is there").trim().parse().expect("a number")
}

/// A running loop of writes: `load write`.
pub struct Writer {
    child: Child,
    lines: mpsc::Receiver<String>,
    acknowledged: Vec<String>,
}

impl Writer {
    /// Starts the loop.
    pub fn start(mut command: Command) -> Writer {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be run");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Writer { child, lines, acknowledged: Vec::new() }
    }

    /// Waits for more acknowledgements; returns the time of the last one, in milliseconds.
    pub fn wait_for_more(&mut self, count: usize) -> u64 {
        let mut last = 0;
        for _ in 0..count {
            let line = self.lines.recv_timeout(PATIENCE).expect("writes are acknowledged");
            last = time_of(&line);
            self.acknowledged.push(line);
        }
        last
    }

    /// Takes the acknowledgements so far without waiting; returns the time of the last one, if any.
    pub fn catch_up(&mut self) -> Option<u64> {
        self.acknowledged.extend(self.lines.try_iter());
        self.acknowledged.last().map(|line| time_of(line))
    }

    /// Waits for the first acknowledgement at or after a time; returns its time.
    pub fn wait_past(&mut self, moment: u64) -> u64 {
        loop {
            let at = self.wait_for_more(1);
            if at >= moment {
                return at;
            }
        }
    }

    /// Ends the loop; returns all acknowledged keys.
    pub fn stop(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        self.child.wait().expect("it is ours");
        self.acknowledged.extend(self.lines.iter());
        std::mem::take(&mut self.acknowledged)
    }

    /// Ends the loop at once, even during a write; returns all acknowledged keys.
    pub fn abort(mut self) -> Vec<String> {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
        self.acknowledged.extend(self.lines.iter());
        std::mem::take(&mut self.acknowledged)
    }
}

/// A running loop of calls: `load call`.
pub struct Caller(Child);

impl Caller {
    /// Starts the loop.
    pub fn start(mut command: Command) -> Caller {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Caller(command.spawn().expect("it can be run"))
    }

    /// Ends the loop; returns the number of calls and the messages of the failed ones.
    pub fn stop(mut self) -> (usize, Vec<String>) {
        drop(self.0.stdin.take());
        let stdout = self.0.stdout.take().expect("it is piped");
        let mut lines: Vec<String> = BufReader::new(stdout).lines().map_while(Result::ok).collect();
        self.0.wait().expect("it is ours");
        let calls = lines.pop().and_then(|line| line.parse().ok()).expect("it says at last how many calls it made");
        (calls, lines)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn time_of(line: &str) -> u64 {
    line.split(' ').next().and_then(|at| at.parse().ok()).expect("a line begins with its time")
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
