//! The threads of one BMC, one for changes and one for reads. They take from its queue, run, and deliver.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use log::{debug, info, warn};

use super::Bmc;
use crate::failure::{Code, Failure};
use crate::http::Response;
use crate::queue::{Cancelled, ClientId, Enqueued, Kind, Queue};
use crate::request::Admitted;

/// Takes the reply for these clients. It must not block.
pub type Deliver = dyn Fn(&[ClientId], &Response) + Send + Sync;

#[derive(Debug, Default)]
pub(super) struct Workers {
    state: Mutex<State>,
    /// There is a change to start, or the queue was closed.
    change_waits: Condvar,
    /// The same for reads.
    read_waits: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    is_closed: bool,
}

impl Workers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn waits(&self, kind: Kind) -> &Condvar {
        match kind {
            Kind::Change => &self.change_waits,
            Kind::Read => &self.read_waits,
        }
    }

    /// The next request, as soon as there is one. `None` once the queue is closed and empty.
    fn next(&self, kind: Kind) -> Option<Arc<Admitted>> {
        let mut state = self.state();
        loop {
            if let Some(admitted) = state.queue.start(kind, Instant::now()) {
                return Some(admitted);
            }
            if state.is_closed {
                return None;
            }
            state = self.waits(kind).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Bmc {
    /// # Errors
    /// When the system has no thread left.
    pub fn start_workers(self: &Arc<Self>, deliver: &Arc<Deliver>) -> io::Result<()> {
        for (name, kind) in [("changes", Kind::Change), ("reads", Kind::Read)] {
            let (bmc, deliver) = (self.clone(), deliver.clone());
            let thread =
                thread::Builder::new().name(name.to_owned()).spawn(move || bmc.work(kind, &*deliver))?;
            self.workers.threads().push(thread);
        }
        Ok(())
    }

    fn work(&self, kind: Kind, deliver: &Deliver) {
        while let Some(admitted) = self.workers.next(kind) {
            // Our own locks survive a panic: they hold nothing half-done.
            let response = catch_unwind(AssertUnwindSafe(|| self.carry_out(&admitted, None)))
                .unwrap_or_else(|_| Failure::from(Code::Internal).reply(Some(admitted.command())));
            // The run ends before its replies go out. A client that has its reply finds the queue without it.
            let clients = self.workers.state().queue.finish(kind, Instant::now());
            deliver(&clients, &response);
        }
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// Why the queue does not take it.
    pub fn enqueue(&self, client: ClientId, admitted: Admitted) -> Result<(), Failure> {
        let admitted = Arc::new(admitted);
        let kind = Kind::of(&admitted);
        let mut state = self.workers.state();
        match (state.queue.enqueue(client, admitted.clone(), Instant::now())?, kind) {
            (Enqueued::Shared, Kind::Change) => debug!("{admitted} waits for the same delivery"),
            (Enqueued::New, Kind::Change) => info!("{admitted} accepted"),
            (_, Kind::Read) => {}
        }
        self.workers.waits(kind).notify_one();
        Ok(())
    }

    /// See [`Queue::cancel`].
    pub fn cancel(&self, client: ClientId) -> Option<Cancelled> {
        self.workers.state().queue.cancel(client)
    }

    /// Ends what runs, and cancels what waits.
    pub fn stop_now(&self) {
        for admitted in self.workers.state().queue.cancel_all() {
            warn!("{admitted} not run: told to stop at once");
        }
        self.interrupt.raise();
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.workers.state().queue.is_idle()
    }

    /// Waits for the workers, which end once the queue is empty.
    pub fn join_workers(&self) {
        self.workers.state().is_closed = true;
        for kind in [Kind::Change, Kind::Read] {
            self.workers.waits(kind).notify_one();
        }
        let threads = std::mem::take(&mut *self.workers.threads());
        for thread in threads {
            let _ = thread.join(); // a worker's panics are caught where they happen
        }
    }
}
