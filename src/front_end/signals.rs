//! The signals that ask the program to stop, as something to wait for. As PID 1 of a container it would not even notice
//! a signal that it does not handle.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn catch() -> io::Result<Self> {
        let (pipe, write_end) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            // In this order: a thread that is woken finds the number.
            flag::register_usize(signal, last.clone(), signal.unsigned_abs() as usize)?;
            pipe::register(signal, write_end.try_clone()?)?;
        }
        Ok(Self { pipe, last })
    }

    /// Whether a signal has come since the last look.
    pub fn have_come(&self) -> bool {
        self.take().0 > 0
    }

    /// How many have come since the last look (several of one kind may count as one), and the latest.
    pub fn take(&self) -> (usize, usize) {
        let count = (&self.pipe).read(&mut [0; 16]).unwrap_or(0);
        (count, self.last.load(Ordering::SeqCst))
    }
}

/// Readable when a signal has come.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
