//! What the kernel may refuse, and disks that hang. strace makes them do so.

use std::fs::OpenOptions;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    KEY, Process, Running, Sidecar, TIMEOUT, TempDir, eventually, has_ended, require, unique_address,
    wait_for,
};

/// For a reply that waits for nothing, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

const DONE: &str = r#"echo 'Chassis Power is on'
for what in Up/On Cycle; do echo "Chassis Power Control: $what"; done"#;

/// From now on, system calls of the sidecar fail, as long as the returned process lives.
#[track_caller]
fn inject(sidecar: &Running, fault: &str) -> Process {
    inject_at(sidecar, fault, &[])
}

/// The same for those that concern this file: `-P` and its path.
#[track_caller]
fn inject_at(sidecar: &Running, fault: &str, file: &[&str]) -> Process {
    let mut strace = Command::new(require("strace"));
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("inject={fault}")]).args(file);
    let strace = Process::spawn(strace.args(["-p", &sidecar.pid().as_raw_nonzero().to_string()]));
    let attached = wait_for(TIMEOUT, || strace.stderr.text().contains("attached").then_some(()));
    assert!(attached.is_some(), "strace: {}", strace.stderr.text());
    strace
}

#[test]
fn a_passing_lack_of_memory_does_not_end_the_program() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'").start();
    let _every_second_wait_fails =
        inject(&sidecar, "?epoll_wait,?epoll_pwait,?epoll_pwait2,?poll,?ppoll:error=ENOMEM:when=1+2");
    for _ in 0..5 {
        assert_eq!(sidecar.get("/health").send().status, 200);
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
}

/// It may have sent its command before it was killed.
#[test]
fn a_change_that_cannot_be_watched_is_killed_and_has_an_unknown_outcome() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 30").start();
    let _no_pidfd = inject(&sidecar, "pidfd_open:error=EMFILE");
    sidecar.post("/power/cycle").key(KEY).expect_failure(504, "outcome_unknown");
    sidecar.logs("it was killed");
    let runs = sidecar.ipmitool_runs();
    eventually("ipmitool ends", || runs.iter().all(|run| has_ended(run.pid)));
}

/// A sidecar whose system calls fail from its start.
fn faulty(arguments: &[&str], state: &TempDir) -> Sidecar {
    let strace = require("strace");
    let strace = [strace.to_str().expect("a path"), "-f", "-o", "/dev/null"];
    Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'")
        .env("STATE_DIR", state.path())
        .started_by(&[&strace, arguments].concat())
}

#[test]
fn a_folder_without_locks_is_warned_of() {
    let state = TempDir::new();
    let sidecar = faulty(&["-e", "inject=flock:error=ENOLCK"], &state).start();
    sidecar.logs("this file system has no locks");
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
}

#[test]
fn a_lock_of_another_user_is_an_error_that_names_the_file() {
    let state = TempDir::new();
    let lock = state.file("sidecar.lock", "");
    let lock = lock.to_str().expect("a path");
    let faulty = faulty(&["-P", lock, "-e", "inject=?open,openat:error=EACCES"], &state);
    faulty.run(&[]).exits(71).prints_error(lock).prints_error("another user made it");
}

/// As on NFS, where no flag of open helps.
#[test]
fn a_key_file_on_a_disk_that_hangs_holds_up_no_request() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).file("API_KEY", KEY).start();
    let path = sidecar.path_of("API_KEY");
    let path = path.to_str().expect("a path");
    let _hangs = inject_at(&sidecar, "?open,openat:delay_enter=60000000", &["-P", path]);
    for _ in 0..3 {
        sidecar.get("/power/status").key("wrong").expect_failure(401, "unauthorized").within(AT_ONCE);
        assert_eq!(sidecar.get("/power/status").key(KEY).send().within(AT_ONCE).status, 200);
        sidecar.get("/health").send().within(AT_ONCE);
    }
}

/// `poll` calls a file ready, whatever its disk does.
#[test]
fn a_log_on_a_disk_that_hangs_delays_nothing() {
    const MORE_LINES_THAN_WAIT: usize = 300;
    let files = TempDir::new();
    let path = files.file("log", "");
    let log = OpenOptions::new().append(true).open(&path).expect("a file");
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("RUST_LOG", "debug").start_logging_to(log);
    let path = path.to_str().expect("a path");
    let _hangs = inject_at(&sidecar, "write,writev:delay_enter=60000000", &["-P", path]);
    for _ in 0..MORE_LINES_THAN_WAIT {
        sidecar.get("/health").send().within(AT_ONCE);
    }
    assert_eq!(sidecar.get("/power/status").key(KEY).send().within(AT_ONCE).status, 200);
}

/// What cannot be noted is not sent. What needs no note goes on.
#[test]
fn a_history_on_a_disk_that_hangs_is_told_in_time() {
    let state = TempDir::new();
    let sidecar =
        Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).env("REQUEST_TIMEOUT", "7").start();
    let _hangs = inject(&sidecar, "fsync:delay_enter=60000000");
    let cycle = sidecar.post("/power/cycle").key(KEY).header("Idempotency-Key", "d-1");
    let told = cycle.expect_failure(500, "internal").within(Duration::from_secs(7));
    told.error_contains("the disk does not answer");
    assert!(sidecar.ipmitool_runs().is_empty());
    assert_eq!(sidecar.post("/power/on").key(KEY).send().within(AT_ONCE).status, 200);
    sidecar.signal(Signal::TERM).logs("INFO stopped");
}

/// The disk hangs under the definitions of three servers.
#[test]
fn a_disk_that_hangs_under_sensors_delays_the_end_by_a_second_in_all() {
    let state = TempDir::new();
    let script =
        r#"case "$*" in *"sdr info") echo 'Record Count : 3' ;; *) echo 'Firmware Revision : 1' ;; esac"#;
    let sidecar = Sidecar::with_fake_ipmitool(script).without("BMC_HOST").env("STATE_DIR", state.path());
    let servers = ["a", "b", "c"];
    let sidecar =
        servers.iter().fold(sidecar, |sidecar, name| sidecar.server_at(name, unique_address(623))).start();
    let paths = servers.map(|name| state.path().join(name).join("sensors.bmc"));
    let paths: Vec<_> = paths.iter().flat_map(|path| ["-P", path.to_str().expect("a path")]).collect();
    let _hangs = inject_at(&sidecar, "?open,openat:delay_enter=60000000", &paths);
    for name in servers {
        let caller = sidecar.get(&format!("/servers/{name}/sensors")).key(KEY).begin();
        let runs =
            || sidecar.ipmitool_runs().into_iter().filter(|run| run.arguments.ends_with("mc info")).count();
        let before = runs();
        eventually("the definitions are looked for", || runs() > before);
        caller.reset();
    }
    let begun = Instant::now();
    sidecar.signal(Signal::TERM).logs("INFO stopped");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}
