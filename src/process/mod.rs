//! Runs one `Invocation` under a deadline and an output cap, and gives an `Outcome`. Knows no IPMI.

mod child;
mod reaping;
mod system;

pub use self::child::become_child;
use self::reaping::{reap, running};
pub use self::system::{check_system, find_program, handle_sigchld, protect};

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::secret::Secret;
use crate::timing::{INTERRUPT_GRACE, REAP_TIMEOUT};

/// `ipmitool -v` prints about 2 KiB. Output beyond the cap is read and thrown away.
pub const MAX_OUTPUT: usize = 64 * 1024;

/// A quarter of what a pipe holds by default: a flood of output costs few system calls, and a worker's stack stays small.
const CHUNK: usize = 16 * 1024;

/// As many reads as empty a pipe of the default size, and one more.
const LAST_CHUNKS: usize = 5;

/// Its output is read in English. Nothing else of our own environment is handed on.
const LOCALE: (&str, &str) = ("LC_ALL", "C");

/// A program with its arguments, and secrets for its environment.
#[derive(Debug)]
pub struct Invocation {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub secrets: Vec<(&'static str, Secret)>,
    /// Bytes that are kept of each output.
    pub max_output: usize,
}

impl Invocation {
    /// The command line for the log, ready to paste into a shell that has the secret in its environment.
    pub fn pasteable(&self) -> String {
        let program = self.program.to_string_lossy();
        let words = std::iter::once(&*program).chain(self.arguments.iter().map(String::as_str));
        let mut line = format!("env -i {}={} ", LOCALE.0, LOCALE.1);
        for (name, _) in &self.secrets {
            let _ = write!(line, "{name}=\"${name}\" "); // writing to a String cannot fail
        }
        line + &shell_words::join(words)
    }
}

/// How a run ended, and what it printed.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: Output,
    pub stderr: Output,
    pub end: End,
    /// From its start to its end.
    pub took: Duration,
}

/// The first bytes of an output, and whether more were thrown away.
#[derive(Debug, Default)]
pub struct Output {
    pub bytes: Vec<u8>,
    pub truncated: bool,
}

/// `Exited(…) "…" and on standard error "…"`: what the log says at debug.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}, on standard error {:?}", self.end, self.stdout.text(), self.stderr.text())
    }
}

impl Output {
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

#[derive(Debug)]
pub enum End {
    Exited(ExitStatus),
    /// Stopped at the deadline or by an interrupt.
    Stopped,
    /// Never ran.
    NotStarted(io::Error),
}

/// Ends every run that shares it, now and from now on.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<OwnedFd>);

impl Interrupt {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into()))
    }

    /// Never undone: the descriptor stays readable.
    pub fn raise(&self) {
        let _ = write(&self.0, &1u64.to_ne_bytes()); // fails only when it is raised already
    }
}

/// Runs it to its end, or until `deadline`. By then it is dead and reaped in any case. Blocks.
///
/// Its standard input is `lock`, an empty file that stays locked as long as the run lives, or nothing.
pub fn run(
    invocation: &Invocation,
    lock: Option<OwnedFd>,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Outcome {
    let started = Instant::now();
    let not_started = |error| Outcome {
        stdout: Output::default(),
        stderr: Output::default(),
        end: End::NotStarted(error),
        took: started.elapsed(),
    };
    let input = match lock.map_or_else(null, Ok) {
        Ok(input) => Stdio::from(input),
        Err(error) => return not_started(error),
    };
    let child = Command::new(&invocation.program)
        .args(&invocation.arguments)
        .env_clear()
        .env(LOCALE.0, LOCALE.1)
        .envs(invocation.secrets.iter().map(|(name, secret)| (name, OsStr::from_bytes(secret.expose()))))
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0) // a Ctrl-C at our terminal is not meant for it
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => return not_started(error),
    };
    let pid = Pid::from_child(&child);
    running(pid);
    let outcome = match Run::new(child, invocation.max_output) {
        Ok(run) => run.watch(deadline, interrupt),
        // It has started, and may have sent its command before it was killed.
        Err(error) => {
            warn!("watching {}: {error}: it was killed", invocation.program.display());
            Outcome { end: End::Stopped, ..not_started(error) }
        }
    };
    reap(pid);
    Outcome { took: started.elapsed(), ..outcome }
}

/// A web server's chroot may lack it: then it is that which is missing, and not the program.
fn null() -> io::Result<OwnedFd> {
    let file = File::open("/dev/null");
    file.map(OwnedFd::from).map_err(|error| io::Error::other(format!("opening /dev/null: {error}")))
}

/// A child with its outputs.
struct Run {
    child: Child,
    /// Also its group's: it was made with `process_group(0)`.
    pid: Pid,
    /// A pidfd, since a pipe can outlive the child.
    exited: OwnedFd,
    stdout: Reader,
    stderr: Reader,
}

impl Run {
    fn new(mut child: Child, max_output: usize) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let watched = || {
            let exited = pidfd_open(pid, PidfdFlags::empty())?;
            let reader = |pipe| Reader::new(pipe, max_output);
            Ok((exited, reader(stdout.map(OwnedFd::from))?, reader(stderr.map(OwnedFd::from))?))
        };
        match watched() {
            Ok((exited, stdout, stderr)) => Ok(Self { child, pid, exited, stdout, stderr }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    fn watch(mut self, deadline: Instant, interrupt: &Interrupt) -> Outcome {
        let until = deadline.checked_sub(INTERRUPT_GRACE).unwrap_or(deadline);
        let in_time = self.has_exited_by(until, Some(interrupt));
        if !in_time {
            let _ = kill_process_group(self.pid, Signal::INT);
            self.has_exited_by(deadline.min(Instant::now() + INTERRUPT_GRACE), None);
        }
        // Also for a child that is gone, since it may have left children of its own. It is reaped only after the last
        // signal: until then its number cannot become another process's.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let gone = self.has_exited_by(Instant::now() + REAP_TIMEOUT, None);
        let status = if gone { self.child.wait() } else { Err(io::Error::other("it cannot be killed")) };
        self.stdout.read_last();
        self.stderr.read_last();
        let end = match status {
            Ok(status) if in_time => End::Exited(status),
            _ => End::Stopped,
        };
        Outcome { stdout: self.stdout.kept, stderr: self.stderr.kept, end, took: Duration::ZERO }
    }

    /// Reads what it writes until it has exited, `until` has come or `interrupt` is raised.
    fn has_exited_by(&mut self, until: Instant, interrupt: Option<&Interrupt>) -> bool {
        loop {
            let mut fds = vec![PollFd::new(&self.exited, PollFlags::IN)];
            let pipes = [&self.stdout, &self.stderr].map(|reader| reader.pipe.as_ref());
            fds.extend(pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            fds.extend(interrupt.map(|interrupt| PollFd::new(&interrupt.0, PollFlags::IN)));
            let left = until.saturating_duration_since(Instant::now());
            let ready = match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                // It passes.
                Err(Errno::NOMEM) => {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(_) => return false,
            };
            let exited = !fds[0].revents().is_empty();
            let interrupted = interrupt.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty());
            // A child that never stops writing is always ready: the clock decides as well.
            if exited || interrupted || ready == 0 || left.is_zero() {
                return exited;
            }
            self.stdout.read();
            self.stderr.read();
        }
    }
}

/// Our end of a pipe, until the other end is closed.
struct Reader {
    pipe: Option<OwnedFd>,
    kept: Output,
    most: usize,
}

impl Reader {
    fn new(pipe: Option<OwnedFd>, most: usize) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, kept: Output::default(), most })
    }

    /// Takes a chunk of what is there. True if there may be more.
    fn read(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        let Some(pipe) = &self.pipe else { return false };
        match read(pipe, &mut chunk) {
            Err(Errno::AGAIN | Errno::INTR) => false,
            Ok(0) | Err(_) => {
                self.pipe = None;
                false
            }
            Ok(length) => {
                let room = self.most - self.kept.bytes.len();
                self.kept.bytes.extend_from_slice(&chunk[..length.min(room)]);
                self.kept.truncated |= length > room;
                length == CHUNK
            }
        }
    }

    /// Takes what was written before the end. A process that still holds the pipe may write on; it is not waited for.
    fn read_last(&mut self) {
        for _ in 0..LAST_CHUNKS {
            if !self.read() {
                break;
            }
        }
    }
}
