//! The small thread pool: two lanes of one worker each, changes and reads.
//!
//! Changes run strictly in the order in which they arrived. Reads that wait for the same command share its run. So a
//! change never waits behind a dashboard, and the BMC sees at most two sessions.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{debug, info, warn};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use crate::http::Response;
use crate::ipmi::Command;
use crate::reply::Problem;
use crate::sidecar::{Admitted, Sidecar};

/// A quick BMC is done with them in a second, and a server needs no more: an automation loops.
const MAX_CHANGES: usize = 8;

/// Those who share a read often ask again at once, and the first to do so would run alone while the others wait for
/// its end: so their lane waits this long for them, a twentieth of what a quick BMC takes.
const GATHER: Duration = Duration::from_millis(5);

/// Who waits for an answer: a number that is given once.
pub type ClientId = u64;

/// Takes commands and gives back replies; drop it to let the workers go once they are done.
#[derive(Debug)]
pub struct Lanes {
    changes: Arc<Lane>,
    reads: Arc<Lane>,
    outbox: Arc<Outbox>,
    workers: Vec<JoinHandle<()>>,
}

impl Lanes {
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(sidecar: &Arc<Sidecar>) -> io::Result<Self> {
        let outbox = Arc::new(Outbox::new()?);
        let mut lanes = Self { changes: Arc::default(), reads: Arc::default(), outbox, workers: Vec::new() };
        for (name, lane) in [("changes", lanes.changes.clone()), ("reads", lanes.reads.clone())] {
            let (sidecar, outbox) = (sidecar.clone(), lanes.outbox.clone());
            let worker = move || lane.work(&sidecar, &outbox);
            lanes.workers.push(thread::Builder::new().name(name.to_owned()).spawn(worker)?);
        }
        Ok(lanes)
    }

    /// Puts a command into its lane.
    ///
    /// # Errors
    /// What is in its way.
    pub fn submit(&self, client: ClientId, admitted: Admitted) -> Result<(), Problem> {
        match admitted.command() {
            Command::Read(_) => self.reads.join(client, admitted),
            Command::Change(_) => self.changes.append(client, admitted)?,
        }
        Ok(())
    }

    /// The client waits no longer: what has not started, and nobody else waits for, is not run. Gives back what it
    /// asked for, and whether somebody else waits for it; `None` if that has started: then it goes on.
    pub fn withdraw(&self, client: ClientId) -> Option<(Arc<Admitted>, bool)> {
        self.changes.withdraw(client).or_else(|| self.reads.withdraw(client))
    }

    /// What has not started never will.
    pub fn cancel(&self) {
        for job in self.changes.state().waiting.drain(..) {
            for (_, admitted) in job.clients {
                warn!("{admitted} not run: told to stop at once");
            }
        }
        self.reads.state().waiting.clear();
    }

    /// Readable when there are replies to take.
    pub fn wake(&self) -> &OwnedFd {
        &self.outbox.wake
    }

    pub fn take_replies(&self) -> Vec<(ClientId, Response)> {
        self.outbox.take()
    }

    /// Whether nothing runs and nothing waits.
    pub fn are_idle(&self) -> bool {
        self.changes.is_idle() && self.reads.is_idle()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.changes.close();
        self.reads.close();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker's panics are caught where they happen
        }
    }
}

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    running: Option<Job>,
    closed: bool,
}

impl State {
    /// How many wait for what has not started.
    fn crowd(&self) -> usize {
        self.waiting.iter().map(|job| job.clients.len()).sum()
    }
}

/// A command, as each who waits for it asked for it: the first of them, whose deadline is the earliest, speaks for all.
#[derive(Debug)]
struct Job {
    clients: Vec<(ClientId, Arc<Admitted>)>,
}

impl Job {
    fn of(client: ClientId, admitted: Admitted) -> Self {
        Self { clients: vec![(client, Arc::new(admitted))] }
    }

    /// By its deadline: a slow body comes later than its head, which the deadline counts from.
    fn join(&mut self, client: ClientId, admitted: Admitted) {
        let place = self.clients.partition_point(|(_, other)| other.deadline() <= admitted.deadline());
        self.clients.insert(place, (client, Arc::new(admitted)));
    }

    fn is_of(&self, what: impl Fn(&Admitted) -> bool) -> bool {
        self.clients.first().is_some_and(|(_, admitted)| what(admitted))
    }

    /// Those who have more time than the first: who is late takes nobody along, nor does who is short of time.
    fn split_ample(&mut self) -> Option<Self> {
        let first = |those: fn(&Admitted) -> bool| {
            self.clients.iter().take_while(|(_, admitted)| those(admitted)).count()
        };
        let first = [first(Admitted::is_late), first(Admitted::is_short)];
        let first = first.into_iter().find(|&first| 0 < first && first < self.clients.len())?;
        Some(Self { clients: self.clients.split_off(first) })
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with others for a run that has not started, or asks for a new one.
    fn join(&self, client: ClientId, admitted: Admitted) {
        let mut state = self.state();
        let is_same = |other: &Admitted| other.command() == admitted.command();
        match state.waiting.iter_mut().find(|job| job.is_of(is_same)) {
            Some(job) => job.join(client, admitted),
            None => state.waiting.push_back(Job::of(client, admitted)),
        }
        self.changed.notify_one();
    }

    /// Queues behind all that came before, unless the same delivery is among that: then it waits for its answer.
    fn append(&self, client: ClientId, admitted: Admitted) -> Result<(), Problem> {
        let mut state = self.state();
        let State { waiting, running, .. } = &mut *state;
        let is_same = |other: &Admitted| admitted.repeats(other);
        if let Some(job) = running.iter_mut().chain(waiting).find(|job| job.is_of(is_same)) {
            debug!("{admitted} waits for the same delivery");
            job.join(client, admitted);
            return Ok(());
        }
        if state.waiting.len() >= MAX_CHANGES {
            return Err(Problem::Busy("too many changes are waiting"));
        }
        info!("{admitted} accepted");
        state.waiting.push_back(Job::of(client, admitted));
        self.changed.notify_one();
        Ok(())
    }

    /// See [`Lanes::withdraw`].
    fn withdraw(&self, client: ClientId) -> Option<(Arc<Admitted>, bool)> {
        let mut state = self.state();
        let place = |job: &Job| job.clients.iter().position(|(waiting, _)| *waiting == client);
        let (at, place) = state.waiting.iter().enumerate().find_map(|(at, job)| Some((at, place(job)?)))?;
        let (_, admitted) = state.waiting[at].clients.remove(place);
        let is_shared = !state.waiting[at].clients.is_empty();
        if !is_shared {
            state.waiting.remove(at);
        }
        Some((admitted, is_shared))
    }

    fn is_idle(&self) -> bool {
        let state = self.state();
        state.running.is_none() && state.waiting.is_empty()
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// The next command, as soon as there is one; `None` once the lane is closed and empty. Who has little time left
    /// is served, or told so, first, and nobody else with them.
    fn next(&self) -> Option<Arc<Admitted>> {
        let mut state = self.state();
        loop {
            if let Some(mut job) = state.waiting.pop_front() {
                if let Some(ample) = job.split_ample() {
                    state.waiting.push_front(ample);
                }
                let Some((_, admitted)) = job.clients.first().cloned() else { continue };
                state.running = Some(job);
                return Some(admitted);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, sidecar: &Sidecar, outbox: &Outbox) {
        while let Some(admitted) = self.next() {
            // The sidecar's own locks survive a panic: they hold nothing half-done.
            let response = catch_unwind(AssertUnwindSafe(|| sidecar.carry_out(&admitted, None)))
                .unwrap_or_else(|_| Problem::Panic.reply(Some(admitted.command())));
            // Before the wake-up, so that who looks then finds the lane idle.
            let (served, crowd) = self.finish();
            outbox.put(served, &response);
            if matches!(admitted.command(), Command::Read(_)) {
                self.gather(crowd);
            }
        }
    }

    /// Ends the run: those who waited for it, and how many they are together with those who wait for the next.
    fn finish(&self) -> (Vec<ClientId>, usize) {
        let mut state = self.state();
        let served = state.running.take().map(|job| job.clients).unwrap_or_default();
        let crowd = served.len() + state.crowd();
        (served.into_iter().map(|(client, _)| client).collect(), crowd)
    }

    /// Waits until so many ask again, or for `GATHER`. Who came alone keeps nobody.
    fn gather(&self, crowd: usize) {
        let is_short = |state: &mut State| crowd > 1 && !state.closed && state.crowd() < crowd;
        drop(self.changed.wait_timeout_while(self.state(), GATHER, is_short));
    }
}

/// Replies on their way to the thread that owns the sockets.
#[derive(Debug)]
struct Outbox {
    replies: Mutex<Vec<(ClientId, Response)>>,
    wake: OwnedFd,
}

impl Outbox {
    fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { replies: Mutex::default(), wake })
    }

    fn replies(&self) -> MutexGuard<'_, Vec<(ClientId, Response)>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, clients: Vec<ClientId>, response: &Response) {
        self.replies().extend(clients.into_iter().map(|client| (client, response.clone())));
        let _ = write(&self.wake, &1u64.to_ne_bytes()); // fails only when it is readable anyway
    }

    fn take(&self) -> Vec<(ClientId, Response)> {
        let _ = read(&self.wake, &mut [0; 8]); // fails only when there is nothing to take
        std::mem::take(&mut *self.replies())
    }
}
