//! One BMC: how to reach it, what waits for it, what was done, and what it rejected. Nothing of it is shared with
//! another BMC.

pub mod arguments;
mod definitions;
mod lacked;
pub mod outcome;
mod rejected;
mod repeats;
mod sensors;
pub mod version;
mod worker;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, debug, log};

use self::arguments::{Login, Target};
use self::lacked::Lacked;
use self::outcome::read_outcome;
use self::rejected::Rejected;
pub use self::repeats::{Guesses, Repeats};
use self::sensors::Sensors;
use self::version::{Judged, Version};
pub use self::worker::Deliver;
use self::worker::Workers;
use crate::auth::Authorised;
use crate::command::Command;
use crate::failure::{Code, Failure};
use crate::history::alerts::Skip;
use crate::history::file::HistoryFile;
use crate::history::{Asked, Ending, Objection, Stored};
use crate::http::Response;
use crate::process::{self, Interrupt, Invocation, Outcome};
use crate::readings::Answer;
use crate::request::Admitted;
use crate::server::Server;
use crate::timing::{DISK_HANGS, READING_SENSORS, VERSION_TIMEOUT};

#[derive(Debug)]
pub struct Bmc {
    target: Target,
    version: OnceLock<Version>,
    /// Each run ends with this process: a CGI program may be killed, and no other would see to the deadline.
    runs_end_with_us: bool,
    history: HistoryFile,
    workers: Workers,
    /// Ends its runs at a second signal.
    interrupt: Interrupt,
    rejected: Mutex<Option<Rejected>>,
    lacked: Mutex<Lacked>,
    sensors: Sensors,
    /// What its log lines about reads repeat.
    repeats: Mutex<Repeats>,
}

/// How a change ended well.
enum Done {
    Now(Answer),
    /// The same delivery was answered before.
    Before(Stored),
    Skipped(Skip),
}

impl Bmc {
    pub fn new(target: Target, history: HistoryFile, interrupt: Interrupt) -> Self {
        let (workers, rejected, lacked, sensors, repeats) = Default::default();
        Self {
            target,
            version: OnceLock::new(),
            runs_end_with_us: false,
            history,
            workers,
            interrupt,
            rejected,
            lacked,
            sensors,
            repeats,
        }
    }

    /// Asks `ipmitool` for its version, once. Gives a warning where it is one that was never tried. A server asks at the
    /// start, a CGI program before its run.
    ///
    /// # Errors
    /// For a version that cannot be trusted: the variable, the cause and the remedy.
    pub fn ask_version(&self) -> Result<Judged, String> {
        let question = self.target.version_question();
        let outcome = process::run(&question, None, Instant::now() + VERSION_TIMEOUT, &self.interrupt);
        let judged = version::judge(&outcome.stdout.text())
            .map_err(|cause| format!("IPMITOOL is \"{}\": {cause}", self.target.program.display()))?;
        self.trust(judged.0);
        Ok(judged)
    }

    pub const fn server(&self) -> &Server {
        &self.target.server
    }

    /// The same version was asked for another BMC.
    pub fn trust(&self, version: Version) {
        let _ = self.version.set(version); // it is asked once
    }

    /// Its folder in `STATE_DIR`.
    pub fn folder(&self) -> Option<&Path> {
        self.history.folder()
    }

    /// See [`HistoryFile::open`].
    ///
    /// # Errors
    /// Why `STATE_DIR` does not serve.
    pub fn open_history(&self, until: Instant) -> io::Result<()> {
        self.history.open(until)
    }

    /// The same, for one CGI program.
    #[must_use]
    pub fn for_one_request(self) -> Self {
        Self { runs_end_with_us: true, ..self }
    }

    /// See [`HistoryFile::open_shared`].
    ///
    /// # Errors
    /// Why `STATE_DIR` does not serve.
    pub fn share_history(&self) -> io::Result<()> {
        self.history.open_shared()
    }

    /// Runs the command and answers, by its deadline at the latest. Blocks. If a locked file keeps other processes away,
    /// the run holds it as well.
    pub fn carry_out(&self, admitted: &Admitted, lock: Option<OwnedFd>) -> Response {
        let result = if admitted.command().is_change() {
            self.attempt_once(admitted, lock)
        } else {
            self.read(admitted, lock).map(Done::Now)
        };
        self.answer(admitted, result)
    }

    fn read(&self, admitted: &Admitted, lock: Option<OwnedFd>) -> Result<Answer, Failure> {
        if admitted.command().reads_sensors() {
            return self.read_sensors(admitted, lock);
        }
        self.attempt(admitted, lock)
    }

    /// Answers a request whose time is over before its command has started, or while its sensors are being read.
    pub fn give_up_late(&self, admitted: &Admitted) -> Response {
        if admitted.command().reads_sensors() {
            return self.late_sensors(admitted, Failure::still_reading());
        }
        self.give_up(admitted, Failure::too_late())
    }

    /// Answers a request whose command has not started.
    pub fn give_up(&self, admitted: &Admitted, why: Failure) -> Response {
        self.answer(admitted, Err(why))
    }

    /// Answers a request that is refused, though its key is valid.
    pub fn refuse(&self, admitted: &Admitted, why: &Failure) -> Response {
        let level = locked(&self.repeats).level_of(None, why, Instant::now());
        log!(level, "{admitted} refused: {}", why.explain());
        admitted.reply(why)
    }

    fn answer(&self, admitted: &Admitted, result: Result<Done, Failure>) -> Response {
        let now = Instant::now();
        let level = match (admitted.command().is_change(), &result) {
            (true, Ok(_)) => Level::Info,
            (true, Err(_)) => Level::Warn,
            (false, Ok(_)) => locked(&self.repeats).level_of_success(admitted.command()),
            (false, Err(failure)) => locked(&self.repeats).level_of(Some(admitted.command()), failure, now),
        };
        let (line, response) = match result {
            Ok(done) => (done.line().to_owned(), done.reply()),
            Err(failure) => (failure.explain_with_words(), admitted.reply(&failure)),
        };
        let took = now.saturating_duration_since(admitted.received());
        log!(level, "{admitted} answered after {} ms: {line}", took.as_millis());
        response
    }

    /// Makes the change, unless it was made before. It is noted before it is sent, so that an end of this program at the
    /// worst moment does not lead to a second one.
    fn attempt_once(&self, admitted: &Admitted, lock: Option<OwnedFd>) -> Result<Done, Failure> {
        let asked = admitted.asked();
        if !asked.is_memorable() {
            return self.attempt(admitted, lock).map(Done::Now);
        }
        if let Some(objection) = self.history.objection(&asked).map_err(not_noted)? {
            return self.heed(objection, admitted, &asked);
        }
        let now = Instant::now();
        if admitted.is_too_late(now) {
            return Err(Failure::too_late());
        }
        let is_short = admitted.is_too_late(now + DISK_HANGS);
        // Behind this moment the change could not start any more.
        self.history.begin(asked, admitted.starts_until()).map_err(|cause| match cause.kind() {
            io::ErrorKind::TimedOut if is_short => Failure::too_late(),
            _ => not_noted(cause),
        })?;
        let result = self.attempt(admitted, lock);
        let ending = match &result {
            Ok(answer) => Ending::Sent(stored(answer_reply(answer))),
            Err(failure) if failure.is_repeatable() => Ending::NotSent,
            Err(failure) if matches!(failure.code(), Code::BmcRefused | Code::BmcUnsupported) => {
                Ending::Declined(stored(admitted.reply(failure)))
            }
            Err(failure) => Ending::Sent(stored(admitted.reply(failure))),
        };
        self.history.end(ending, admitted.deadline());
        result.map(Done::Now)
    }

    /// What is known of a change is its answer.
    fn heed(&self, objection: Objection, admitted: &Admitted, asked: &Asked) -> Result<Done, Failure> {
        match objection {
            Objection::Answered(stored) => Ok(Done::Before(stored)),
            Objection::ActedOn => Ok(Done::Skipped(Skip::Repeat)),
            Objection::Unfinished => {
                self.history.close(asked, admitted.deadline()).map_err(not_noted)?;
                Err(Code::OutcomeUnknown.into())
            }
            Objection::NameTaken(other) => Err(Code::DeliveryIdReused.because(other.name())),
            Objection::TooSoon { last, ago, wait } => {
                let detail = format!("{} {} s ago", last.name(), ago.as_secs());
                Err(Code::Cooldown.because(detail).retry_after(wait))
            }
        }
    }

    /// The answer to a delivery that was answered before, or to sensors that were read a moment ago. It needs no run, and
    /// so no place in the queue.
    pub fn known_answer(&self, admitted: &Admitted) -> Option<Response> {
        if admitted.command().reads_sensors() {
            return self.recent_sensors(admitted);
        }
        let asked = admitted.asked();
        asked.delivery.as_ref()?;
        match self.history.known_objection(&asked)? {
            objection @ (Objection::Answered(_) | Objection::ActedOn | Objection::NameTaken(_)) => {
                Some(self.answer(admitted, self.heed(objection, admitted, &asked)))
            }
            Objection::Unfinished | Objection::TooSoon { .. } => None,
        }
    }

    fn attempt(&self, admitted: &Admitted, lock: Option<OwnedFd>) -> Result<Answer, Failure> {
        if admitted.is_too_late(Instant::now()) {
            return Err(Failure::too_late());
        }
        self.ask(admitted.command(), |login| self.run(admitted, login, lock))
    }

    /// Asks the BMC, unless it rejected this login or lacks this command. Learns from what it says.
    fn ask<T>(&self, command: Command, run: impl FnOnce(&Login) -> Result<T, Failure>) -> Result<T, Failure> {
        let login = self.target.login();
        let known =
            locked(&self.rejected).as_ref().and_then(|rejected| rejected.recall(&login, Instant::now()));
        if let Some(failure) = known.or_else(|| locked(&self.lacked).recall(command, Instant::now())) {
            return Err(failure);
        }
        let result = run(&login);
        if let Err(failure) = &result {
            locked(&self.lacked).learn(command, failure, Instant::now());
        }
        let mut rejected = locked(&self.rejected);
        match &result {
            // It has changed since, and this run tells nothing of the new one.
            _ if !self.target.login().is(&login) => {}
            Ok(_) => *rejected = None,
            Err(failure) if failure.code().rejects_login() => {
                *rejected = Some(Rejected::after(rejected.take(), login, failure.clone(), Instant::now()));
            }
            Err(_) => {}
        }
        result
    }

    fn run(&self, admitted: &Admitted, login: &Login, lock: Option<OwnedFd>) -> Result<Answer, Failure> {
        let invocation = self.target.invocation(admitted.authorised(), login);
        let outcome = self.invoke(invocation, lock, admitted.deadline(), &self.interrupt)?;
        read_outcome(admitted.command(), &outcome, *self.version.get().unwrap_or(&Version::Telling))
    }

    fn invoke(
        &self,
        mut invocation: Invocation,
        lock: Option<OwnedFd>,
        deadline: Instant,
        interrupt: &Interrupt,
    ) -> Result<Outcome, Failure> {
        if self.version.get().is_none()
            && let (_, Some(warning)) =
                self.ask_version().map_err(|why| Code::IpmitoolMissing.because(why))?
        {
            debug!("{warning}");
        }
        debug!("{}running {}", self.server(), invocation.pasteable());
        if self.runs_end_with_us {
            invocation =
                invocation.ends_with_us().map_err(|error| Code::Internal.because(error.to_string()))?;
        }
        let outcome = process::run(&invocation, lock, deadline, interrupt);
        debug!("{}{outcome}", self.server());
        Ok(outcome)
    }

    /// Every read for the operator at the command line: a line each. Each has this time, and the sensors have their own.
    ///
    /// # Errors
    /// Why there is no power status, explained. A BMC may lack any other read.
    pub fn check(&self, timeout: Duration) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        for read in Authorised::reads_for_operator(self.server()) {
            let command = read.command();
            let begun = Instant::now();
            let timeout = if command.reads_sensors() { READING_SENSORS } else { timeout };
            let admitted = Admitted::new(read, None, "the command line".to_owned(), begun, timeout);
            lines.push(match self.read(&admitted, None) {
                Ok(answer) if command.reads_sensors() => {
                    format!("{}; read in {:.1} s", answer.line, begun.elapsed().as_secs_f64())
                }
                Ok(answer) => answer.line,
                Err(failure) if command == Command::POWER_STATUS => return Err(failure.explain()),
                Err(failure) if failure.code() == Code::BmcUnsupported => {
                    format!("{}: this BMC has none", command.word())
                }
                Err(failure) => format!("{}: {}", command.word(), failure.explain()),
            });
        }
        Ok(lines)
    }
}

/// `nas: 192.0.2.1:623 as admin`: how the log names it.
impl fmt::Display for Bmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl Done {
    fn line(&self) -> &str {
        match self {
            Self::Now(answer) => &answer.line,
            Self::Before(_) => "as before, since it is the same delivery",
            Self::Skipped(skip) => skip.name(),
        }
    }

    fn reply(self) -> Response {
        match self {
            Self::Now(answer) => answer_reply(&answer),
            Self::Before(Stored { status, body }) => Response {
                headers: vec![("Idempotent-Replayed", "true".to_owned())],
                body,
                ..Response::new(status, &[])
            },
            Self::Skipped(skip) => skipped(skip),
        }
    }
}

fn answer_reply(answer: &Answer) -> Response {
    let mut members = vec![("success", true.into())];
    members.extend(answer.members.iter().cloned());
    Response::new(200, &members)
}

/// The reply to a change that is not needed.
pub fn skipped(skip: Skip) -> Response {
    Response::new(200, &[("success", true.into()), ("skipped", skip.name().into())])
}

fn stored(response: Response) -> Stored {
    Stored { status: response.status.0, body: response.body }
}

/// What cannot be noted is not sent: it could come again and would not be recognised.
#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
fn not_noted(cause: io::Error) -> Failure {
    Code::Internal.because(format!("noting it in STATE_DIR: {cause}"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
