//! The threads of one BMC: for changes, for reads, and for readings of all sensors. Each starts when it is first needed.
//! They take from the queue, run, and deliver.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};

use super::Bmc;
use crate::failure::{Code, Failure};
use crate::http::Response;
use crate::queue::{Cancelled, ClientId, Enqueued, Kind, Queue, Start};
use crate::request::Admitted;

/// Takes the reply for these clients. It must not block.
pub type Deliver = dyn Fn(&[ClientId], &Response) + Send + Sync;

#[derive(Default)]
pub(super) struct Workers {
    state: Mutex<State>,
    /// There is a change to start, or the queue was closed.
    change_waits: Condvar,
    /// The same for reads.
    read_waits: Condvar,
    /// The same for readings of sensors.
    sensors_wait: Condvar,
    /// Those that were needed so far.
    threads: Mutex<Vec<(Kind, JoinHandle<()>)>>,
    deliver: OnceLock<Arc<Deliver>>,
}

/// Without what delivers, which is a function.
impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("state", &self.state).finish_non_exhaustive()
    }
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

    fn threads(&self) -> MutexGuard<'_, Vec<(Kind, JoinHandle<()>)>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn waits(&self, kind: Kind) -> &Condvar {
        match kind {
            Kind::Change => &self.change_waits,
            Kind::Read => &self.read_waits,
            Kind::Sensors => &self.sensors_wait,
        }
    }

    /// The next request, as soon as there is one. `None` once the queue is closed and empty.
    fn next(&self, kind: Kind) -> Option<Start> {
        let mut state = self.state();
        loop {
            if let Some(start) = state.queue.start(kind, Instant::now()) {
                return Some(start);
            }
            if state.is_closed {
                return None;
            }
            state = self.waits(kind).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Bmc {
    /// Says where replies go. Each worker starts when it is first needed: of sixteen BMCs, most are only read.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start_workers(&self, deliver: &Arc<Deliver>) -> io::Result<()> {
        self.target.watch()?;
        self.sensors.open()?;
        let _ = self.workers.deliver.set(deliver.clone()); // it is set once
        Ok(())
    }

    /// Starts the worker for this kind, unless it runs already.
    fn need_worker(self: &Arc<Self>, kind: Kind) -> io::Result<()> {
        let mut threads = self.workers.threads();
        if threads.iter().any(|(own, _)| *own == kind) {
            return Ok(());
        }
        let bmc = self.clone();
        let thread = thread::Builder::new().name(kind.name().to_owned()).spawn(move || bmc.work(kind))?;
        threads.push((kind, thread));
        Ok(())
    }

    fn work(&self, kind: Kind) {
        while let Some(start) = self.workers.next(kind) {
            match start {
                Start::Run(admitted) => {
                    // Our own locks survive a panic: they hold nothing half-done.
                    let response = catch_unwind(AssertUnwindSafe(|| self.carry_out(&admitted, None)))
                        .unwrap_or_else(|_| Failure::from(Code::Internal).reply(Some(admitted.command())));
                    // The run ends before its replies go out. A client that has its reply finds the queue without it.
                    let clients = self.workers.state().queue.finish(kind, Instant::now());
                    self.deliver(&clients, &response);
                }
                Start::Abandoned(clients) => self.give_up_abandoned(clients),
            }
        }
    }

    fn deliver(&self, clients: &[ClientId], response: &Response) {
        if let Some(deliver) = self.workers.deliver.get() {
            deliver(clients, response);
        }
    }

    /// The clients of a change that have all left may still read.
    fn give_up_abandoned(&self, clients: Vec<(ClientId, Arc<Admitted>)>) {
        for (client, admitted) in clients {
            self.deliver(&[client], &self.give_up(&admitted, Failure::client_left()));
        }
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// The reply to a request that the queue does not take.
    pub fn enqueue(self: &Arc<Self>, client: ClientId, admitted: Admitted) -> Result<(), Response> {
        let admitted = Arc::new(admitted);
        let kind = Kind::of(&admitted);
        if kind == Kind::Change && admitted.client_has_left() {
            return Err(self.give_up(&admitted, Failure::client_left()));
        }
        if admitted.waits_until() <= Instant::now() {
            return Err(self.give_up(&admitted, Failure::body_too_late()));
        }
        if let Err(error) = self.need_worker(kind) {
            return Err(
                self.give_up(&admitted, Code::Internal.because(format!("starting a thread: {error}")))
            );
        }
        let mut state = self.workers.state();
        match (state.queue.enqueue(client, admitted.clone(), Instant::now()), kind) {
            (Err(failure), _) => return Err(self.refuse(&admitted, &failure)),
            (Ok(Enqueued::Shared), Kind::Change) => debug!("{admitted} waits for the same delivery"),
            (Ok(Enqueued::New), Kind::Change) => info!("{admitted} accepted"),
            (Ok(_), Kind::Read | Kind::Sensors) => {}
        }
        self.workers.waits(kind).notify_one();
        Ok(())
    }

    /// The client has ended its side of the connection, and may still read. Its change is not run, unless it has started
    /// or another client waits for it. Its read is run.
    pub fn client_has_ended(&self, client: ClientId) {
        let abandoned = self.workers.state().queue.cancel_abandoned(client);
        self.give_up_abandoned(abandoned);
    }

    /// The client cannot be answered any more.
    pub fn client_is_gone(&self, client: ClientId) {
        let Some(Cancelled { admitted, is_shared: false }) = self.cancel(client) else { return };
        // A dashboard that hangs up on a slow BMC, poll after poll, must not fill a disk.
        let level = if admitted.command().is_change() { Level::Info } else { Level::Debug };
        log!(level, "{admitted} not run: the client is gone");
    }

    /// See [`Queue::has_delivery`].
    pub fn is_under_way(&self, admitted: &Admitted) -> bool {
        self.workers.state().queue.has_delivery(admitted)
    }

    /// See [`Queue::cancel`].
    pub fn cancel(&self, client: ClientId) -> Option<Cancelled> {
        self.workers.state().queue.cancel(client)
    }

    /// Ends a reading of sensors. Its callers get the last list.
    pub fn stop_sensors(&self) {
        self.sensors.stop();
    }

    /// Ends what runs, and cancels what waits.
    pub fn stop_now(&self) {
        self.stop_sensors();
        for admitted in self.workers.state().queue.cancel_all() {
            warn!("{admitted} not run: told to stop at once");
        }
        self.interrupt.raise();
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.workers.state().queue.is_idle()
    }

    /// Waits for the workers, which end once the queue is empty. The one that reads sensors may wait for a disk that hangs,
    /// and is left to it after `until`.
    pub fn join_workers(&self, until: Instant) {
        self.workers.state().is_closed = true;
        for kind in Kind::ALL {
            self.workers.waits(kind).notify_one();
        }
        let threads = std::mem::take(&mut *self.workers.threads());
        for (kind, thread) in threads {
            while kind == Kind::Sensors && !thread.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1)); // its run has been told to end, and is about to
            }
            if kind != Kind::Sensors || thread.is_finished() {
                let _ = thread.join(); // a worker's panics are caught where they happen
            }
        }
    }
}
