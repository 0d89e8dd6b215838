//! What waits for one BMC, what runs, and which callers share a run. Pure: the caller has the clock, the lock and the
//! threads.
//!
//! Changes run one at a time, strictly in the order of their arrival. Reads run one at a time beside them, and callers
//! of the same read share a run. So a change never waits for a dashboard. Readings of all sensors run one at a time beside
//! both, since one may take a minute. So the BMC sees at most three sessions.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::failure::{Code, Failure};
use crate::request::Admitted;
use crate::timing::JOIN_RUNNING_READ;

/// Changes that wait. A quick BMC is done with them in a second. A server needs no more: an automation that sends more
/// runs in a loop.
const MAX_CHANGES: usize = 8;

/// Changes of one key that wait: a key in a loop leaves room for others.
const MAX_CHANGES_OF_A_KEY: usize = 4;

/// A client that waits for an answer: a number that is given once.
pub type ClientId = u64;

/// Which kind of work; each has its own worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Change,
    Read,
    Sensors,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Change, Self::Read, Self::Sensors];

    pub fn of(admitted: &Admitted) -> Self {
        let command = admitted.command();
        match (command.is_change(), command.reads_sensors()) {
            (true, _) => Self::Change,
            (false, true) => Self::Sensors,
            (false, false) => Self::Read,
        }
    }

    /// What its worker is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Change => "changes",
            Self::Read => "reads",
            Self::Sensors => "sensors",
        }
    }
}

#[derive(Debug, Default)]
pub struct Queue {
    changes: Line,
    reads: Line,
    sensors: Line,
    last_change_ended: Option<Instant>,
}

/// How a request waits.
#[derive(Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// For a run of its own.
    New,
    /// For the run of another request.
    Shared,
}

/// What becomes of the next request in line.
#[derive(Debug)]
pub enum Start {
    /// It speaks for all callers that share the run.
    Run(Arc<Admitted>),
    /// All clients of this change have ended their side: it is not run.
    Abandoned(Vec<(ClientId, Arc<Admitted>)>),
}

/// A request that was taken out of the queue before it ran.
#[derive(Debug)]
pub struct Cancelled {
    pub admitted: Arc<Admitted>,
    /// Another client waits for the same run.
    pub is_shared: bool,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Job>,
    running: Option<Running>,
}

/// A command, with each client that waits for it. The first has the earliest deadline and speaks for all.
#[derive(Debug)]
struct Job {
    clients: Vec<(ClientId, Arc<Admitted>)>,
}

#[derive(Debug)]
struct Running {
    job: Job,
    since: Instant,
    deadline: Instant,
}

impl Queue {
    /// Adds a request.
    ///
    /// # Errors
    /// `busy` if too many changes wait.
    pub fn enqueue(
        &mut self,
        client: ClientId,
        admitted: Arc<Admitted>,
        now: Instant,
    ) -> Result<Enqueued, Failure> {
        match Kind::of(&admitted) {
            Kind::Change => self.enqueue_change(client, admitted),
            Kind::Read => Ok(self.enqueue_read(client, admitted, now)),
            Kind::Sensors => Ok(self.enqueue_sensors(client, admitted)),
        }
    }

    /// Behind all changes that came before. If the same delivery is among them, it waits for that one's answer.
    fn enqueue_change(&mut self, client: ClientId, admitted: Arc<Admitted>) -> Result<Enqueued, Failure> {
        let Line { waiting, running } = &mut self.changes;
        let jobs = running.iter_mut().map(|running| &mut running.job).chain(waiting.iter_mut());
        if let Some(job) = jobs.into_iter().find(|job| job.is_for(|other| admitted.repeats(other))) {
            job.add(client, admitted);
            return Ok(Enqueued::Shared);
        }
        let of_key = waiting.iter().filter(|job| job.is_for(|other| other.key() == admitted.key())).count();
        if of_key >= MAX_CHANGES_OF_A_KEY {
            return Err(Code::Busy.because("too many changes of this key are waiting"));
        }
        // A key that has none waiting always finds a place.
        if of_key > 0 && waiting.len() >= MAX_CHANGES {
            return Err(Code::Busy.because("too many changes are waiting"));
        }
        waiting.push_back(Job::new(client, admitted));
        Ok(Enqueued::New)
    }

    /// With callers of the same read that wait, or with those whose run is recent enough.
    fn enqueue_read(&mut self, client: ClientId, admitted: Arc<Admitted>, now: Instant) -> Enqueued {
        let is_same = |job: &Job| job.is_for(|other| other.command() == admitted.command());
        let last_change_ended = self.last_change_ended;
        let Line { waiting, running } = &mut self.reads;
        let recent = running.as_mut().filter(|running| {
            is_same(&running.job)
                && now.saturating_duration_since(running.since) <= JOIN_RUNNING_READ
                && last_change_ended.is_none_or(|ended| ended <= running.since)
                // The run must not outlast the caller.
                && running.deadline <= admitted.deadline()
        });
        let shared =
            recent.map(|running| &mut running.job).or_else(|| waiting.iter_mut().find(|job| is_same(job)));
        if let Some(job) = shared {
            job.add(client, admitted);
            return Enqueued::Shared;
        }
        waiting.push_back(Job::new(client, admitted));
        Enqueued::New
    }

    /// With all callers, whether their reading waits or runs: how long it lasts does not depend on them.
    fn enqueue_sensors(&mut self, client: ClientId, admitted: Arc<Admitted>) -> Enqueued {
        let Line { waiting, running } = &mut self.sensors;
        let shared = running.as_mut().map(|running| &mut running.job).or_else(|| waiting.front_mut());
        if let Some(job) = shared {
            job.add(client, admitted);
            return Enqueued::Shared;
        }
        waiting.push_back(Job::new(client, admitted));
        Enqueued::New
    }

    /// Whether the same delivery waits or runs.
    pub fn has_delivery(&self, admitted: &Admitted) -> bool {
        let Line { waiting, running } = &self.changes;
        let jobs = running.iter().map(|running| &running.job).chain(waiting);
        jobs.into_iter().any(|job| job.is_for(|other| admitted.repeats(other)))
    }

    /// Cancels the client's change if it has not started, and all clients that wait for it have left. Gives back all of
    /// them.
    pub fn cancel_abandoned(&mut self, client: ClientId) -> Vec<(ClientId, Arc<Admitted>)> {
        let waiting = &mut self.changes.waiting;
        let has_client = |job: &Job| job.clients.iter().any(|(waiting, _)| *waiting == client);
        let place = waiting.iter().position(|job| has_client(job) && job.is_abandoned());
        place.and_then(|place| waiting.remove(place)).map_or_else(Vec::new, |job| job.clients)
    }

    /// Cancels the client's request unless it has started. The command is not run if no other client waits for it. A
    /// caller also leaves a reading of sensors that runs. That goes on, for the callers to come.
    pub fn cancel(&mut self, client: ClientId) -> Option<Cancelled> {
        let cancelled = [&mut self.changes, &mut self.reads, &mut self.sensors]
            .into_iter()
            .find_map(|line| line.cancel(client));
        cancelled.or_else(|| self.leave_sensors(client))
    }

    fn leave_sensors(&mut self, client: ClientId) -> Option<Cancelled> {
        let clients = &mut self.sensors.running.as_mut()?.job.clients;
        let place = clients.iter().position(|(waiting, _)| *waiting == client)?;
        Some(Cancelled { admitted: clients.remove(place).1, is_shared: true })
    }

    /// Cancels everything that has not started, and gives back the changes.
    pub fn cancel_all(&mut self) -> Vec<Arc<Admitted>> {
        self.reads.waiting.clear();
        self.sensors.waiting.clear();
        let changes = self.changes.waiting.drain(..).flat_map(|job| job.clients);
        changes.map(|(_, admitted)| admitted).collect()
    }

    /// Starts the next run of this kind, unless it is a change whose clients have all left.
    pub fn start(&mut self, kind: Kind, now: Instant) -> Option<Start> {
        let line = self.line(kind);
        let mut job = line.waiting.pop_front()?;
        // A reading of sensors does not end with the time of a caller.
        if kind != Kind::Sensors
            && let Some(rest) = job.split(now)
        {
            line.waiting.push_front(rest);
        }
        if kind == Kind::Change && job.is_abandoned() {
            return Some(Start::Abandoned(job.clients));
        }
        let admitted = job.clients.first()?.1.clone();
        line.running = Some(Running { job, since: now, deadline: admitted.deadline() });
        Some(Start::Run(admitted))
    }

    /// Ends the run of this kind, and gives back the clients that wait for its answer.
    pub fn finish(&mut self, kind: Kind, now: Instant) -> Vec<ClientId> {
        if kind == Kind::Change {
            self.last_change_ended = Some(now);
        }
        let running = self.line(kind).running.take();
        running.map_or_else(Vec::new, |running| running.job.clients.into_iter().map(|(id, _)| id).collect())
    }

    /// Whether nothing runs and nothing waits. A reading of sensors is not waited for.
    pub fn is_idle(&self) -> bool {
        [&self.changes, &self.reads].iter().all(|line| line.running.is_none() && line.waiting.is_empty())
    }

    const fn line(&mut self, kind: Kind) -> &mut Line {
        match kind {
            Kind::Change => &mut self.changes,
            Kind::Read => &mut self.reads,
            Kind::Sensors => &mut self.sensors,
        }
    }
}

impl Line {
    fn cancel(&mut self, client: ClientId) -> Option<Cancelled> {
        let place = |job: &Job| job.clients.iter().position(|(waiting, _)| *waiting == client);
        let (at, place) = self.waiting.iter().enumerate().find_map(|(at, job)| Some((at, place(job)?)))?;
        let job = &mut self.waiting[at];
        let (_, admitted) = job.clients.remove(place);
        let is_shared = !job.clients.is_empty();
        if !is_shared {
            self.waiting.remove(at);
        }
        Some(Cancelled { admitted, is_shared })
    }
}

impl Job {
    fn new(client: ClientId, admitted: Arc<Admitted>) -> Self {
        Self { clients: vec![(client, admitted)] }
    }

    fn is_for(&self, what: impl Fn(&Admitted) -> bool) -> bool {
        self.clients.first().is_some_and(|(_, admitted)| what(admitted))
    }

    /// All its clients have ended their side of the connection.
    fn is_abandoned(&self) -> bool {
        self.clients.iter().all(|(_, admitted)| admitted.client_has_left())
    }

    /// In the order of deadlines. A deadline counts from the head, and a slow body comes later.
    fn add(&mut self, client: ClientId, admitted: Arc<Admitted>) {
        let place = self.clients.partition_point(|(_, other)| other.deadline() <= admitted.deadline());
        self.clients.insert(place, (client, admitted));
    }

    /// Callers with too little time left for a shared run go first, and apart: the run ends with their time.
    fn split(&mut self, now: Instant) -> Option<Self> {
        let apart = self.clients.partition_point(|(_, admitted)| !admitted.can_share(now));
        (0 < apart && apart < self.clients.len()).then(|| Self { clients: self.clients.split_off(apart) })
    }
}
