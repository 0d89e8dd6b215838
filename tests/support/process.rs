//! A child process. Its output is captured, and its descendants are killed with it.

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, setpriority_process};

use super::waiting::wait_for;

pub struct Process {
    child: Mutex<Child>,
    pid: Pid,
    pub stdout: CapturedStream,
    pub stderr: CapturedStream,
}

/// The system resources that a process uses. Children that are not reaped yet count too.
#[derive(Debug, PartialEq, Eq)]
pub struct Resources {
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

    /// Like [`Process::spawn`], with another standard error. It is captured only if it is [`Stdio::piped`].
    #[track_caller]
    pub fn spawn_with(command: &mut Command, stderr: Stdio) -> Self {
        go_first();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        Process {
            pid: Pid::from_child(&child),
            stdout: CapturedStream::from(child.stdout.take().expect("a pipe")),
            stderr: child
                .stderr
                .take()
                .map_or_else(|| CapturedStream::from(io::empty()), CapturedStream::from),
            child: Mutex::new(child),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("our process");
    }

    /// Signals the only child of this process.
    #[track_caller]
    pub fn signal_child(&self, signal: Signal) {
        kill_process(self.child(), signal).expect("our process");
    }

    /// True when the only child of this process has no children, not even unreaped ones.
    #[track_caller]
    pub fn child_has_no_children(&self) -> bool {
        children(self.child()).is_empty()
    }

    /// How many children the only child of this process has; unreaped ones count.
    #[track_caller]
    pub fn children_of_child(&self) -> usize {
        children(self.child()).len()
    }

    #[track_caller]
    fn child(&self) -> Pid {
        let [child] = children(self.pid)[..] else { panic!("expected exactly one child") };
        child
    }

    pub fn id(&self) -> Pid {
        self.pid
    }

    pub fn resources(&self) -> Resources {
        let count = |what| {
            // It holds secrets and lets no other process of its user look into it.
            let entries = fs::read_dir(format!("/proc/{}/{what}", self.pid.as_raw_pid()));
            entries.expect("a look into the process: run the tests as root").count()
        };
        Resources { threads: count("task"), descriptors: count("fd"), children: children(self.pid).len() }
    }

    /// The exit status, once the process has ended and all of its output has been read. `None` if it still
    /// runs.
    pub fn ended(&self, within: Duration) -> Option<ExitStatus> {
        wait_for(within, || {
            let status = self.child.lock().unwrap().try_wait().expect("our child");
            status.filter(|_| self.stdout.is_complete() && self.stderr.is_complete())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        if let Ok(None) = child.try_wait() {
            kill_tree(self.pid);
            let _ = child.wait();
        }
    }
}

/// Kills a process and all of its descendants. Each process is stopped before its children are listed. A
/// stopped process cannot start or reap a child, so each process ID still belongs to the listed child.
fn kill_tree(pid: Pid) {
    let _ = kill_process(pid, Signal::STOP);
    for child in children(pid) {
        kill_tree(child);
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

/// True when a process has ended, reaped or not.
pub fn has_ended(pid: i32) -> bool {
    stat(pid).is_none_or(|stat| stat.state == "Z")
}

struct Stat {
    state: String,
    parent: String,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets. The name itself may contain spaces and brackets.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ').map(str::to_owned);
    Some(Stat { state: fields.next()?, parent: fields.next()? })
}

/// The output of a process so far, from one stream.
pub struct CapturedStream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl CapturedStream {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                written.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        CapturedStream { text, reader }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }
}

/// Another build on the same machine must not take the processor from the sidecar: its limits say nothing of that. What
/// this thread starts from now on inherits the priority. Only root may raise it.
fn go_first() {
    const PRIORITY: i32 = -10;
    let _ = setpriority_process(None, PRIORITY); // without it a quiet machine is needed
}
