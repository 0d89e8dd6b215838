//! The fault table: what a status and a change are told for each way in which the BMC, the line or `ipmitool` can
//! fail, and that nothing of it outlasts the fault.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, getuid};

use crate::support::{
    KEY, Line, PATIENCE, Reply, Running, Sidecar, SimulatedBmc, Step, eventually, is_gone, require, until,
};

use Cause::{Arguments, Login, Missing, NoProcess, NotExecutable, OnTheLine, Slow, Tool};
use Line::{Late, Loses, Says, SilentFrom};

struct Row {
    fault: &'static str,
    cause: Cause,
    /// Seconds, at most.
    within: f64,
    status: Told,
    change: Told,
}

enum Cause {
    OnTheLine(Line),
    /// The server behind the BMC takes its time, from first to last.
    Slow(Duration),
    /// A user and a password that are not the BMC's.
    Login(&'static str, &'static str),
    /// The real `ipmitool`, with its arguments changed by `sed`.
    Arguments(&'static str),
    /// Shell before the real `ipmitool`.
    Tool(&'static str),
    Missing,
    NotExecutable,
    /// The system lets the sidecar start none.
    NoProcess,
}

/// Status, code, and words that a user reads.
#[derive(Clone, Copy, PartialEq)]
struct Told(u16, &'static str, &'static str);

/// Home Assistant hangs up then. What a crowded machine adds at our end counts as well.
const IN_TIME: f64 = 10.0;

/// Beyond `REQUEST_TIMEOUT`, by the sidecar's own clock.
const GRACE: u64 = 500;

/// For what takes 4 to 6 s by itself: with a larger `REQUEST_TIMEOUT`, or a crowded machine would tell another tale.
const BY_ITSELF: f64 = 18.5;

/// A crowded machine may take seconds for what is done in 0.1 s.
const AT_ONCE: f64 = 6.0;

const DONE: Told = Told(200, "", "");
const UNREACHABLE: Told = Told(502, "bmc_unreachable", "Check BMC_HOST and BMC_PORT, that IPMI over LAN");
const FELL_SILENT: Told = Told(502, "bmc_unreachable", "it fell silent during the login");
const NO_SUCH_NAME: Told = Told(502, "bmc_unreachable", "its name cannot be resolved");
const TIMEOUT: Told = Told(504, "bmc_timeout", "The BMC did not finish in time; nothing was changed");
const UNKNOWN: Told = Told(504, "outcome_unknown", "it may have happened. Read the power status");
const BAD_PASSWORD: Told = Told(502, "bmc_bad_password", "Correct BMC_PASSWORD");
const NOT_LET_IN: Told = Told(502, "bmc_unknown_user", "Correct BMC_USER, and allow the user IPMI over LAN");
const NO_SESSION: Told = Told(502, "bmc_busy", "it has no free session. Try again in a minute");
const OTHER_SUITE: Told = Told(502, "bmc_cipher_suite", "Set BMC_CIPHER_SUITE to 17 for a newer BMC");
const PRIVILEGE: Told = Told(502, "bmc_privilege", "Give the user OPERATOR on the BMC");
const REFUSED: Told = Told(409, "bmc_refused", "not supported in present state. Read the power");
const NODE_BUSY: Told = Told(502, "bmc_busy", "Node busy");
const BMC_ERROR: Told = Told(502, "bmc_error", "The BMC or ipmitool reported an error: Unspecified error");
const ASSERTED: Told = Told(502, "bmc_error", "Assertion `0' failed");
const KILLED: Told = Told(502, "bmc_error", "ipmitool gave no answer (signal: 11 (SIGSEGV)");
const NO_ANSWER: Told = Told(502, "bmc_error", "ipmitool gave no answer (exit status: ");
const GARBAGE: Told = Told(502, "bmc_error", "the log has ipmitool's own words");
const MISSING: Told = Told(500, "ipmitool_missing", "Install it where the sidecar runs, or set IPMITOOL");
const FORBIDDEN: Told = Told(500, "ipmitool_missing", "Permission denied");
const NO_ROOM: Told = Told(500, "internal", "Resource temporarily unavailable");

const fn row(fault: &'static str, cause: Cause, within: f64, status: Told, change: Told) -> Row {
    Row { fault, cause, within, status, change }
}

#[rustfmt::skip] // a table
const ROWS: &[Row] = &[
    //  the fault, how it is made, seconds, what a status is told, what a change is told
    row("dead", OnTheLine(SilentFrom(Step::Capabilities)), IN_TIME, UNREACHABLE, UNREACHABLE),
    row("nothing listens at its port", Arguments("s/-p [0-9]*/-p 9/"), IN_TIME, UNREACHABLE, UNREACHABLE),
    row("its name does not resolve", Arguments("s/-H [^ ]*/-H bmc.invalid/"), IN_TIME, NO_SUCH_NAME, NO_SUCH_NAME),
    row("takes 3 s for a command", Slow(Duration::from_secs(3)), BY_ITSELF, DONE, DONE),
    row("every reply 0.3 s late", OnTheLine(Late(Duration::from_millis(300))), BY_ITSELF, DONE, DONE),
    row("every reply 1.5 s late", OnTheLine(Late(Duration::from_millis(1_500))), IN_TIME, UNREACHABLE, UNREACHABLE),
    row("silent from Open Session on", OnTheLine(SilentFrom(Step::OpenSession)), IN_TIME, UNREACHABLE, UNREACHABLE),
    row("silent from RAKP 2 on", OnTheLine(SilentFrom(Step::Rakp1)), IN_TIME, FELL_SILENT, FELL_SILENT),
    row("silent from RAKP 4 on", OnTheLine(SilentFrom(Step::Rakp3)), IN_TIME, FELL_SILENT, FELL_SILENT),
    row("silent from Set Session Privilege Level on", OnTheLine(SilentFrom(Step::Privilege)), IN_TIME, FELL_SILENT, FELL_SILENT),
    row("silent from Get HPM.x Capabilities on", OnTheLine(SilentFrom(Step::Hpm)), IN_TIME, TIMEOUT, TIMEOUT),
    row("silent from Get PICMG Properties on", OnTheLine(SilentFrom(Step::Picmg)), IN_TIME, TIMEOUT, UNKNOWN),
    row("silent from Get VSO Capabilities on", OnTheLine(SilentFrom(Step::Vso)), IN_TIME, TIMEOUT, UNKNOWN),
    row("silent from the command on", OnTheLine(SilentFrom(Step::Chassis)), IN_TIME, TIMEOUT, UNKNOWN),
    row("the reply to Open Session is lost", OnTheLine(Loses(Step::OpenSession)), IN_TIME, UNREACHABLE, UNREACHABLE),
    row("the reply to Get Device ID is lost", OnTheLine(Loses(Step::DeviceId)), BY_ITSELF, DONE, DONE),
    row("the reply to the command is lost", OnTheLine(Loses(Step::Chassis)), BY_ITSELF, TIMEOUT, UNKNOWN),
    row("the reply to Close Session is lost", OnTheLine(Loses(Step::CloseSession)), BY_ITSELF, DONE, DONE),
    row("wrong password", Login("admin", "wr0ng-passw0rd"), AT_ONCE, BAD_PASSWORD, BAD_PASSWORD),
    row("unknown user", Login("nobody", "s3cret"), AT_ONCE, NOT_LET_IN, NOT_LET_IN),
    row("account locked", OnTheLine(Says(Step::Rakp1, 0x0d)), AT_ONCE, NOT_LET_IN, NOT_LET_IN),
    row("no session left", OnTheLine(Says(Step::OpenSession, 0x01)), AT_ONCE, NO_SESSION, NO_SESSION),
    row("asked for cipher suite 17, which it lacks", Arguments("s/-C 1 /-C 17 /"), AT_ONCE, OTHER_SUITE, OTHER_SUITE),
    row("asked for another cipher suite than its 17", OnTheLine(Says(Step::OpenSession, 0x11)), AT_ONCE, OTHER_SUITE, OTHER_SUITE),
    row("the user lacks the privilege level", OnTheLine(Says(Step::Rakp1, 0x0a)), AT_ONCE, PRIVILEGE, PRIVILEGE),
    row("a privilege level that may only look", Arguments("s/^/-L USER /"), AT_ONCE, DONE, PRIVILEGE),
    row("refuses, in its present state", OnTheLine(Says(Step::Chassis, 0xd5)), AT_ONCE, REFUSED, REFUSED),
    row("busy", OnTheLine(Says(Step::Chassis, 0xc0)), AT_ONCE, NODE_BUSY, NODE_BUSY),
    row("has an error of its own", OnTheLine(Says(Step::Chassis, 0xff)), AT_ONCE, BMC_ERROR, BMC_ERROR),
    row("ipmitool asserts", Arguments("s/-C 1 /-C 11 /"), AT_ONCE, ASSERTED, ASSERTED),
    row("ipmitool is killed by a signal", Tool("kill -SEGV $$"), AT_ONCE, KILLED, UNKNOWN),
    row("ipmitool prints garbage and fails", Tool("head -c 9999 /dev/urandom | tee /dev/stderr; exit 1"), AT_ONCE, GARBAGE, UNKNOWN),
    row("ipmitool prints garbage and succeeds", Tool("exec head -c 9999 /dev/urandom"), AT_ONCE, NO_ANSWER, UNKNOWN),
    row("ipmitool prints 100 MB", Tool("head -c 100M /dev/zero; exit 1"), BY_ITSELF, NO_ANSWER, UNKNOWN),
    row("ipmitool prints 100 MB of errors", Tool("head -c 100M /dev/zero >&2; exit 1"), BY_ITSELF, GARBAGE, UNKNOWN),
    row("ipmitool is missing", Missing, AT_ONCE, MISSING, MISSING),
    row("ipmitool is not executable", NotExecutable, AT_ONCE, FORBIDDEN, FORBIDDEN),
    row("no process can be started", NoProcess, AT_ONCE, NO_ROOM, NO_ROOM),
    row("ipmitool leaves a child that holds its pipes", Tool("sleep 600 & echo $! >>$0.left"), AT_ONCE, DONE, DONE),
    row("ipmitool leaves one that left its group, too", Tool("setsid sleep 20 &"), AT_ONCE, DONE, DONE),
    row("ipmitool hangs", Tool("exec sleep 600"), IN_TIME, TIMEOUT, UNKNOWN),
    row("ipmitool hangs and ignores SIGINT", Tool("trap '' INT; exec sleep 600"), IN_TIME, TIMEOUT, UNKNOWN),
    row("a script around ipmitool hides its words", Tool("ipmitool \"$@\" >/dev/null 2>&1; exit 1"), AT_ONCE, NO_ANSWER, UNKNOWN),
];

/// `cargo test faults -- --nocapture` shows the table.
#[test]
fn every_fault_is_told_in_time_and_leaves_nothing() {
    // Those that wait do so all at once; the quick ones beside them take turns, for two cores would be crowded.
    let (quick, waiting): (Vec<_>, Vec<_>) = ROWS.iter().partition(|row| row.within <= AT_ONCE);
    let turns = waiting.chunks(1).chain(quick.chunks(quick.len().div_ceil(3)));
    let seen = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for rows in turns {
            let seen = &seen;
            scope.spawn(move || {
                for row in rows {
                    let line = catch_unwind(|| row.happens()).ok();
                    seen.lock().unwrap().insert(row.fault, line);
                }
            });
        }
    });
    println!("| fault | a status is told | after | a change is told | after | it was made |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let seen = seen.into_inner().unwrap();
    for row in ROWS {
        println!("{}", seen[row.fault].as_deref().unwrap_or("a row that failed: see above"));
    }
    let failed: Vec<_> = seen.iter().filter(|(_, line)| line.is_none()).map(|(fault, _)| fault).collect();
    assert!(failed.is_empty(), "see above: {failed:?}");
}

impl Row {
    /// Gives its line of the table, with the times it took.
    fn happens(&self) -> String {
        let sidecar = self.cause.sidecar(self.request_timeout());
        eventually("both lanes are there", || sidecar.holdings().threads == 3);
        let held = sidecar.holdings();

        self.cause.begins(&sidecar);
        let change = sidecar.post("/power/on").key(KEY).send();
        let status = sidecar.get("/power/status").key(KEY).send();
        self.status.is(&status, self);
        self.change.is(&change, self);
        self.assert_in_time(&sidecar.log());

        self.cause.ends(&sidecar);
        if [BAD_PASSWORD, NOT_LET_IN].iter().any(|told| told.1 == change.code()) {
            // The login is not tried again for a minute, unless it is another one.
            sidecar.file("BMC_USER", "oper");
            sidecar.file("BMC_PASSWORD", "operpw");
            eventually("it logs in", || sidecar.get("/power/status").key(KEY).send().status == 200);
        }
        for good in
            [sidecar.get("/power/status").key(KEY).send(), sidecar.post("/power/reset").key(KEY).send()]
        {
            assert_eq!(good.status, 200, "after {}: {}", self.fault, good.error());
        }

        let mut journal = sidecar.bmc_journal();
        assert_eq!(journal.pop().as_deref(), Some("set reset 1"), "{}", self.fault);
        let may_be_made = match self.change {
            DONE => journal == ["set power 1"],
            UNKNOWN => journal.is_empty() || journal == ["set power 1"],
            _ => journal.is_empty(),
        };
        assert!(may_be_made, "{}: {journal:?}", self.fault);
        let is_free = until(PATIENCE, || (sidecar.holdings() == held).then_some(()));
        assert!(is_free.is_some(), "{}: {:?} is left, it had {held:?}", self.fault, sidecar.holdings());
        if self.cause.has_a_script() {
            let left = fs::read_to_string(beside(&sidecar, "left")).unwrap_or_default();
            eventually("nobody is left", || left.lines().all(|pid| is_gone(pid.parse().expect("a pid"))));
            let runs = sidecar.ipmitool_runs();
            let changes = runs.iter().filter(|run| run.arguments.ends_with("power on")).count();
            assert!(changes <= 1, "{}: {runs:?}", self.fault);
        }

        let made = if journal.is_empty() { "no" } else { "yes" };
        format!("| {} | {} | {} | {made} |", self.fault, self.status.seen(&status), self.change.seen(&change))
    }

    /// Seconds.
    fn request_timeout(&self) -> u64 {
        if self.within > IN_TIME { 18 } else { 9 }
    }

    /// By what it has logged.
    fn assert_in_time(&self, log: &str) {
        for line in log.lines() {
            let Some((_, rest)) = line.split_once("answered after ") else { continue };
            let took: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            assert!(took <= 1_000 * self.request_timeout() + GRACE, "{}: {line}", self.fault);
        }
    }
}

impl Told {
    #[track_caller]
    fn is(&self, reply: &Reply, row: &Row) {
        let Told(status, code, words) = *self;
        let error = reply.error();
        assert_eq!((reply.status, reply.code()), (status, code), "{}: {error}", row.fault);
        assert!(error.contains(words), "{}: no {words:?} in {error:?}", row.fault);
        assert!(reply.took.as_secs_f64() < row.within, "{}: after {:?}", row.fault, reply.took);
    }

    /// Two columns of the table.
    fn seen(&self, reply: &Reply) -> String {
        let Told(status, code, words) = self;
        let told = if code.is_empty() { status.to_string() } else { format!("{status} `{code}`: {words}") };
        format!("{told} | {:.1} s", reply.took.as_secs_f64())
    }
}

impl Cause {
    /// Set up for it; as yet only those that are there from the first are.
    fn sidecar(&self, request_timeout: u64) -> Running {
        let bmc = match self {
            Slow(delay) => SimulatedBmc::off().slow(*delay),
            _ => SimulatedBmc::off(),
        };
        let (user, password) = match self {
            Login(user, password) => (*user, *password),
            _ => ("admin", "s3cret"),
        };
        let sidecar = Sidecar::beside(bmc)
            .over_a_line()
            // Not encrypted, so that the line can tell one question from another.
            .env("BMC_CIPHER_SUITE", "1")
            .env("REQUEST_TIMEOUT", request_timeout.to_string())
            .file("BMC_USER", user)
            .file("BMC_PASSWORD", password);
        let real = require("ipmitool");
        let real = real.display();
        let faulty = match self {
            OnTheLine(_) | Slow(_) | Login(..) => return sidecar.start(),
            NoProcess => return sidecar.started_by(&["sh", "-c", AS_A_USER_OF_ITS_OWN]).start(),
            Missing | NotExecutable => ":".to_owned(),
            Tool(shell) => (*shell).to_owned(),
            Arguments(edit) => format!(r#"exec {real} $(echo "$*" | sed '{edit}')"#),
        };
        sidecar.ipmitool(&format!("if [ -e \"$0.faulty\" ]; then\n{faulty}\nfi\nexec {real} \"$@\"")).start()
    }

    const fn has_a_script(&self) -> bool {
        matches!(self, Arguments(_) | Tool(_) | Missing | NotExecutable)
    }

    fn begins(&self, sidecar: &Running) {
        match self {
            OnTheLine(line) => sidecar.line_is(line.clone()),
            Slow(_) | Login(..) => {}
            Arguments(_) | Tool(_) => fs::write(beside(sidecar, "faulty"), "").unwrap(),
            Missing => fs::rename(sidecar.ipmitool_path(), beside(sidecar, "moved")).unwrap(),
            NotExecutable => set_mode(sidecar, 0o644),
            NoProcess => limit_processes(sidecar, Some(1)), // it has three threads already
        }
    }

    fn ends(&self, sidecar: &Running) {
        match self {
            OnTheLine(_) => sidecar.line_is(Line::Good),
            Slow(_) | Login(..) => {}
            Arguments(_) | Tool(_) => fs::remove_file(beside(sidecar, "faulty")).unwrap(),
            Missing => fs::rename(beside(sidecar, "moved"), sidecar.ipmitool_path()).unwrap(),
            NotExecutable => set_mode(sidecar, 0o755),
            NoProcess => limit_processes(sidecar, getrlimit(Resource::Nproc).current),
        }
    }
}

/// A file beside the script: `ipmitool.faulty`.
fn beside(sidecar: &Running, extension: &str) -> PathBuf {
    sidecar.ipmitool_path().with_extension(extension)
}

fn set_mode(sidecar: &Running, mode: u32) {
    fs::set_permissions(sidecar.ipmitool_path(), Permissions::from_mode(mode)).unwrap();
}

/// Root is subject to no process limit: where the tests run as root, this becomes a user who has no other process.
/// The program goes through a descriptor, since that user may not look where it was built.
const AS_A_USER_OF_ITS_OWN: &str = r#"
exec 3<"$0"
[ "$(id -u)" != 0 ] || set -- setpriv --reuid 60623 --regid 60623 --clear-groups
exec "$@" /proc/self/fd/3
"#;

fn limit_processes(sidecar: &Running, most: Option<u64>) {
    let most = most.map_or("unlimited".to_owned(), |most| most.to_string());
    let (pid, limit) = (sidecar.pid().as_raw_pid().to_string(), format!("--nproc={most}:"));
    let mut words = vec!["prlimit", "--pid", &pid, &limit];
    if getuid().is_root() {
        // Whoever may not override limits may set those of the same user's processes.
        words.splice(..0, ["setpriv", "--reuid", "60623", "--regid", "60623", "--clear-groups"]);
    }
    let limited = Command::new(words[0]).args(&words[1..]).status();
    assert!(limited.expect("prlimit and setpriv, of util-linux").success());
}
