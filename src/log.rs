//! The log: lines to standard error that never wait for their reader, nor for a disk.

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::panic;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use env_logger::Target;
use log::{LevelFilter, error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::stdio::stderr;

use crate::timing::LAST_LINES;

/// What a pipe takes in one piece once it is writable at all (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

/// Starts the log. It has no timestamps: journald, the kubelet and podman add their own.
pub fn start(level: LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level)
        .format(|line, record| writeln!(line, "{} {}", record.level(), record.args()))
        .target(Target::Pipe(Box::new(NonBlocking {
            own: own_handle(),
            disk: start_disk_writer(),
            dropped: 0,
        })))
        .init();
    panic::set_hook(Box::new(|info| error!("{info}: this is a defect, please report it")));
}

/// Lines that wait for a disk. When it stands still, later ones are dropped and counted.
const MAX_WAITING: usize = 256;

/// Standard error that never waits. A line that it does not take at once is dropped and counted.
struct NonBlocking {
    own: Option<OwnedFd>,
    /// Takes the lines if it is a file: a disk may stand still, whatever `poll` says.
    disk: Option<SyncSender<Job>>,
    dropped: u64,
}

/// What the thread that writes to a disk has to do.
enum Job {
    Line(Vec<u8>),
    /// Says when all earlier lines are written.
    Flush(SyncSender<()>),
}

static DISK: OnceLock<SyncSender<Job>> = OnceLock::new();

/// Starts a thread that writes to the disk, if standard error is a file. It ends with the process.
fn start_disk_writer() -> Option<SyncSender<Job>> {
    let is_file =
        fstat(stderr()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let (sender, jobs) = is_file.then(|| sync_channel(MAX_WAITING))?;
    let write = move || {
        for job in jobs {
            match job {
                Job::Line(line) => drop(io::stderr().write_all(&line)), // there is no other place to say it
                Job::Flush(done) => drop(done.send(())),
            }
        }
    };
    thread::Builder::new().name("log".to_owned()).spawn(write).ok()?;
    Some(DISK.get_or_init(|| sender).clone())
}

/// Waits a moment until the lines so far are written, before the process ends.
pub fn flush() {
    let Some(disk) = DISK.get() else { return };
    let (done, is_done) = sync_channel(1);
    if disk.try_send(Job::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(LAST_LINES); // the disk may stand still
    }
}

/// Our own non-blocking handle on standard error, where asking first is not enough. A terminal that has room for a byte
/// waits with the rest of a line, and another writer may take the room in a pipe. A pipe that another user made cannot
/// be opened like this.
fn own_handle() -> Option<OwnedFd> {
    let is_pipe =
        || fstat(stderr()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || open("/proc/self/fd/2", flags, Mode::empty()).ok();
    (io::stderr().is_terminal() || is_pipe()).then(open).flatten()
}

impl NonBlocking {
    /// Whether the line was taken. Other processes share standard error itself, so it is not made non-blocking but asked
    /// first.
    fn take(&self, line: &[u8]) -> bool {
        if let Some(disk) = &self.disk {
            return disk.try_send(Job::Line(line.to_vec())).is_ok();
        }
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

impl Write for NonBlocking {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that stands still takes no line from the channel.
    #[test]
    fn a_line_that_a_disk_does_not_take_is_dropped_and_counted() {
        let (sender, lines) = sync_channel(2);
        let mut log = NonBlocking { own: None, disk: Some(sender), dropped: 0 };
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(log.dropped, 2);
        let taken = |job| {
            if let Ok(Job::Line(line)) = job { String::from_utf8(line).unwrap() } else { String::new() }
        };
        assert_eq!([taken(lines.try_recv()), taken(lines.try_recv())], ["one\n", "two\n"]);
        log.write_all(b"five\n").unwrap();
        assert_eq!(taken(lines.try_recv()), "WARN 2 lines of this log were lost: nothing took them\n");
        assert_eq!(taken(lines.try_recv()), "five\n");
    }
}
