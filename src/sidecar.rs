//! The heart, in three steps: `admit` decides by the head, `with_body` by the body, `carry_out` runs the command and
//! answers. The faces meet here.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, debug, info, log};

use crate::auth::{Authorised, Keys};
use crate::delivery::{Delivery, Skip};
use crate::exec::{self, Interrupt};
use crate::http::{Head, Response};
use crate::ipmi::{Change, Command, Read};
use crate::ipmitool::{self, Answer, Bmc, Failure, Login};
use crate::ledger::Ledger;
use crate::memory::{Asked, Ending, Objection, Stored};
use crate::reply::{self, Problem};
use crate::route::{self, Route};

/// A change starts only while this much is left: most BMCs acknowledge one within 3 s, and one that is killed
/// half-way has an unknown outcome.
const CHANGE_NEEDS: Duration = Duration::from_secs(5);

/// A read that is cut short does no harm, but it needs time for an answer: a quick BMC takes 0.1 s.
const READ_NEEDS: Duration = Duration::from_secs(1);

/// A run ends with the time of the first who shares it, and a slow BMC takes 3 s: who has less left takes nobody along.
/// No more than half of the least `REQUEST_TIMEOUT`, or all who wait for a slow run would have less left behind it.
const SHARING_NEEDS: Duration = Duration::from_millis(3_500);

/// Its lane was taken for as long as it could wait.
pub const TOO_LATE: Problem = Problem::Busy("earlier commands took the time it had");

/// Many BMCs lock an account after a few wrong passwords, and a poller never stops.
const LOCKOUT: Duration = Duration::from_secs(60);

/// A failure that goes on is worth a line in the log this often.
const REMIND: Duration = Duration::from_secs(3600);

/// Failures may take turns: of two callers, one comes too late again and again. There are few at a time.
const MAX_REPEATS: usize = 8;

/// Carries out commands on one BMC for those who bring a key.
#[derive(Debug)]
pub struct Sidecar {
    keys: Keys,
    bmc: Bmc,
    request_timeout: Duration,
    ledger: Ledger,
    interrupt: Interrupt,
    rejected: Mutex<Option<Rejected>>,
    refusals: Mutex<Repeats>,
    statuses: Mutex<Repeats>,
}

/// What is to become of a request, by its head.
#[derive(Debug)]
pub enum Admission {
    Reply(Response),
    Command(Admitted),
}

/// A command on its way, with the moment by which it must be answered.
#[derive(Debug)]
pub struct Admitted {
    authorised: Authorised,
    /// Of a change.
    delivery: Option<Delivery>,
    peer: String,
    received: Instant,
    deadline: Instant,
}

/// A login that the BMC did not take.
#[derive(Debug)]
struct Rejected {
    login: Login,
    failure: Failure,
    until: Instant,
}

impl Admitted {
    pub const fn command(&self) -> Command {
        self.authorised.command()
    }

    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    const fn needs(&self) -> Duration {
        match self.command() {
            Command::Change(_) => CHANGE_NEEDS,
            Command::Read(_) => READ_NEEDS,
        }
    }

    /// Too little of its time is left to start.
    pub fn is_late(&self) -> bool {
        self.left() < self.needs()
    }

    /// A run within its time would be too short for others.
    pub fn is_short(&self) -> bool {
        self.left() < SHARING_NEEDS
    }

    /// For how long it may wait for its lane. A delivery that was carried out before is answered however late it is.
    pub fn waits_until(&self) -> Instant {
        let needs = if self.delivery.is_some() { Duration::ZERO } else { self.needs() };
        self.deadline.checked_sub(needs).unwrap_or(self.received)
    }

    /// Step two: a body that is no alert's changes nothing. An alert's names the delivery better than a field does,
    /// which may be one and the same in all that its sender posts.
    pub fn with_body(mut self, body: &[u8]) -> Admission {
        if matches!(self.command(), Command::Read(_)) {
            return Admission::Command(self);
        }
        match Delivery::by_body(body) {
            Ok(delivery) => {
                self.delivery = delivery.or(self.delivery);
                Admission::Command(self)
            }
            Err(skip) => {
                info!("{self} not run: {}", skip.name());
                Admission::Reply(reply::skipped(skip))
            }
        }
    }

    /// Whether it is the other one, delivered once more.
    pub fn repeats(&self, other: &Self) -> bool {
        let same_sender = self.authorised.key() == other.authorised.key();
        self.delivery.is_some()
            && self.delivery == other.delivery
            && self.command() == other.command()
            && same_sender
    }

    fn asked(&self, change: Change) -> Asked {
        Asked { change, key: self.authorised.key().to_owned(), delivery: self.delivery.clone() }
    }

    fn reply(&self, problem: &Problem) -> Response {
        match self.delivery {
            Some(Delivery::Alerts(_)) => problem.reply_to_alerts(self.command()),
            Some(Delivery::Named(_)) | None => problem.reply(Some(self.command())),
        }
    }
}

/// What came of a change.
enum Done {
    Now(Answer),
    Before(Stored),
    Skipped(Skip),
}

impl Done {
    fn line(&self) -> &str {
        match self {
            Self::Now(answer) => answer.line(),
            Self::Before(_) => "as before, since it is the same delivery",
            Self::Skipped(skip) => skip.name(),
        }
    }

    fn reply(self) -> Response {
        match self {
            Self::Now(answer) => reply::answer(answer),
            Self::Before(stored) => reply::again(stored),
            Self::Skipped(skip) => reply::skipped(skip),
        }
    }
}

/// `power on (API_KEY from 127.0.0.1:40000)`: how the log names a command.
impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} from {})", self.command().name(), self.authorised.key(), self.peer)
    }
}

impl Sidecar {
    pub fn new(
        keys: Keys,
        bmc: Bmc,
        request_timeout: Duration,
        ledger: Ledger,
        interrupt: Interrupt,
    ) -> Self {
        let (rejected, refusals, statuses) = Default::default();
        Self { keys, bmc, request_timeout, ledger, interrupt, rejected, refusals, statuses }
    }

    /// Recalls what was attempted before, and makes sure that more can be noted.
    ///
    /// # Errors
    /// Why the folder for that does not serve.
    pub fn remember(&self) -> io::Result<()> {
        self.ledger.open()
    }

    /// Step one, which takes microseconds.
    pub fn admit(&self, head: &Head) -> Admission {
        let admission = match route::find(&head.method, &head.path) {
            Ok(Route::Health) => Admission::Reply(reply::health()),
            Ok(Route::Power(command)) => self.authorise(head, command),
            Err(no_route) => Admission::Reply(Problem::from(no_route).reply(None)),
        };
        let result = match &admission {
            Admission::Reply(response) => response.status.0.to_string(),
            Admission::Command(_) => "admitted".to_owned(),
        };
        debug!("{} {:?} from {}: {result}", head.method, head.path, head.peer);
        admission
    }

    fn authorise(&self, head: &Head, command: Command) -> Admission {
        match self.keys.authorise(head, command) {
            Ok(authorised) => match delivery_of(head, command) {
                Ok(delivery) => Admission::Command(self.begin(authorised, delivery, head.peer.clone())),
                Err(problem) => Admission::Reply(problem.reply(Some(command))),
            },
            Err(refusal) => {
                let problem = Problem::from(refusal);
                let level = locked(&self.refusals).level_of(&problem);
                log!(level, "{} from {}: {}", command.name(), head.peer, problem.explain());
                Admission::Reply(problem.reply(Some(command)))
            }
        }
    }

    fn begin(&self, authorised: Authorised, delivery: Option<Delivery>, peer: String) -> Admitted {
        let received = Instant::now();
        Admitted { authorised, delivery, peer, received, deadline: received + self.request_timeout }
    }

    /// Step three: runs the command and answers, by its deadline at the latest. Blocks. Where the lane is a locked file,
    /// the run holds it as well.
    pub fn carry_out(&self, admitted: &Admitted, lane: Option<OwnedFd>) -> Response {
        let result = match admitted.command() {
            Command::Read(_) => self.attempt(admitted, lane).map(Done::Now),
            Command::Change(change) => self.attempt_once(change, admitted, lane),
        };
        self.answer(admitted, result)
    }

    /// Instead of step three, where the command has not started.
    pub fn give_up(&self, admitted: &Admitted, why: Problem) -> Response {
        self.answer(admitted, Err(why))
    }

    fn answer(&self, admitted: &Admitted, result: Result<Done, Problem>) -> Response {
        let level = match (admitted.command(), &result) {
            (Command::Change(_), Ok(_)) => Level::Info,
            (Command::Change(_), Err(_)) => Level::Warn,
            (Command::Read(_), Ok(_)) => locked(&self.statuses).level_of_success(),
            (Command::Read(_), Err(problem)) => locked(&self.statuses).level_of(problem),
        };
        let (said, response) = match result {
            Ok(done) => (done.line().to_owned(), done.reply()),
            Err(problem) => (problem.explain(), admitted.reply(&problem)),
        };
        log!(level, "{admitted} answered after {} ms: {said}", admitted.received.elapsed().as_millis());
        response
    }

    /// The change, unless it was made before. What is sent is noted before it is, so that an end at the worst moment
    /// does not lead to a second one.
    fn attempt_once(
        &self,
        change: Change,
        admitted: &Admitted,
        lane: Option<OwnedFd>,
    ) -> Result<Done, Problem> {
        let asked = admitted.asked(change);
        if !asked.is_memorable() {
            return self.attempt(admitted, lane).map(Done::Now);
        }
        match self.ledger.objection(&asked).map_err(|cause| not_noted(&cause))? {
            Some(Objection::Answered(stored)) => return Ok(Done::Before(stored)),
            Some(Objection::ActedOn) => return Ok(Done::Skipped(Skip::Repeat)),
            Some(Objection::Unfinished) => {
                self.ledger.close(&asked).map_err(|cause| not_noted(&cause))?;
                return Err(Problem::Run(Failure::OutcomeUnknown));
            }
            Some(Objection::NameTaken(other)) => return Err(Problem::IdReused(other)),
            Some(Objection::TooSoon { last, ago, wait }) => return Err(Problem::TooSoon { last, ago, wait }),
            None => {}
        }
        self.ledger.begin(asked).map_err(|cause| not_noted(&cause))?;
        let result = self.attempt(admitted, lane);
        let stored = |response: Response| Stored { status: response.status.0, body: response.body };
        self.ledger.end(match &result {
            Ok(answer) => Ending::Sent(stored(reply::answer(*answer))),
            Err(problem) if problem.is_repeatable() => Ending::NotSent,
            Err(problem @ Problem::Run(Failure::Refused(_))) => {
                Ending::Declined(stored(admitted.reply(problem)))
            }
            Err(problem) => Ending::Sent(stored(admitted.reply(problem))),
        });
        result.map(Done::Now)
    }

    fn attempt(&self, admitted: &Admitted, lane: Option<OwnedFd>) -> Result<Answer, Problem> {
        if admitted.is_late() {
            return Err(TOO_LATE);
        }
        let login = self.bmc.login();
        self.recall_rejection(&login)?;
        let result = self.run(admitted, &login, lane);
        if let Err(failure @ (Failure::BadPassword | Failure::UnknownUser)) = &result {
            let until = Instant::now() + LOCKOUT;
            *locked(&self.rejected) = Some(Rejected { login, failure: failure.clone(), until });
        }
        result.map_err(Problem::Run)
    }

    /// A login that was rejected less than `LOCKOUT` ago is not tried again; a new one is, at once.
    fn recall_rejection(&self, login: &Login) -> Result<(), Problem> {
        match &*locked(&self.rejected) {
            Some(Rejected { login: rejected, failure, until })
                if rejected.is(login) && *until > Instant::now() =>
            {
                Err(Problem::Remembered(failure.clone(), until.saturating_duration_since(Instant::now())))
            }
            _ => Ok(()),
        }
    }

    fn run(&self, admitted: &Admitted, login: &Login, lane: Option<OwnedFd>) -> Result<Answer, Failure> {
        let invocation = self.bmc.invocation(&admitted.authorised, login);
        debug!("running {}", invocation.pasteable());
        let outcome = exec::run(&invocation, lane, admitted.deadline, &self.interrupt);
        debug!("{outcome}");
        ipmitool::read_outcome(admitted.command(), &outcome)
    }

    /// One `power status` for the operator at the command line.
    ///
    /// # Errors
    /// Why it failed, explained.
    pub fn check(&self) -> Result<&'static str, String> {
        let operator = Authorised::by_operator(Read::PowerStatus);
        let admitted = self.begin(operator, None, "the command line".to_owned());
        self.attempt(&admitted, None).map(Answer::line).map_err(|problem| problem.explain())
    }

    /// Ends the runs of both lanes, now and from now on.
    pub fn interrupt(&self) {
        self.interrupt.raise();
    }
}

/// What cannot be noted is not sent: it could come again, and nobody would know.
fn not_noted(cause: &io::Error) -> Problem {
    Problem::Run(Failure::NotStarted(format!("noting it in STATE_DIR: {cause}").into()))
}

/// A read may be repeated as often as you like: only a change needs an id.
fn delivery_of(head: &Head, command: Command) -> Result<Option<Delivery>, Problem> {
    match command {
        Command::Read(_) => Ok(None),
        Command::Change(_) => Delivery::by_head(head).map_err(Problem::Head),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a failure that repeats itself, poll after poll, from filling a disk.
#[derive(Debug, Default)]
struct Repeats {
    /// Since the last success, the newest first.
    failing: VecDeque<(String, Instant)>,
}

impl Repeats {
    /// A warning the first time for each failure, and once in `REMIND`.
    fn level_of(&mut self, problem: &Problem) -> Level {
        let explained = problem.explain();
        self.failing.retain(|(_, at)| at.elapsed() < REMIND);
        if self.failing.iter().any(|(known, _)| *known == explained) {
            return Level::Debug;
        }
        self.failing.truncate(MAX_REPEATS - 1);
        self.failing.push_front((explained, Instant::now()));
        Level::Warn
    }

    /// Worth a line only as the end of a failure.
    fn level_of_success(&mut self) -> Level {
        if self.failing.drain(..).next().is_some() { Level::Info } else { Level::Debug }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::ffi::OsString;

    #[test]
    fn a_failure_that_repeats_itself_is_logged_once() {
        let (one, other) = (Problem::Run(Failure::BadPassword), Problem::Run(Failure::TimedOut));
        let mut repeats = Repeats::default();
        assert_eq!(repeats.level_of_success(), Level::Debug);
        assert_eq!(repeats.level_of(&one), Level::Warn);
        assert_eq!(repeats.level_of(&one), Level::Debug);
        assert_eq!(repeats.level_of(&other), Level::Warn);
        for taking_turns in [&one, &other, &one] {
            assert_eq!(repeats.level_of(taking_turns), Level::Debug);
        }
        assert_eq!(repeats.level_of_success(), Level::Info);
        assert_eq!(repeats.level_of(&other), Level::Warn);
    }

    /// What a panic's message, a `dbg!` or a log line at trace may show.
    #[test]
    fn nothing_that_holds_a_secret_prints_it() {
        const SECRETS: [&str; 2] = ["k3y-qWx7Zp0vB4tLm9Rd2Ys6", "pw-Hj5Ng8Kc1Fv3"];
        let variables = [
            ("API_KEY", SECRETS[0]),
            ("BMC_HOST", "192.0.2.1"),
            ("BMC_USER", "admin"),
            ("BMC_PASSWORD", SECRETS[1]),
            ("IPMITOOL", "/bin/sh"),
        ];
        let of = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into());
        let lookup = |name: &str| -> Option<OsString> { of(name) };
        let config = Config::read(&lookup, std::iter::empty()).unwrap();
        let text = format!("GET /power/status HTTP/1.0\r\nX-API-Key: {}\r\n\r\n", SECRETS[0]);
        let head = Head::parse(text.as_bytes(), String::new()).unwrap();
        let mut printed = vec![format!("{config:?}"), format!("{head:?}")];

        let interrupt = Interrupt::new().unwrap();
        let (timeout, ledger) = (config.request_timeout, Ledger::new(None, config.cooldown));
        let sidecar = Sidecar::new(config.keys, config.bmc, timeout, ledger, interrupt);
        let login = sidecar.bmc.login();
        let rejected = Rejected { login, failure: Failure::BadPassword, until: Instant::now() };
        *locked(&sidecar.rejected) = Some(rejected);
        let Admission::Command(admitted) = sidecar.admit(&head) else { panic!("the key is valid") };
        let invocation = sidecar.bmc.invocation(&admitted.authorised, &sidecar.bmc.login());
        printed.extend([format!("{sidecar:?}"), format!("{admitted:?}"), format!("{invocation:?}")]);
        printed.push(invocation.pasteable());
        for text in printed {
            for secret in SECRETS {
                // As text, and as the numbers of its bytes.
                let numbers = format!("{:?}", &secret.as_bytes()[..8]);
                let numbers = numbers.trim_matches(['[', ']']);
                assert!(!text.contains(&secret[..8]) && !text.contains(numbers), "{secret} in {text}");
            }
        }
    }
}
