//! The fault table. Each row is a fault of the BMC, the network link or `ipmitool`, with the replies to a
//! status and to a change. After each fault, everything must work again.

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
    KEY, Link, Reply, Running, Sidecar, SimulatedBmc, Step, TIMEOUT, eventually, has_ended, require, wait_for,
};

use Cause::{Arguments, Login, Missing, NoProcess, NotExecutable, OnLink, Script, Slow};
use Link::{AnswersWith, Late, LateReply, LosesReply, OnlyIpmi15, SilentFrom};

struct Row {
    fault: &'static str,
    cause: Cause,
    /// The limit for each reply, in seconds.
    within: f64,
    status: Expected,
    change: Expected,
}

enum Cause {
    OnLink(Link),
    /// The server behind the BMC needs this time for each call, during the whole test.
    Slow(Duration),
    /// A user and a password that the BMC does not accept.
    Login(&'static str, &'static str),
    /// The real `ipmitool`, with arguments that `sed` has changed.
    Arguments(&'static str),
    /// Shell code that runs before the real `ipmitool`.
    Script(&'static str),
    Missing,
    NotExecutable,
    /// The kernel does not let the sidecar start a process.
    NoProcess,
}

/// An expected reply: its status, its code and a part of its error text.
#[derive(Clone, Copy, PartialEq)]
struct Expected(u16, &'static str, &'static str);

/// Home Assistant hangs up after 10 s. The time that a busy machine adds counts too.
const BEFORE_HANGUP: f64 = 10.0;

/// In milliseconds. A reply may be this much later than `REQUEST_TIMEOUT`, by the clock of the sidecar. With
/// the default of 9 s it is still before Home Assistant hangs up.
const GRACE: u64 = 1_000;

/// For faults that take 4 to 6 s. They get a longer `REQUEST_TIMEOUT`, since a busy machine could exceed the
/// default.
const SLOW: f64 = 19.0;

/// For faults that take about 0.1 s. A busy machine may need seconds. The limit is below the deadline of 9 s,
/// so a reply that waits for the deadline fails.
const QUICK: f64 = 8.0;

const DONE: Expected = Expected(200, "", "");
const UNREACHABLE: Expected =
    Expected(502, "bmc_unreachable", "Check BMC_HOST and BMC_PORT, that IPMI over LAN");
const WENT_SILENT: Expected = Expected(502, "bmc_unreachable", "it fell silent during the login");
const UNRESOLVED: Expected = Expected(502, "bmc_unreachable", "its name cannot be resolved");
const SLOW_REPLIES: Expected = Expected(502, "bmc_unreachable", "needs a larger REQUEST_TIMEOUT");
const PERHAPS_UNKNOWN: Expected =
    Expected(502, "bmc_unreachable", "Some BMCs do so for an unknown user (BMC_USER)");
const NO_IPMI_2: Expected = Expected(502, "bmc_unreachable", "it speaks no IPMI 2.0");
const TIMED_OUT: Expected =
    Expected(504, "bmc_timeout", "The BMC did not finish in time; nothing was changed");
const UNKNOWN: Expected = Expected(504, "outcome_unknown", "it may have happened. Read the power status");
const BAD_PASSWORD: Expected = Expected(502, "bmc_bad_password", "Correct BMC_PASSWORD");
const UNKNOWN_USER: Expected =
    Expected(502, "bmc_unknown_user", "Correct BMC_USER, and allow the user IPMI over LAN");
const NO_SESSION: Expected = Expected(502, "bmc_busy", "it has no free session. Try again in a minute");
const CIPHER_SUITE: Expected =
    Expected(502, "bmc_cipher_suite", "Set BMC_CIPHER_SUITE to 17 for a newer BMC");
const PRIVILEGE: Expected = Expected(502, "bmc_privilege", "Give the user OPERATOR on the BMC");
const REFUSED: Expected = Expected(409, "bmc_refused", "not supported in present state. Read the power");
const NODE_BUSY: Expected = Expected(502, "bmc_busy", "Node busy");
const BMC_ERROR: Expected =
    Expected(502, "bmc_error", "The BMC or ipmitool reported an error: Unspecified error");
const ASSERTED: Expected = Expected(502, "bmc_error", "Assertion `0' failed");
const KILLED: Expected = Expected(502, "bmc_error", "ipmitool gave no answer (signal: 11 (SIGSEGV)");
const NO_ANSWER: Expected = Expected(502, "bmc_error", "ipmitool gave no answer (exit status: ");
const GARBAGE: Expected = Expected(502, "bmc_error", "the log has ipmitool's own words");
const MISSING: Expected =
    Expected(500, "ipmitool_missing", "Install it where the sidecar runs, or set IPMITOOL");
const NOT_EXECUTABLE: Expected = Expected(500, "ipmitool_missing", "Permission denied");
const NO_PROCESS: Expected = Expected(500, "internal", "Resource temporarily unavailable");

const fn row(fault: &'static str, cause: Cause, within: f64, status: Expected, change: Expected) -> Row {
    Row { fault, cause, within, status, change }
}

#[rustfmt::skip] // a table
const ROWS: &[Row] = &[
    //  the fault, its cause, limit in seconds, expected for a status, expected for a change
    row("dead", OnLink(SilentFrom(Step::Capabilities)), BEFORE_HANGUP, UNREACHABLE, UNREACHABLE),
    row("nothing listens at its port", Arguments("s/-p [0-9]*/-p 9/"), BEFORE_HANGUP, UNREACHABLE, UNREACHABLE),
    row("its name does not resolve", Arguments("s/-H [^ ]*/-H bmc.invalid/"), BEFORE_HANGUP, UNRESOLVED, UNRESOLVED),
    row("needs 3 s for a command", Slow(Duration::from_secs(3)), SLOW, DONE, DONE),
    row("every reply 0.3 s late", OnLink(Late(Duration::from_millis(300))), SLOW, DONE, DONE),
    row("every reply 1.5 s late", OnLink(Late(Duration::from_millis(1_500))), BEFORE_HANGUP, UNREACHABLE, UNREACHABLE),
    row("every reply 1.9 s late", OnLink(Late(Duration::from_millis(1_900))), BEFORE_HANGUP, SLOW_REPLIES, SLOW_REPLIES),
    row("every RAKP 2 message 2.5 s late", OnLink(LateReply(Step::Rakp1, Duration::from_millis(2_500))), BEFORE_HANGUP, SLOW_REPLIES, DONE),
    row("every RAKP 2 message 4.5 s late", OnLink(LateReply(Step::Rakp1, Duration::from_millis(4_500))), SLOW, PERHAPS_UNKNOWN, PERHAPS_UNKNOWN),
    row("every RAKP 4 message 4.5 s late", OnLink(LateReply(Step::Rakp3, Duration::from_millis(4_500))), SLOW, SLOW_REPLIES, SLOW_REPLIES),
    row("speaks IPMI 1.5 only", OnLink(OnlyIpmi15), QUICK, NO_IPMI_2, NO_IPMI_2),
    row("ignores an unknown user", OnLink(SilentFrom(Step::Rakp1)), SLOW, PERHAPS_UNKNOWN, PERHAPS_UNKNOWN),
    row("busy at the privilege level", OnLink(AnswersWith(Step::Privilege, 0xc0)), QUICK, NODE_BUSY, NODE_BUSY),
    row("silent from Open Session on", OnLink(SilentFrom(Step::OpenSession)), BEFORE_HANGUP, UNREACHABLE, UNREACHABLE),
    row("silent from RAKP 2 on", OnLink(SilentFrom(Step::Rakp1)), BEFORE_HANGUP, WENT_SILENT, WENT_SILENT),
    row("silent from RAKP 4 on", OnLink(SilentFrom(Step::Rakp3)), BEFORE_HANGUP, WENT_SILENT, WENT_SILENT),
    row("silent from Set Session Privilege Level on", OnLink(SilentFrom(Step::Privilege)), BEFORE_HANGUP, WENT_SILENT, WENT_SILENT),
    row("silent from Get HPM.x Capabilities on", OnLink(SilentFrom(Step::Hpm)), BEFORE_HANGUP, TIMED_OUT, TIMED_OUT),
    row("silent from Get PICMG Properties on", OnLink(SilentFrom(Step::Picmg)), BEFORE_HANGUP, TIMED_OUT, UNKNOWN),
    row("silent from Get VSO Capabilities on", OnLink(SilentFrom(Step::Vso)), BEFORE_HANGUP, TIMED_OUT, UNKNOWN),
    row("silent from the command on", OnLink(SilentFrom(Step::Chassis)), BEFORE_HANGUP, TIMED_OUT, UNKNOWN),
    row("the reply to Open Session is lost", OnLink(LosesReply(Step::OpenSession)), BEFORE_HANGUP, UNREACHABLE, UNREACHABLE),
    row("the reply to Get Device ID is lost", OnLink(LosesReply(Step::DeviceId)), SLOW, DONE, DONE),
    row("the reply to the command is lost", OnLink(LosesReply(Step::Chassis)), SLOW, TIMED_OUT, UNKNOWN),
    row("the reply to Close Session is lost", OnLink(LosesReply(Step::CloseSession)), SLOW, DONE, DONE),
    row("wrong password", Login("admin", "wr0ng-passw0rd"), QUICK, BAD_PASSWORD, BAD_PASSWORD),
    row("unknown user", Login("nobody", "s3cret"), QUICK, UNKNOWN_USER, UNKNOWN_USER),
    row("account locked", OnLink(AnswersWith(Step::Rakp1, 0x0d)), QUICK, UNKNOWN_USER, UNKNOWN_USER),
    row("no session left", OnLink(AnswersWith(Step::OpenSession, 0x01)), QUICK, NO_SESSION, NO_SESSION),
    row("lacks cipher suite 17", Arguments("s/-C 1 /-C 17 /"), QUICK, CIPHER_SUITE, CIPHER_SUITE),
    row("supports only cipher suite 17", OnLink(AnswersWith(Step::OpenSession, 0x11)), QUICK, CIPHER_SUITE, CIPHER_SUITE),
    row("the user lacks the privilege level", OnLink(AnswersWith(Step::Rakp1, 0x0a)), QUICK, PRIVILEGE, PRIVILEGE),
    row("a privilege level that allows only reads", Arguments("s/^/-L USER /"), QUICK, DONE, PRIVILEGE),
    row("refuses the command in its present state", OnLink(AnswersWith(Step::Chassis, 0xd5)), QUICK, REFUSED, REFUSED),
    row("busy", OnLink(AnswersWith(Step::Chassis, 0xc0)), QUICK, NODE_BUSY, NODE_BUSY),
    row("reports an error", OnLink(AnswersWith(Step::Chassis, 0xff)), QUICK, BMC_ERROR, BMC_ERROR),
    row("ipmitool asserts", Arguments("s/-C 1 /-C 11 /"), QUICK, ASSERTED, ASSERTED),
    row("ipmitool is killed by a signal", Script("kill -SEGV $$"), QUICK, KILLED, UNKNOWN),
    row("ipmitool prints garbage and fails", Script("head -c 9999 /dev/urandom | tee /dev/stderr; exit 1"), QUICK, GARBAGE, UNKNOWN),
    row("ipmitool prints garbage and succeeds", Script("exec head -c 9999 /dev/urandom"), QUICK, NO_ANSWER, UNKNOWN),
    row("ipmitool prints 100 MB", Script("head -c 100M /dev/zero; exit 1"), SLOW, NO_ANSWER, UNKNOWN),
    row("ipmitool prints 100 MB of errors", Script("head -c 100M /dev/zero >&2; exit 1"), SLOW, GARBAGE, UNKNOWN),
    row("ipmitool is missing", Missing, QUICK, MISSING, MISSING),
    row("ipmitool is not executable", NotExecutable, QUICK, NOT_EXECUTABLE, NOT_EXECUTABLE),
    row("no process can be started", NoProcess, QUICK, NO_PROCESS, NO_PROCESS),
    row("ipmitool leaves a child that keeps its pipes open", Script("sleep 600 & echo $! >>$0.left"), QUICK, DONE, DONE),
    row("ipmitool leaves a child in another process group", Script("setsid sleep 20 &"), QUICK, DONE, DONE),
    row("ipmitool hangs", Script("exec sleep 600"), BEFORE_HANGUP, TIMED_OUT, UNKNOWN),
    row("ipmitool hangs and ignores SIGINT", Script("trap '' INT; exec sleep 600"), BEFORE_HANGUP, TIMED_OUT, UNKNOWN),
    row("a script around ipmitool hides its output", Script("ipmitool \"$@\" >/dev/null 2>&1; exit 1"), QUICK, NO_ANSWER, UNKNOWN),
];

/// `cargo test faults -- --nocapture` prints the table.
#[test]
fn every_fault_is_reported_in_time_and_has_no_later_effect() {
    // Slow rows mostly wait, so they all run at once. Quick rows share three threads, since two cores could
    // not run all.
    let (quick, slow): (Vec<_>, Vec<_>) = ROWS.iter().partition(|row| row.within <= QUICK);
    let threads = slow.chunks(1).chain(quick.chunks(quick.len().div_ceil(3)));
    let seen = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for rows in threads {
            let seen = &seen;
            scope.spawn(move || {
                for row in rows {
                    let line = catch_unwind(|| row.run()).ok();
                    seen.lock().unwrap().insert(row.fault, line);
                }
            });
        }
    });
    println!("| fault | reply to a status | after | reply to a change | after | change was made |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let seen = seen.into_inner().unwrap();
    for row in ROWS {
        println!("{}", seen[row.fault].as_deref().unwrap_or("this row failed: see above"));
    }
    let failed: Vec<_> = seen.iter().filter(|(_, line)| line.is_none()).map(|(fault, _)| fault).collect();
    assert!(failed.is_empty(), "failed rows, see above: {failed:?}");
}

impl Row {
    /// Tests this row. Returns its line of the printed table, with the times of the replies.
    fn run(&self) -> String {
        let sidecar = self.cause.start_sidecar(self.request_timeout());
        // One for the sockets, and one for each file with user or password.
        eventually("all threads have started", || sidecar.resources().threads == 3);
        let mut before = sidecar.resources();
        before.threads += 2; // the workers start with the first change and the first read

        self.cause.start(&sidecar);
        let change = sidecar.post("/power/on").key(KEY).send();
        let status = sidecar.get("/power/status").key(KEY).send();
        self.status.check(&status, self);
        self.change.check(&change, self);
        self.assert_in_time(&sidecar.log());

        self.cause.stop(&sidecar);
        if [BAD_PASSWORD, UNKNOWN_USER].iter().any(|expected| expected.1 == change.code()) {
            // The sidecar does not try a rejected login again for a minute, but it tries another login.
            sidecar.file("BMC_USER", "oper");
            sidecar.file("BMC_PASSWORD", "operpw");
            eventually("the new login is used", || {
                sidecar.get("/power/status").key(KEY).send().status == 200
            });
        }
        for reply in
            [sidecar.get("/power/status").key(KEY).send(), sidecar.post("/power/reset").key(KEY).send()]
        {
            assert_eq!(reply.status, 200, "after {}: {}", self.fault, reply.error());
        }

        let mut changes = sidecar.bmc_changes();
        assert_eq!(changes.pop().as_deref(), Some("set reset 1"), "{}", self.fault);
        let is_correct = match self.change {
            DONE => changes == ["set power 1"],
            UNKNOWN => changes.is_empty() || changes == ["set power 1"],
            _ => changes.is_empty(),
        };
        assert!(is_correct, "{}: {changes:?}", self.fault);
        let is_free = wait_for(TIMEOUT, || (sidecar.resources() == before).then_some(()));
        assert!(
            is_free.is_some(),
            "{}: {:?} in use, before the fault {before:?}",
            self.fault,
            sidecar.resources()
        );
        if self.cause.has_a_script() {
            let left = fs::read_to_string(beside(&sidecar, "left")).unwrap_or_default();
            eventually("no process is left", || {
                left.lines().all(|pid| has_ended(pid.parse().expect("a pid")))
            });
            let runs = sidecar.ipmitool_runs();
            let change_runs = runs.iter().filter(|run| run.arguments.ends_with("power on")).count();
            assert!(change_runs <= 1, "{}: {runs:?}", self.fault);
        }

        let made = if changes.is_empty() { "no" } else { "yes" };
        format!(
            "| {} | {} | {} | {made} |",
            self.fault,
            self.status.columns(&status),
            self.change.columns(&change)
        )
    }

    /// Seconds.
    fn request_timeout(&self) -> u64 {
        if self.within > BEFORE_HANGUP { 18 } else { 9 }
    }

    /// Checks the times that the sidecar has logged.
    fn assert_in_time(&self, log: &str) {
        for line in log.lines() {
            let Some((_, rest)) = line.split_once("answered after ") else { continue };
            let took: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            assert!(took <= 1_000 * self.request_timeout() + GRACE, "{}: {line}", self.fault);
        }
    }
}

impl Expected {
    #[track_caller]
    fn check(&self, reply: &Reply, row: &Row) {
        let Expected(status, code, words) = *self;
        let error = reply.error();
        assert_eq!((reply.status, reply.code()), (status, code), "{}: {error}", row.fault);
        assert!(error.contains(words), "{}: no {words:?} in {error:?}", row.fault);
        assert!(reply.took.as_secs_f64() < row.within, "{}: after {:?}", row.fault, reply.took);
    }

    /// Two columns of the printed table.
    fn columns(&self, reply: &Reply) -> String {
        let Expected(status, code, words) = self;
        let reply_text =
            if code.is_empty() { status.to_string() } else { format!("{status} `{code}`: {words}") };
        format!("{reply_text} | {:.1} s", reply.took.as_secs_f64())
    }
}

impl Cause {
    /// Starts a sidecar that can have this fault. Only slow BMCs and wrong logins have their fault from the
    /// start.
    fn start_sidecar(&self, request_timeout: u64) -> Running {
        let bmc = match self {
            Slow(delay) => SimulatedBmc::off().slow(*delay),
            _ => SimulatedBmc::off(),
        };
        let (user, password) = match self {
            Login(user, password) => (*user, *password),
            _ => ("admin", "s3cret"),
        };
        let sidecar = Sidecar::with_bmc(bmc)
            .over_relay()
            // Without encryption, so that the relay can tell the requests apart.
            .env("BMC_CIPHER_SUITE", "1")
            .env("REQUEST_TIMEOUT", request_timeout.to_string())
            .file("BMC_USER", user)
            .file("BMC_PASSWORD", password);
        let real = require("ipmitool");
        let real = real.display();
        let faulty = match self {
            OnLink(_) | Slow(_) | Login(..) => return sidecar.start(),
            NoProcess => return sidecar.started_by(&["sh", "-c", AS_ANOTHER_USER]).start(),
            Missing | NotExecutable => ":".to_owned(),
            Script(shell) => (*shell).to_owned(),
            Arguments(edit) => format!(r#"exec {real} $(echo "$*" | sed '{edit}')"#),
        };
        let script = format!("if [ -e \"$0.faulty\" ]; then\n{faulty}\nfi\nexec {real} \"$@\"");
        match self {
            // What the script prints is not the real one's, so its version does not matter.
            Script(_) => sidecar.ipmitool(&script).start(),
            _ => sidecar.ipmitool_of_version(&format!("{real} -V"), &script).start(),
        }
    }

    const fn has_a_script(&self) -> bool {
        matches!(self, Arguments(_) | Script(_) | Missing | NotExecutable)
    }

    fn start(&self, sidecar: &Running) {
        match self {
            OnLink(link) => sidecar.set_link(link.clone()),
            Slow(_) | Login(..) => {}
            Arguments(_) | Script(_) => fs::write(beside(sidecar, "faulty"), "").unwrap(),
            Missing => fs::rename(sidecar.ipmitool_path(), beside(sidecar, "moved")).unwrap(),
            NotExecutable => set_mode(sidecar, 0o644),
            NoProcess => {
                // This starts the worker for reads. The worker for changes cannot start any more.
                assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
                limit_processes(sidecar, Some(1));
            }
        }
    }

    fn stop(&self, sidecar: &Running) {
        match self {
            OnLink(_) => sidecar.set_link(Link::Good),
            Slow(_) | Login(..) => {}
            Arguments(_) | Script(_) => fs::remove_file(beside(sidecar, "faulty")).unwrap(),
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

/// The process limit does not apply to root. When the tests run as root, this script becomes a user without
/// other processes. It opens the program first, since that user cannot read the build directory.
const AS_ANOTHER_USER: &str = r#"
exec 3<"$0"
[ "$(id -u)" != 0 ] || set -- setpriv --reuid 60623 --regid 60623 --clear-groups
exec "$@" /proc/self/fd/3
"#;

fn limit_processes(sidecar: &Running, most: Option<u64>) {
    let most = most.map_or("unlimited".to_owned(), |most| most.to_string());
    let (pid, limit) = (sidecar.pid().as_raw_pid().to_string(), format!("--nproc={most}:"));
    let mut words = vec!["prlimit", "--pid", &pid, &limit];
    if getuid().is_root() {
        // Without root's rights, a user may change the limits of its own processes.
        words.splice(..0, ["setpriv", "--reuid", "60623", "--regid", "60623", "--clear-groups"]);
    }
    let limited = Command::new(words[0]).args(&words[1..]).status();
    assert!(limited.expect("prlimit and setpriv, of util-linux").success());
}
