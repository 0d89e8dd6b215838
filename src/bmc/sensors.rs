//! Reads all sensors of one BMC, and remembers the last list.
//!
//! A reading takes several runs. The first asks how many definitions the BMC has. `ipmitool` must never see a BMC without
//! any: it then erases the repository and fills it anew.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use log::log;

use super::arguments::{Login, SensorPart};
use super::definitions::Definitions;
use super::outcome::explain;
use super::version::Version;
use super::{Bmc, Done, Repeats, locked};
use crate::failure::{Code, Failure};
use crate::http::Response;
use crate::process::{End, Interrupt, Outcome};
use crate::readings::Answer;
use crate::request::Admitted;
use crate::sensors::{Sensor, answer, read};
use crate::timing::{
    DEFINITIONS_CHECKED, FIRST_WAIT, READ_NEEDS, READING_SENSORS, SENSORS_AGAIN, SENSORS_LAST,
};

/// What `ipmitool` says when a part of the list was lost on the way. It may exit with 0 all the same.
const LOST: [&str; 3] = ["Unable to renew SDR reservation", "Get SDR ", "ipmi_sdr_get_record() failed"];

/// A server has a few hundred. Each caller gets its own copy of the reply, and 64 of these must fit into a container of
/// 32 MB.
const MAX_SENSORS: usize = 1_000;

/// A list that is not whole is read once more.
const TRIES: usize = 2;

const LOSSY: &str = "Try again; look for a network that loses packets";

const SLOWER: &str = "The sensors are read without them, which takes longer";

const TOO_SLOW: &str = "Try again; the sensors of a BMC that always needs more than a minute cannot be read";

#[derive(Debug, Default)]
pub(super) struct Sensors {
    /// Never locked while a run or a disk is waited for.
    last: Mutex<Option<Last>>,
    /// Locked for as long as the sensors are read.
    reader: Mutex<Reader>,
    /// What its log lines about the folder repeat.
    repeats: Mutex<Repeats>,
    /// Ends a reading with the program. A CGI program has none.
    interrupt: OnceLock<Interrupt>,
    is_stopped: AtomicBool,
}

/// The last whole list.
#[derive(Debug)]
struct Last {
    sensors: Arc<[Sensor]>,
    at: Instant,
}

/// What one reading tells the next.
#[derive(Debug, Default)]
struct Reader {
    /// What the BMC said of itself the last time.
    repository: Option<Repository>,
    /// When that was. `None` after a reading that failed.
    checked: Option<Instant>,
    /// Of the last whole list.
    rows: Option<usize>,
}

/// What the BMC says of its definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Repository {
    records: usize,
    /// This address, model, firmware and repository. Empty where no definitions are kept.
    identity: String,
}

/// One reading of the sensors.
struct Reading<'a> {
    admitted: &'a Admitted,
    login: &'a Login,
    /// Keeps other processes away.
    lock: Option<OwnedFd>,
    until: Instant,
}

/// What a run of the list gave.
enum List {
    Whole(Vec<Sensor>),
    /// Rows are missing.
    Short(usize),
}

impl Sensors {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn open(&self) -> io::Result<()> {
        let _ = self.interrupt.set(Interrupt::new()?); // it is set once
        Ok(())
    }

    /// Ends a reading that runs, and each that comes.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(interrupt) = self.interrupt.get() {
            interrupt.raise();
        }
    }

    /// The last list, if it is younger than that.
    fn younger_than(&self, limit: Duration, now: Instant) -> Option<Answer> {
        let last = locked(&self.last);
        let last = last.as_ref()?;
        let age = now.saturating_duration_since(last.at);
        (age < limit).then(|| answer(&last.sensors, age))
    }
}

impl Bmc {
    /// The list that was read a moment ago.
    pub(super) fn recent_sensors(&self, admitted: &Admitted) -> Option<Response> {
        let answer = self.sensors.younger_than(SENSORS_AGAIN, Instant::now())?;
        Some(self.answer(admitted, Ok(Done::Now(answer))))
    }

    /// Answers a caller that cannot wait any longer for the sensors: by the last list, unless that is too old.
    pub(super) fn late_sensors(&self, admitted: &Admitted, why: Failure) -> Response {
        let last = self.sensors.younger_than(SENSORS_LAST, Instant::now());
        self.answer(admitted, last.map(Done::Now).ok_or(why))
    }

    /// Reads all sensors. A CGI program has its own time alone, and remembers nothing.
    pub(super) fn read_sensors(&self, admitted: &Admitted, lock: Option<OwnedFd>) -> Result<Answer, Failure> {
        let now = Instant::now();
        let is_late = self.runs_end_with_us && admitted.is_too_late(now);
        if is_late {
            return Err(Failure::too_late());
        }
        let until = if self.runs_end_with_us { admitted.deadline() } else { now + READING_SENSORS };
        let result = self
            .ask(admitted.command(), |login| self.read_in_turn(&Reading { admitted, login, lock, until }));
        match result {
            Ok(sensors) => {
                let answer = answer(&sensors, Duration::ZERO);
                *locked(&self.sensors.last) = Some(Last { sensors: sensors.into(), at: Instant::now() });
                Ok(answer)
            }
            Err(_) if self.sensors.is_stopped.load(Ordering::Relaxed) => {
                self.sensors.younger_than(SENSORS_LAST, Instant::now()).ok_or_else(Failure::stopping)
            }
            Err(failure) => Err(failure),
        }
    }

    /// After a reading that failed, the BMC is asked again what it is: it may have got another firmware.
    fn read_in_turn(&self, reading: &Reading) -> Result<Vec<Sensor>, Failure> {
        let mut reader = locked(&self.sensors.reader);
        let result = self.read_whole_list(&mut reader, reading);
        if result.is_err() && !self.sensors.is_stopped.load(Ordering::Relaxed) {
            reader.checked = None;
            if let Some(folder) = self.history.folder() {
                self.noted(Definitions::new(folder).forget());
            }
        }
        result
    }

    fn read_whole_list(&self, reader: &mut Reader, reading: &Reading) -> Result<Vec<Sensor>, Failure> {
        let repository = self.repository(reader, reading)?;
        let kept = match &repository {
            Some(repository) => self.definitions(reading, repository)?,
            None => None,
        };
        let expected = kept.as_ref().map(|(_, rows)| *rows).or(reader.rows);
        let file = kept.as_ref().map(|(file, _)| file.as_path());
        let mut counts = [0; TRIES];
        for count in &mut counts {
            let outcome = self.run_part(reading, &SensorPart::List(file))?;
            match self.judge(reading, &outcome, expected)? {
                List::Whole(sensors) => {
                    reader.rows = Some(sensors.len());
                    return Ok(sensors);
                }
                List::Short(rows) => *count = rows,
            }
        }
        let [first, second] = counts;
        if first == second && kept.is_none() {
            reader.rows = None; // the BMC has fewer by now: nothing is lost twice alike
        }
        let most = first.max(second);
        let of = expected.map_or_else(String::new, |expected| format!(" of {expected}"));
        Err(Code::BmcTimeout.because(format!("it gave {most}{of} sensors, twice")).with_remedy(LOSSY))
    }

    /// What the BMC says of its definitions. `None` if it says nothing: some keep them elsewhere.
    fn repository(&self, reader: &mut Reader, reading: &Reading) -> Result<Option<Repository>, Failure> {
        let now = Instant::now();
        if let (Some(known), Some(at)) = (&reader.repository, reader.checked)
            && now.saturating_duration_since(at) < DEFINITIONS_CHECKED
        {
            return Ok(Some(known.clone()));
        }
        let outcome = self.run_part(reading, &SensorPart::Repository)?;
        let info = outcome.stdout.text();
        let Some(records) = record_count(&info) else {
            let failure = self.explain_part(reading, &outcome);
            let is_declined = matches!(failure.code(), Code::BmcUnsupported | Code::BmcRefused);
            return if is_declined { Ok(None) } else { Err(failure) };
        };
        if records == 0 {
            return Err(Code::BmcUnsupported.because("it has no definitions of sensors"));
        }
        let mut identity = String::new();
        if self.history.folder().is_some() {
            let outcome = self.run_part(reading, &SensorPart::Controller)?;
            if !outcome.stdout.text().contains("Firmware Revision") {
                return Err(self.explain_part(reading, &outcome));
            }
            identity = format!("{}\n{}{info}", self.target.address(), outcome.stdout.text());
        }
        let repository = Repository { records, identity };
        if reader.repository.as_ref().is_some_and(|known| *known != repository) {
            reader.rows = None;
        }
        (reader.repository, reader.checked) = (Some(repository.clone()), Some(Instant::now()));
        Ok(Some(repository))
    }

    /// The file with the definitions, and the rows that it gives. They are read if there are none. The list can be read
    /// without them.
    fn definitions(
        &self,
        reading: &Reading,
        repository: &Repository,
    ) -> Result<Option<(PathBuf, usize)>, Failure> {
        let Repository { records, identity } = repository;
        let Some(folder) = self.history.folder() else { return Ok(None) };
        let (definitions, now) = (Definitions::new(folder), SystemTime::now());
        let mut rows = self.noted(definitions.rows(identity, *records, now)).flatten();
        if rows.is_none()
            && let Some(draft) = self.noted(definitions.draft(now)).flatten()
        {
            self.run_part(reading, &SensorPart::Dump(&draft))?;
            rows = self.noted(definitions.keep(identity, *records)).flatten();
        }
        Ok(rows.map(|rows| (definitions.file(), rows)))
    }

    /// Sensors can be read without a disk, only slower. The log has the same failure once, and then hourly.
    fn noted<T>(&self, result: io::Result<T>) -> Option<T> {
        let report = |error: &io::Error| {
            let folder = self.history.folder().unwrap_or(Path::new("")).display();
            let cause = format!("keeping definitions of sensors in STATE_DIR, {folder}: {error}");
            let failure = Code::Internal.because(cause).with_remedy(SLOWER);
            let level = locked(&self.sensors.repeats).level_of(None, &failure, Instant::now());
            log!(level, "{}{}", self.server(), failure.explain());
        };
        result.inspect_err(report).ok()
    }

    fn run_part(&self, reading: &Reading, part: &SensorPart) -> Result<Outcome, Failure> {
        let Reading { admitted, login, lock, until } = reading;
        let invocation = self.target.sensor_invocation(admitted.authorised(), login, part);
        let invocation =
            invocation.ok_or_else(|| Code::Internal.because("the name of STATE_DIR is no UTF-8"))?;
        if until.saturating_duration_since(Instant::now()) < READ_NEEDS {
            return Err(self.too_slow());
        }
        let lock = lock.as_ref().and_then(|lock| lock.try_clone().ok());
        let interrupt = self.sensors.interrupt.get().unwrap_or(&self.interrupt);
        let outcome = self.invoke(invocation, lock, *until, interrupt)?;
        if matches!(outcome.end, End::Exited(_)) {
            return Ok(outcome);
        }
        Err(self.explain_part(reading, &outcome))
    }

    fn explain_part(&self, reading: &Reading, outcome: &Outcome) -> Failure {
        let version = *self.version.get().unwrap_or(&Version::Telling);
        let failure = explain(reading.admitted.command(), outcome, version);
        // A silent BMC ends a run of itself, unless earlier ones took its time.
        let is_cut = matches!(outcome.end, End::Stopped) && !self.runs_end_with_us;
        match failure.code() {
            Code::BmcTimeout if !self.runs_end_with_us => failure.with_remedy(TOO_SLOW),
            Code::BmcUnreachable if is_cut => self.too_slow(),
            _ => failure,
        }
    }

    /// A CGI program has no more than `REQUEST_TIMEOUT`, as the usual remedy says.
    fn too_slow(&self) -> Failure {
        let failure = Failure::from(Code::BmcTimeout);
        if self.runs_end_with_us { failure } else { failure.with_remedy(TOO_SLOW) }
    }

    /// Whether a run gave a whole list.
    fn judge(&self, reading: &Reading, outcome: &Outcome, expected: Option<usize>) -> Result<List, Failure> {
        let (stderr, is_good) =
            (outcome.stderr.text(), matches!(outcome.end, End::Exited(status) if status.success()));
        if outcome.stdout.truncated {
            return Err(Code::BmcError.because("its list of sensors has more than 512 KiB"));
        }
        match read(&outcome.stdout.bytes) {
            Some(sensors) if sensors.len() > MAX_SENSORS => {
                Err(Code::BmcError.because(format!("its list has more than {MAX_SENSORS} sensors")))
            }
            Some(sensors) if is_good || !sensors.is_empty() => {
                // A lost reply may have come at another try: the number of rows is the better proof.
                let is_lost = !is_good || LOST.iter().any(|words| stderr.contains(words));
                let is_short = expected.map_or(is_lost, |expected| sensors.len() < expected);
                Ok(if is_short { List::Short(sensors.len()) } else { List::Whole(sensors) })
            }
            None if is_good => Err(Code::BmcError.because("its list of sensors cannot be read")),
            // Lost replies take longer.
            _ if stderr.contains("Unable to open SDR for reading") && outcome.took < FIRST_WAIT => {
                let failure = self.explain_part(reading, outcome);
                let has_reason = failure.code() != Code::BmcError;
                let lacks = || Code::BmcUnsupported.because("it has no definitions of sensors");
                Err(if has_reason { failure } else { lacks() })
            }
            _ => Err(self.explain_part(reading, outcome)),
        }
    }
}

/// `Record Count                        : 40`
fn record_count(info: &str) -> Option<usize> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let (_, count) = lines.find(|(name, _)| name.trim() == "Record Count")?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_definitions_is_read_from_its_line() {
        for (info, records) in [
            (
                "SDR Version   : 0x51\nRecord Count                        : 40\nFree Space : none (full)\n",
                Some(40),
            ),
            ("Record Count: 0", Some(0)),
            ("Record Count : many", None),
            ("", None),
        ] {
            assert_eq!(record_count(info), records, "{info}");
        }
    }
}
