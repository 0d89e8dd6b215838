//! SIGTERM and SIGINT: what was admitted is finished and answered, then the process ends.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Connection, KEY, Sidecar, SimulatedBmc, eventually, is_gone};

/// For an exit that waits for nothing, on a crowded machine.
const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn an_idle_sidecar_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let sidecar = Sidecar::beside(SimulatedBmc::dead()).start();
        sidecar.signal(signal).exits(0, AT_ONCE);
    }
}

#[test]
fn a_half_read_request_is_not_waited_for() {
    let sidecar = Sidecar::beside(SimulatedBmc::dead()).start();
    let half = sidecar.connect().write(b"GET /health HTTP/1.1\r\n");
    sidecar.get("/health").send();
    sidecar.signal(Signal::TERM).exits(0, AT_ONCE);
    drop(half);
}

#[test]
fn a_running_change_is_finished_and_answered() {
    for signal in [Signal::TERM, Signal::INT] {
        let sidecar = Sidecar::beside(SimulatedBmc::off().slow(Duration::from_secs(1))).start();
        let change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.bmc_is_asked("set power 1").signal(signal).no_longer_listens();
        change.reply().expect(
            200,
            json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}),
        );
        sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1"]);
    }
}

#[test]
fn waiting_requests_are_finished_too() {
    let sidecar = Sidecar::beside(SimulatedBmc::off().slow(Duration::from_millis(500))).start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.bmc_is_asked("set power 1");
    let second = sidecar.post("/power/reset").key(KEY).begin();
    let status = sidecar.get("/power/status").key(KEY).begin();
    sidecar.get("/health").send(); // one thread reads: what came before has been taken
    sidecar.signal(Signal::TERM).no_longer_listens();
    for connection in [first, second, status] {
        assert_eq!(connection.reply().status, 200);
    }
    sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1", "set reset 1"]);
}

#[test]
fn a_second_signal_ends_it_with_the_running_tool() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let sidecar = Sidecar::with_fake_ipmitool("trap '' INT TERM; exec sleep 600").start();
        let _change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.ipmitool_is_run(1).signal(signal).no_longer_listens();
        sidecar.signal(signal).exits(code, AT_ONCE);
        let run = sidecar.ipmitool_runs().remove(0);
        eventually("the tool is gone", || is_gone(run.pid));
    }
}

#[test]
fn a_running_change_and_three_that_wait_are_all_answered() {
    let bmc = SimulatedBmc::off().slow(Duration::from_millis(500));
    let sidecar = Sidecar::beside(bmc).env("REQUEST_TIMEOUT", "18").start();
    let targets = ["/power/on", "/power/reset", "/power/off", "/power/force-off"];
    let changes = targets.map(|target| {
        let change = sidecar.post(target).key(KEY).begin();
        sidecar.get("/health").send(); // one thread reads: what came before has been taken
        change
    });
    sidecar.bmc_is_asked("set power 1").signal(Signal::TERM).no_longer_listens();
    for change in changes {
        assert_eq!(change.reply().status, 200);
    }
    sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1", "set reset 1", "set shutdown 1", "set power 0"]);
}

/// Told to stop, it promises nothing more than before: what cannot start in time is not sent.
#[test]
fn what_waits_too_long_is_answered_too() {
    // A change needs 5 s of its time to start: the second has them after 3 s, the third has not after 6 s.
    let bmc = SimulatedBmc::off().slow(Duration::from_secs(3));
    let sidecar = Sidecar::beside(bmc).env("REQUEST_TIMEOUT", "10").start();
    let targets = ["/power/on", "/power/reset", "/power/off", "/power/force-off"];
    let changes = targets.map(|target| {
        let change = sidecar.post(target).key(KEY).begin();
        sidecar.get("/health").send();
        change
    });
    sidecar.bmc_is_asked("set power 1").signal(Signal::TERM).no_longer_listens();
    assert_eq!(changes.map(|change| change.reply().status), [200, 200, 503, 503]);
    sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1", "set reset 1"]);
}

#[test]
fn a_second_signal_leaves_what_waits_undone() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 600").start();
    let changes: Vec<_> = (0..3).map(|_| sidecar.post("/power/on").key(KEY).begin()).collect();
    sidecar.ipmitool_is_run(1).get("/health").send();
    sidecar.signal(Signal::TERM).no_longer_listens();
    sidecar.signal(Signal::INT).exits(130, AT_ONCE);
    changes.into_iter().for_each(Connection::let_go);
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
    assert_eq!(sidecar.log().matches("not run: told to stop at once").count(), 2);
}

/// As in a container: there the kernel ignores every signal that PID 1 does not catch.
#[test]
fn pid_1_heeds_signals_too() {
    for signal in [Signal::TERM, Signal::INT] {
        let bmc = SimulatedBmc::off().slow(Duration::from_secs(1));
        let sidecar = Sidecar::beside(bmc).started_by(as_pid_1()).start();
        let change = sidecar.post("/power/on").key(KEY).begin();
        sidecar.bmc_is_asked("set power 1").signal_launched(signal).no_longer_listens();
        assert_eq!(change.reply().status, 200);
        sidecar.exits(0, AT_ONCE).bmc_was_asked(["set power 1"]);
    }
}

/// Orphans become children of PID 1, and nobody else reaps them.
#[test]
fn pid_1_keeps_nothing_of_what_a_tool_left_behind() {
    let leaving = "sleep 600 >/dev/null 2>&1 & echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(leaving).started_by(as_pid_1()).start();
    for _ in 0..5 {
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
    sidecar.launched_has_no_child();
}

/// What starts a program as PID 1 of a PID namespace of its own, which needs a user namespace where we are not root.
#[track_caller]
fn as_pid_1() -> &'static [&'static str] {
    let root: &[_] = &["unshare", "--pid", "--fork", "--mount-proc"];
    let user: &[_] = &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let works = |launcher: &[&str]| {
        let run = Command::new(launcher[0]).args(&launcher[1..]).args(["sh", "-c", "test $$ = 1"]).output();
        run.is_ok_and(|run| run.status.success())
    };
    let found = [root, user].into_iter().find(|launcher| works(launcher));
    found.expect("this test needs unshare, of util-linux, and leave to make a PID namespace, as root or with user namespaces")
}
