//! The log: lines to standard error that never wait for their reader.

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::panic;

use env_logger::Target;
use log::{LevelFilter, error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::stdio::stderr;

/// What a pipe takes in one piece once it is writable at all (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

/// Starts logging. Timestamps are left to who keeps the log: journald, the kubelet and podman all add theirs.
pub fn start(level: LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level)
        .format(|line, record| writeln!(line, "{} {}", record.level(), record.args()))
        .target(Target::Pipe(Box::new(Unblocking { own: own_description(), dropped: 0 })))
        .init();
    panic::set_hook(Box::new(|info| error!("{info}: this is a defect, please report it")));
}

/// Standard error, without its waits: a line that it does not take at once is dropped and counted.
struct Unblocking {
    own: Option<OwnedFd>,
    dropped: u64,
}

/// Standard error once more, by an open description of our own that never waits, where to ask first is not enough: a
/// terminal is ready for a byte and then waits with the rest of a line, and the room in a pipe may be taken by another
/// who writes to it. A pipe that another user made cannot be had like this.
fn own_description() -> Option<OwnedFd> {
    let is_pipe =
        || fstat(stderr()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || open("/proc/self/fd/2", flags, Mode::empty()).ok();
    (io::stderr().is_terminal() || is_pipe()).then(open).flatten()
}

impl Unblocking {
    /// Whether the line was taken. Standard error itself is shared with others, so it is not made non-blocking but
    /// asked first.
    fn take(&self, line: &[u8]) -> bool {
        if let Some(own) = &self.own {
            return rustix::io::write(own, line).is_ok_and(|length| length == line.len());
        }
        let is_ready = {
            let mut fds = [PollFd::from_borrowed_fd(stderr(), PollFlags::OUT)];
            poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 1)
        };
        is_ready && io::stderr().write_all(line).is_ok()
    }
}

impl Write for Unblocking {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 {
            let note = format!("WARN {} lines of this log were lost: nothing took them\n", self.dropped);
            if self.take(note.as_bytes()) {
                self.dropped = 0;
            }
        }
        let taken = match line.get(..MAX_LINE) {
            None => self.take(line),
            Some(start) => self.take(&[&start[..MAX_LINE - 1], b"\n"].concat()),
        };
        if !taken {
            self.dropped += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
