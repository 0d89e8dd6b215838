//! SIGTERM and SIGINT: what was admitted is finished and answered, then the process ends.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{KEY, Sidecar, SimulatedBmc, eventually, is_gone};

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
