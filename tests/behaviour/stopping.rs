//! SIGTERM and SIGINT: the program finishes and answers all accepted requests, then exits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Connection, KEY, Sidecar, SimulatedBmc, eventually, has_ended};

/// For an exit that waits for nothing, on a busy machine. Less than the 5 s after which an incomplete request
/// times out.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn an_idle_sidecar_exits_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
        sidecar.signal(signal).exits(0, AT_ONCE);
    }
}

#[test]
fn an_incomplete_request_does_not_delay_the_exit() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    let half = sidecar.connect().write(b"GET /health HTTP/1.1\r\n");
    sidecar.get("/health").send();
    sidecar.signal(Signal::TERM).exits(0, AT_ONCE);
    drop(half);
}

#[test]
fn a_running_change_is_finished_and_answered() {
    for signal in [Signal::TERM, Signal::INT] {
        let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_secs(1))).start();
        let change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.wait_for_bmc_call("set power 1").signal(signal).no_longer_listens();
        change.reply().expect(
            200,
            json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}),
        );
        sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1"]);
    }
}

#[test]
fn queued_requests_are_finished_and_answered() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_millis(500))).start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    let second = sidecar.post("/power/reset").key(KEY).begin();
    let status = sidecar.get("/power/status").key(KEY).begin();
    sidecar.get("/health").send(); // one thread reads: the earlier requests have been read
    sidecar.signal(Signal::TERM).no_longer_listens();
    for connection in [first, second, status] {
        assert_eq!(connection.reply().status, 200);
    }
    sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1", "set reset 1"]);
}

#[test]
fn a_second_signal_kills_the_running_ipmitool_and_exits() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let sidecar = Sidecar::with_fake_ipmitool("trap '' INT TERM; exec sleep 600").start();
        let _change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.wait_for_ipmitool_runs(1).signal(signal).no_longer_listens();
        sidecar.signal(signal).exits(code, AT_ONCE);
        let run = sidecar.ipmitool_runs().remove(0);
        eventually("ipmitool has ended", || has_ended(run.pid));
    }
}

#[test]
fn a_running_change_and_three_queued_ones_are_all_finished() {
    let bmc = SimulatedBmc::off().slow(Duration::from_millis(500));
    let sidecar = Sidecar::with_bmc(bmc).env("REQUEST_TIMEOUT", "18").start();
    let targets = ["/power/on", "/power/reset", "/power/off", "/power/force-off"];
    let changes = targets.map(|target| {
        let change = sidecar.post(target).key(KEY).begin();
        sidecar.get("/health").send(); // one thread reads: this change has been read
        change
    });
    sidecar.wait_for_bmc_call("set power 1").signal(Signal::TERM).no_longer_listens();
    for change in changes {
        assert_eq!(change.reply().status, 200);
    }
    sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1", "set reset 1", "set shutdown 1", "set power 0"]);
}

/// The usual rule holds during a stop too: a change that cannot start in time is not sent.
#[test]
fn a_queued_change_that_cannot_start_in_time_is_refused_during_a_stop() {
    // A change starts only with 5 s left. The second change starts after 3 s with 7 s left. After 6 s the
    // third has 4 s left.
    let bmc = SimulatedBmc::off().slow(Duration::from_secs(3));
    let sidecar = Sidecar::with_bmc(bmc).env("REQUEST_TIMEOUT", "10").start();
    let targets = ["/power/on", "/power/reset", "/power/off", "/power/force-off"];
    let changes = targets.map(|target| {
        let change = sidecar.post(target).key(KEY).begin();
        sidecar.get("/health").send();
        change
    });
    sidecar.wait_for_bmc_call("set power 1").signal(Signal::TERM).no_longer_listens();
    assert_eq!(changes.map(|change| change.reply().status), [200, 200, 503, 503]);
    sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1", "set reset 1"]);
}

#[test]
fn a_second_signal_cancels_queued_changes() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 600").start();
    let changes: Vec<_> = (0..3).map(|_| sidecar.post("/power/on").key(KEY).begin()).collect();
    sidecar.wait_for_ipmitool_runs(1).get("/health").send();
    sidecar.signal(Signal::TERM).no_longer_listens();
    sidecar.signal(Signal::INT).exits(130, AT_ONCE);
    changes.into_iter().for_each(Connection::wait_for_close);
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
    assert_eq!(sidecar.log().matches("not run: told to stop at once").count(), 2);
}

/// In a container the program is PID 1. The kernel ignores every signal that PID 1 has no handler for.
#[test]
fn the_program_stops_on_a_signal_when_it_is_pid_1() {
    for signal in [Signal::TERM, Signal::INT] {
        let bmc = SimulatedBmc::off().slow(Duration::from_secs(1));
        let sidecar = Sidecar::with_bmc(bmc).started_by(as_pid_1()).start();
        let change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.wait_for_bmc_call("set power 1").signal_launched(signal).no_longer_listens();
        assert_eq!(change.reply().status, 200);
        sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1"]);
    }
}

/// Orphans become children of PID 1, and only PID 1 can reap them.
#[test]
fn the_program_reaps_orphans_when_it_is_pid_1() {
    let leaving = "sleep 600 >/dev/null 2>&1 & echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(leaving).started_by(as_pid_1()).start();
    for _ in 0..5 {
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
    sidecar.launched_has_no_children();
}

/// A launcher that starts a program as PID 1 of a new PID namespace. Without root it also needs a user
/// namespace.
#[track_caller]
fn as_pid_1() -> &'static [&'static str] {
    let root: &[_] = &["unshare", "--pid", "--fork", "--mount-proc"];
    let user: &[_] = &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let works = |launcher: &[&str]| {
        let run = Command::new(launcher[0]).args(&launcher[1..]).args(["sh", "-c", "test $$ = 1"]).output();
        run.is_ok_and(|run| run.status.success())
    };
    let found = [root, user].into_iter().find(|launcher| works(launcher));
    found.expect("unshare, of util-linux, and root or user namespaces")
}

/// A child that left its group ends later. Each run reaps what earlier ones left.
#[test]
fn pid_1_reaps_children_that_left_their_group() {
    let leaving = "setsid sleep 0.1 >/dev/null 2>&1 & echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(leaving).started_by(as_pid_1()).start();
    for _ in 0..5 {
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
    eventually("at most the last run's child is left", || {
        sleep(Duration::from_millis(300));
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
        sidecar.launched_children() <= 1
    });
}

/// Whether the terminal went away, or somebody pressed Ctrl-\\.
#[test]
fn a_hangup_and_a_quit_stop_the_program_in_order() {
    for signal in [Signal::HUP, Signal::QUIT] {
        let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_secs(1))).start();
        let change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.wait_for_bmc_call("set power 1").signal(signal).no_longer_listens();
        assert_eq!(change.reply().status, 200);
        sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1"]);
    }
}

/// A core would hold the key and the password. As another user than root, since the kernel gives the files of a process
/// that may not be dumped to root (proc(5)).
#[test]
fn the_program_leaves_no_core() {
    let user = ["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"];
    let reads_files = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"];
    let unlimited = ["prlimit", "--core=unlimited:unlimited"];
    let launcher = [&unlimited[..], &user, &reads_files].concat();
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).started_by(&launcher).start();
    let file = |name: &str| PathBuf::from(format!("/proc/{}/{name}", sidecar.pid().as_raw_pid()));
    assert_eq!(fs::metadata(file("environ")).expect("environ").uid(), 0, "it may be dumped");
    let limits = fs::read_to_string(file("limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    sidecar.signal(Signal::XFSZ); // it is ignored: a log that has grown to its limit is no reason to end
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
}

/// Its caller would otherwise never know that the change may have been made.
#[test]
fn a_second_signal_answers_the_caller_of_a_running_change() {
    let sidecar =
        Sidecar::with_fake_ipmitool("echo 'Discovered IPMB address 0x0' >&2; exec sleep 600").start();
    let running = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(1).signal(Signal::TERM).no_longer_listens();
    sidecar.signal(Signal::TERM);
    running.reply().expect_failure(504, "outcome_unknown");
    sidecar.exits(143, AT_ONCE);
}
