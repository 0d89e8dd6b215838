//! A child process whose output is kept and which leaves nobody behind.

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::patience::until;

pub struct Process {
    child: Mutex<Child>,
    pid: Pid,
    pub stdout: Captured,
    pub stderr: Captured,
}

/// What a process has of the system; children that wait to be reaped count as well.
#[derive(Debug, PartialEq, Eq)]
pub struct Holdings {
    pub threads: usize,
    pub descriptors: usize,
    pub children: usize,
}

impl Process {
    /// Starts `command` with an empty standard input.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::piped())
    }

    /// The same with another standard error, of which nothing is captured unless it is a pipe of ours.
    #[track_caller]
    pub fn spawn_with(command: &mut Command, stderr: Stdio) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        Process {
            pid: Pid::from_child(&child),
            stdout: Captured::from(child.stdout.take().expect("a pipe")),
            stderr: child.stderr.take().map_or_else(|| Captured::from(io::empty()), Captured::from),
            child: Mutex::new(child),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a process of ours");
    }

    /// Signals the one child that it has.
    #[track_caller]
    pub fn signal_child(&self, signal: Signal) {
        kill_process(self.child(), signal).expect("a process of ours");
    }

    /// Whether its one child has none, not even one that has ended and was not reaped.
    #[track_caller]
    pub fn child_is_childless(&self) -> bool {
        children(self.child()).is_empty()
    }

    #[track_caller]
    fn child(&self) -> Pid {
        let [child] = children(self.pid)[..] else { panic!("not one child") };
        child
    }

    pub fn id(&self) -> Pid {
        self.pid
    }

    pub fn holdings(&self) -> Holdings {
        let count = |what| {
            fs::read_dir(format!("/proc/{}/{what}", self.pid.as_raw_pid()))
                .expect("a process of ours")
                .count()
        };
        Holdings { threads: count("task"), descriptors: count("fd"), children: children(self.pid).len() }
    }

    /// How it ended, once all it said has been read; `None` when it runs on.
    pub fn ended(&self, within: Duration) -> Option<ExitStatus> {
        until(within, || {
            let status = self.child.lock().unwrap().try_wait().expect("our child");
            status.filter(|_| self.stdout.is_complete() && self.stderr.is_complete())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        if let Ok(None) = child.try_wait() {
            kill_family(self.pid);
            let _ = child.wait();
        }
    }
}

/// Kills a process and all that descend from it. Each is stopped before its children are listed:
/// a stopped parent neither starts nor reaps one, so that every number still means whom we meant.
fn kill_family(pid: Pid) {
    let _ = kill_process(pid, Signal::STOP);
    for child in children(pid) {
        kill_family(child);
    }
    let _ = kill_process(pid, Signal::KILL);
}

fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().to_string();
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| stat(pid).is_some_and(|stat| stat.parent == parent))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Whether a process has ended, reaped or not.
pub fn is_gone(pid: i32) -> bool {
    stat(pid).is_none_or(|stat| stat.state == "Z")
}

struct Stat {
    state: String,
    parent: String,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets, which may itself hold spaces and brackets.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ').map(str::to_owned);
    Some(Stat { state: fields.next()?, parent: fields.next()? })
}

/// What a process has written to one of its streams so far.
pub struct Captured {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Captured {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                written.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Captured { text, reader }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }
}
