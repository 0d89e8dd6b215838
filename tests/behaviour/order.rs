//! Who goes first, who shares a run, and what becomes of the command of a client that has gone.

use std::array;
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{KEY, Sidecar, SimulatedBmc, eventually};

/// For what waits for nothing but a script, on a crowded machine.
const SOON: Duration = Duration::from_secs(2);

fn is_on() -> Value {
    json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"})
}

fn is_up() -> Value {
    json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"})
}

/// A status takes as long as the test wants, a change no time.
fn slow_to_look(seconds: f32) -> Sidecar {
    Sidecar::with_fake_ipmitool(&format!(
        "case \"$*\" in
         *status) sleep {seconds}; echo 'Chassis Power is on' ;;
         *) echo 'Chassis Power Control: Up/On' ;;
         esac"
    ))
}

/// Four BMCs at once, since a hundred times takes one of them half a minute.
#[test]
fn a_hundred_times_the_bmc_hears_of_changes_in_the_order_they_came() {
    const TIMES: usize = 25;
    thread::scope(|scope| {
        for _ in 0..100 / TIMES {
            scope.spawn(|| {
                let bmc = SimulatedBmc::on().slow(Duration::from_millis(60));
                let sidecar = Sidecar::beside(bmc).env("REQUEST_TIMEOUT", "60").start();
                for _ in 0..TIMES {
                    let first = sidecar.post("/power/force-off").key(KEY).begin();
                    sleep(Duration::from_millis(5));
                    let second = sidecar.post("/power/on").key(KEY).begin();
                    assert_eq!((first.reply().status, second.reply().status), (200, 200));
                }
                let off_and_on = ["set power 0", "set power 1"];
                sidecar.bmc_was_asked::<{ 2 * TIMES }>(array::from_fn(|change| off_and_on[change % 2]));
            });
        }
    });
}

#[test]
fn a_status_storm_delays_no_change() {
    let sidecar = slow_to_look(3.0).start();
    let storm: Vec<_> = (0..64).map(|_| sidecar.get("/power/status").key(KEY).begin()).collect();
    sidecar.ipmitool_is_run(1);
    for _ in 0..5 {
        sidecar.post("/power/on").key(KEY).expect(200, is_up()).within(SOON);
    }
    for connection in storm {
        connection.reply().expect(200, is_on());
    }
}

/// A change that is killed half-way has an unknown outcome, so it is not begun without the time for it.
#[test]
fn a_change_that_cannot_start_in_time_is_never_sent() {
    let bmc = SimulatedBmc::off().slow(Duration::from_secs(3));
    let sidecar = Sidecar::beside(bmc).env("REQUEST_TIMEOUT", "7").start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.bmc_is_asked("set power 1");
    let second = sidecar.post("/power/force-off").key(KEY).begin();
    first.reply().expect(200, is_up());
    let refused = second.reply().expect_failure(503, "busy");
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    sidecar.bmc_was_asked(["set power 1"]);
}

#[test]
fn a_change_that_cannot_start_in_time_is_told_so_once_that_is_certain() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 600").env("REQUEST_TIMEOUT", "7").start();
    let hanging = sidecar.post("/power/on").key(KEY).begin();
    sidecar.ipmitool_is_run(1);
    let certain = Duration::from_secs(7 - 5) + SOON;
    sidecar.post("/power/off").key(KEY).expect_failure(503, "busy").within(certain);
    sidecar.logs("busy: ");
    hanging.reply().expect_failure(504, "outcome_unknown");
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn thirty_two_who_ask_at_once_share_two_runs() {
    let bmc = SimulatedBmc::on().slow(Duration::from_secs(2));
    // On a crowded machine two runs can take longer than the 9 s that are usual.
    let sidecar = Sidecar::beside(bmc).env("RUST_LOG", "debug").env("REQUEST_TIMEOUT", "18").start();
    let all: Vec<_> = (0..32).map(|_| sidecar.get("/power/status").key(KEY).begin()).collect();
    for connection in all {
        connection.reply().expect(200, is_on());
    }
    let runs = sidecar.log().matches("running env").count();
    assert!((1..=2).contains(&runs), "{runs} runs");
}

/// The first would otherwise run alone, and the other wait for its end. A crowded machine may need more than one try.
#[test]
fn two_who_shared_a_read_share_the_next_when_they_ask_again() {
    const APART: Duration = Duration::from_millis(2);
    let sidecar = slow_to_look(0.2).start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let runs = || sidecar.ipmitool_runs().len();
    eventually("they share a run, though one asks a little later", || {
        let earlier = runs();
        let alone = ask();
        sidecar.ipmitool_is_run(earlier + 1);
        for shared in [ask(), ask(), alone] {
            shared.reply().expect(200, is_on());
        }
        let one = ask();
        sleep(APART);
        for again in [ask(), one] {
            again.reply().expect(200, is_on());
        }
        runs() == earlier + 3
    });
}

/// Or a caller that comes behind a BMC's trouble would be told of it as its own.
#[test]
fn who_joins_a_read_that_is_too_late_for_others_is_in_time() {
    let script = "if mkdir \"$0.hangs\" 2>/dev/null; then exec sleep 600; fi; echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(script).env("REQUEST_TIMEOUT", "7").start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let hanging = ask();
    sidecar.ipmitool_is_run(1);
    let late = ask();
    sleep(Duration::from_secs(5));
    let in_time = ask();
    hanging.reply().expect_failure(504, "bmc_timeout");
    // On a crowded machine it came late enough to be in time.
    assert!([200, 503].contains(&late.reply().status));
    in_time.reply().expect(200, is_on());
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

/// Nor is it cut short with those who have little time left.
#[test]
fn who_has_time_is_not_taken_along_by_who_has_little() {
    let hangs_then_is_slow =
        "if mkdir \"$0.hangs\" 2>/dev/null; then exec sleep 600; fi; sleep 2.5; echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(hangs_then_is_slow).env("REQUEST_TIMEOUT", "7").start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let hanging = ask();
    sidecar.ipmitool_is_run(1);
    sleep(Duration::from_millis(1_500));
    let little = ask();
    sleep(Duration::from_millis(4_500));
    let ample = ask();
    hanging.reply().expect_failure(504, "bmc_timeout");
    // On a crowded machine it came late enough to be in time, or had too little even to start.
    assert!([200, 503, 504].contains(&little.reply().status));
    ample.reply().expect(200, is_on());
}

/// Whether it says farewell or not.
#[test]
fn a_client_that_goes_while_its_change_runs_changes_nothing() {
    for crashes in [false, true] {
        let bmc = SimulatedBmc::off().slow(Duration::from_secs(1));
        let sidecar = Sidecar::beside(bmc).start();
        let gone = sidecar.post("/power/on").key(KEY).begin();
        sidecar.bmc_is_asked("set power 1");
        let next = sidecar.post("/power/reset").key(KEY).begin();
        if crashes {
            gone.reset();
        } else {
            drop(gone);
        }
        sidecar.logs("Chassis Power Control: Up/On");
        assert_eq!(next.reply().status, 200);
        sidecar.get("/power/status").key(KEY).expect(200, is_on());
        sidecar.bmc_was_asked(["set power 1", "set reset 1"]);
    }
}

#[test]
fn a_client_that_crashes_while_its_change_waits_takes_it_along() {
    let bmc = SimulatedBmc::off().slow(Duration::from_secs(1));
    let sidecar = Sidecar::beside(bmc).start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.bmc_is_asked("set power 1");
    sidecar.post("/power/force-off").key(KEY).begin().reset();
    sidecar.logs("power off (API_KEY from").logs("not run: the client hung up before it started");
    first.reply().expect(200, is_up());
    sidecar.bmc_was_asked(["set power 1"]);
}

#[test]
fn a_shared_read_is_run_for_the_last_who_waits_and_for_nobody() {
    let sidecar = slow_to_look(1.0).env("RUST_LOG", "debug").start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let not_run = "power status (API_KEY from";
    let first = ask();
    sidecar.ipmitool_is_run(1);
    let [gone, crashed, last] = array::from_fn(|_| ask());
    drop(gone);
    crashed.reset();
    first.reply().expect(200, is_on());
    last.reply().expect(200, is_on());
    assert_eq!(sidecar.ipmitool_runs().len(), 2);

    let first = ask();
    sidecar.ipmitool_is_run(3);
    let [gone, crashed] = array::from_fn(|_| ask());
    drop(gone);
    crashed.reset();
    eventually("the read is dropped", || {
        sidecar.log().lines().any(|line| line.contains(not_run) && line.contains("not run"))
    });
    first.reply().expect(200, is_on());
    sidecar.get("/power/status").key(KEY).expect(200, is_on());
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

/// Some clients end their side once they have asked, and still listen.
#[test]
fn a_client_that_ends_its_side_still_hears_of_what_has_started() {
    let sidecar = Sidecar::beside(SimulatedBmc::off().slow(Duration::from_secs(1))).start();
    let change = sidecar.post("/power/on").key(KEY).begin();
    sidecar.bmc_is_asked("set power 1");
    change.half_close().reply().expect(200, is_up());
    let status = sidecar.get("/power/status").key(KEY).begin();
    sidecar.bmc_is_asked("get power");
    status.half_close().reply().expect(200, is_on());
}
