//! Replies on their way from the workers to the thread that owns the sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use crate::http::Response;
use crate::queue::ClientId;

#[derive(Debug)]
pub(super) struct Replies {
    ready: Mutex<Vec<(ClientId, Response)>>,
    /// Readable when there is a reply.
    pub wake: OwnedFd,
}

impl Replies {
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { ready: Mutex::default(), wake })
    }

    fn ready(&self) -> MutexGuard<'_, Vec<(ClientId, Response)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, clients: &[ClientId], response: &Response) {
        self.ready().extend(clients.iter().map(|client| (*client, response.clone())));
        let _ = write(&self.wake, &1u64.to_ne_bytes()); // fails only when it is readable anyway
    }

    pub fn take(&self) -> Vec<(ClientId, Response)> {
        let _ = read(&self.wake, &mut [0; 8]); // fails only when there is nothing to take
        std::mem::take(&mut *self.ready())
    }
}
