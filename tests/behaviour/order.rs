//! The order of commands, shared reads, and the commands of clients that have left.

use std::array;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Connection, KEY, Sidecar, SimulatedBmc, eventually};

fn is_on() -> Value {
    json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"})
}

fn is_up() -> Value {
    json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"})
}

/// A read takes this many seconds, a change takes no time.
fn with_slow_reads(seconds: f32) -> Sidecar {
    Sidecar::with_fake_ipmitool(&format!(
        "case \"$*\" in
         *status) sleep {seconds}; echo 'Chassis Power is on' ;;
         *) echo 'Chassis Power Control: Up/On' ;;
         esac"
    ))
}

/// A hundred repetitions take one BMC half a minute, so four BMCs share them.
#[test]
fn the_bmc_gets_changes_in_the_order_of_arrival_a_hundred_times() {
    const TIMES: usize = 25;
    thread::scope(|scope| {
        for _ in 0..100 / TIMES {
            scope.spawn(|| {
                let bmc = SimulatedBmc::on().slow(Duration::from_millis(60));
                let sidecar = Sidecar::with_bmc(bmc).env("REQUEST_TIMEOUT", "60").start();
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

/// The read ends after all changes have been answered. A change that waits for it would be refused as busy.
#[test]
fn many_reads_delay_no_change() {
    let reads_wait_for_a_file = "case \"$*\" in
         *status) until [ -e \"$0.go\" ]; do sleep 0.02; done; echo 'Chassis Power is on' ;;
         *) echo 'Chassis Power Control: Up/On' ;;
         esac";
    let sidecar = Sidecar::with_fake_ipmitool(reads_wait_for_a_file).env("REQUEST_TIMEOUT", "18").start();
    let reads: Vec<_> = (0..64).map(|_| sidecar.get("/power/status").key(KEY).begin()).collect();
    sidecar.wait_for_ipmitool_runs(1);
    for _ in 0..5 {
        sidecar.post("/power/on").key(KEY).expect(200, is_up());
    }
    fs::write(sidecar.ipmitool_path().with_extension("go"), "").unwrap();
    for connection in reads {
        connection.reply().expect(200, is_on());
    }
}

/// A change that is killed while it runs has an unknown outcome. So a change starts only when enough time
/// remains.
#[test]
fn a_change_that_cannot_start_in_time_is_never_sent() {
    let bmc = SimulatedBmc::off().slow(Duration::from_secs(3));
    let sidecar = Sidecar::with_bmc(bmc).env("REQUEST_TIMEOUT", "7").start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    let second = sidecar.post("/power/force-off").key(KEY).begin();
    first.reply().expect(200, is_up());
    let refused = second.reply().expect_failure(503, "busy");
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    sidecar.bmc_was_asked(["set power 1"]);
}

#[test]
fn a_change_that_cannot_start_in_time_is_refused_as_soon_as_that_is_certain() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 600").env("REQUEST_TIMEOUT", "9").start();
    let hanging = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(1);
    // A change needs 5 s of its 9 s to start. A busy machine needs a margin, still below the deadline.
    let certain = Duration::from_secs(9 - 5);
    let margin = Duration::from_secs(4);
    sidecar.post("/power/off").key(KEY).expect_failure(503, "busy").within(certain + margin);
    sidecar.logs("busy: ");
    hanging.reply().expect_failure(504, "outcome_unknown");
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn thirty_two_simultaneous_reads_share_at_most_two_runs() {
    let bmc = SimulatedBmc::on().slow(Duration::from_secs(2));
    // On a busy machine two runs can take longer than the default REQUEST_TIMEOUT of 9 s.
    let sidecar = Sidecar::with_bmc(bmc).env("RUST_LOG", "debug").env("REQUEST_TIMEOUT", "18").start();
    let all: Vec<_> = (0..32).map(|_| sidecar.get("/power/status").key(KEY).begin()).collect();
    for connection in all {
        connection.reply().expect(200, is_on());
    }
    let runs = sidecar.log().matches("running env").count();
    assert!((1..=2).contains(&runs), "{runs} runs");
}

/// A caller must not fail because of a run that hung before its request.
#[test]
fn a_caller_that_comes_later_succeeds_behind_a_read_that_hung() {
    let script = "if mkdir \"$0.hangs\" 2>/dev/null; then exec sleep 600; fi; echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(script).env("REQUEST_TIMEOUT", "7").start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let hanging = ask();
    sidecar.wait_for_ipmitool_runs(1);
    sleep(Duration::from_secs(5));
    let later = ask();
    hanging.reply().expect_failure(504, "bmc_timeout");
    later.reply().expect(200, is_on());
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

/// Its run must not be killed at the deadline of a caller with less time.
#[test]
fn a_caller_with_time_left_does_not_fail_with_a_caller_with_little_time_left() {
    let hangs_then_is_slow =
        "if mkdir \"$0.hangs\" 2>/dev/null; then exec sleep 600; fi; sleep 2.5; echo 'Chassis Power is on'";
    let sidecar = Sidecar::with_fake_ipmitool(hangs_then_is_slow).env("REQUEST_TIMEOUT", "7").start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let hanging = ask();
    sidecar.wait_for_ipmitool_runs(1);
    sleep(Duration::from_millis(1_500));
    let little = ask();
    sleep(Duration::from_millis(4_500));
    let ample = ask();
    hanging.reply().expect_failure(504, "bmc_timeout");
    // On a busy machine this request may start late enough to succeed, or have too little time to start.
    assert!([200, 503, 504].contains(&little.reply().status));
    ample.reply().expect(200, is_on());
}

/// The client may close its connection or reset it.
#[test]
fn a_running_change_is_finished_when_its_client_leaves() {
    for crashes in [false, true] {
        let bmc = SimulatedBmc::off().slow(Duration::from_secs(1));
        let sidecar = Sidecar::with_bmc(bmc).start();
        let left = sidecar.post("/power/on").key(KEY).begin();
        sidecar.wait_for_bmc_call("set power 1");
        let next = sidecar.post("/power/reset").key(KEY).begin();
        if crashes {
            left.reset();
        } else {
            drop(left);
        }
        sidecar.logs("Chassis Power Control: Up/On");
        assert_eq!(next.reply().status, 200);
        sidecar.get("/power/status").key(KEY).expect(200, is_on());
        sidecar.bmc_was_asked(["set power 1", "set reset 1"]);
    }
}

#[test]
fn a_queued_change_is_cancelled_when_its_client_crashes() {
    let bmc = SimulatedBmc::off().slow(Duration::from_secs(1));
    let sidecar = Sidecar::with_bmc(bmc).start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    sidecar.post("/power/force-off").key(KEY).begin().reset();
    sidecar.logs("power off (API_KEY from").logs("not run: the client");
    first.reply().expect(200, is_up());
    sidecar.bmc_was_asked(["set power 1"]);
}

#[test]
fn a_shared_read_runs_for_one_remaining_client_and_not_for_none() {
    /// Later than a read joins a running one.
    const LATER: Duration = Duration::from_millis(1_200);
    let sidecar = with_slow_reads(3.0).env("RUST_LOG", "debug").start();
    let ask = || sidecar.get("/power/status").key(KEY).begin();
    let not_run = "power status (API_KEY from";
    let first = ask();
    sidecar.wait_for_ipmitool_runs(1);
    sleep(LATER);
    let [crashed, last] = array::from_fn(|_| ask());
    sidecar.get("/health").send(); // one thread reads: the requests have been read
    crashed.reset();
    first.reply().expect(200, is_on());
    last.reply().expect(200, is_on());
    assert_eq!(sidecar.ipmitool_runs().len(), 2);

    let first = ask();
    sidecar.wait_for_ipmitool_runs(3);
    sleep(LATER);
    let crashed = [(); 2].map(|()| ask());
    sidecar.get("/health").send();
    crashed.into_iter().for_each(Connection::reset);
    eventually("the read is cancelled", || {
        sidecar.log().lines().any(|line| line.contains(not_run) && line.contains("not run"))
    });
    first.reply().expect(200, is_on());
    sidecar.get("/power/status").key(KEY).expect(200, is_on());
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

/// Otherwise a status could be older than a change that was answered before the status was asked for.
#[test]
fn a_status_behind_an_answered_change_is_newer_than_the_change() {
    // The first read looks before the change and answers after it.
    let script = "case \"$*\" in
         *status) state=$(cat \"$0.state\" 2>/dev/null || echo off); sleep 0.9; echo \"Chassis Power is $state\" ;;
         *) echo on >\"$0.state\"; echo 'Chassis Power Control: Up/On' ;;
         esac";
    let sidecar = Sidecar::with_fake_ipmitool(script).start();
    let before = sidecar.get("/power/status").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(1);
    sleep(Duration::from_millis(100)); // the script has looked
    sidecar.post("/power/on").key(KEY).expect(200, is_up());
    sidecar.get("/power/status").key(KEY).expect(200, is_on());
    assert_eq!(before.reply().status, 200);
}

/// Some clients close their sending side at once, as `nc -N` does, and wait for the reply.
#[test]
fn a_read_is_run_and_a_change_is_not_when_the_client_ends_its_side_at_once() {
    let sidecar = with_slow_reads(0.0).start();
    for _ in 0..50 {
        sidecar.get("/power/status").key(KEY).begin().half_close().reply().expect(200, is_on());
    }
    // A change may have started by then. If not, the client is told so.
    let mut not_run = 0;
    for _ in 0..50 {
        let reply = sidecar.post("/power/on").key(KEY).begin().half_close().reply();
        if reply.status == 503 {
            assert_eq!(reply.code(), "busy");
            reply.error_contains("not run: the client ended its side of the connection");
            not_run += 1;
        }
    }
    let changes = sidecar.ipmitool_runs().iter().filter(|run| run.arguments.ends_with("power on")).count();
    assert_eq!(changes + not_run, 50, "each change runs or is refused");
}

/// It was stopped for a moment, or the change waited.
#[test]
fn a_change_whose_client_has_left_before_it_starts_is_not_run() {
    let sidecar = with_slow_reads(0.0).start();
    for _ in 0..20 {
        sidecar.signal(Signal::STOP);
        drop(sidecar.post("/power/on").key(KEY).begin());
        let half = sidecar.post("/power/on").key(KEY).begin().half_close();
        sidecar.signal(Signal::CONT);
        let told = half.reply().expect_failure(503, "busy");
        told.error_contains("not run: the client ended its side of the connection");
    }
    sidecar.get("/power/status").key(KEY).expect(200, is_on());
    let runs = sidecar.ipmitool_runs();
    assert!(runs.iter().all(|run| run.arguments.ends_with("status")), "{runs:?}");
    assert!(!sidecar.log().contains("accepted"), "it takes no place in the queue: {}", sidecar.log());
}

/// Some clients close their sending side after the request and wait for the reply.
#[test]
fn a_client_that_closed_its_sending_side_gets_the_reply_of_a_running_command() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_secs(1))).start();
    let change = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    change.half_close().reply().expect(200, is_up());
    let status = sidecar.get("/power/status").key(KEY).begin();
    sidecar.wait_for_bmc_call("get power");
    status.half_close().reply().expect(200, is_on());
}

/// One client sends all of force-off, and then on. The connection of on is a new one, which a server could read as it
/// accepts it, or is older than that of force-off. Clients without a key ask for `/health` beside it, so that new
/// connections and old ones are ready at the same time.
#[test]
fn a_thousand_pairs_of_changes_keep_their_order_beside_many_clients() {
    const PAIRS: usize = 1_000;
    const OTHERS: usize = 24;
    let script = "case \"$*\" in *'power off') echo 'Chassis Power Control: Down/Off' ;; *) echo 'Chassis Power Control: Up/On' ;; esac";
    let sidecar = Sidecar::with_fake_ipmitool(script).start();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..OTHERS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    sidecar.get("/health").send();
                }
            });
        }
        let pairs = scope.spawn(|| {
            let force_off = sidecar.post("/power/force-off").key(KEY).bytes();
            let on = sidecar.post("/power/on").key(KEY).bytes();
            for pair in 0..PAIRS {
                let older = sidecar.connect();
                let newer = (pair % 2 == 0).then(|| sidecar.connect());
                sidecar.get("/health").send(); // what connected before has been accepted
                let (off, on) = match newer {
                    Some(newer) => (newer.write(&force_off), older.write(&on)),
                    None => (older.write(&force_off), sidecar.connect().write(&on)),
                };
                assert_eq!((off.reply().status, on.reply().status), (200, 200));
            }
        });
        let result = pairs.join();
        is_over.store(true, Ordering::Relaxed);
        assert!(result.is_ok(), "every change is answered with 200");
    });
    let runs = sidecar.ipmitool_runs();
    let inverted = runs.chunks(2).filter(|pair| !pair[0].arguments.ends_with("power off")).count();
    assert_eq!((runs.len(), inverted), (2 * PAIRS, 0));
}

/// A key that may only switch on, in a loop.
#[test]
fn one_key_leaves_room_for_another() {
    const OTHER: &str = "k3y-0f9e8d7c6b5a4f3e2d1c";
    let script = "case \"$*\" in *'power on') exec sleep 600 ;; *status) echo 'Chassis Power is on' ;; esac; echo 'Chassis Power Control: Down/Off'";
    let sidecar = Sidecar::with_fake_ipmitool(script)
        .env("ACCESS_LOOP_KEY", OTHER)
        .env("ACCESS_LOOP_ALLOW", "on")
        .env("REQUEST_TIMEOUT", "20")
        .start();
    let repeat = || sidecar.post("/power/on").key(OTHER).header("Idempotency-Key", "d-1").begin();
    let looping: Vec<_> = (0..90).map(|_| repeat()).collect();
    sidecar.wait_for_ipmitool_runs(1);
    sidecar.get("/power/status").key(KEY).expect(200, is_on());
    let changes: Vec<_> = (0..5).map(|_| sidecar.post("/power/on").key(OTHER).begin()).collect();
    sidecar.get("/health").send();
    let force_off = sidecar.post("/power/force-off").key(KEY).begin();
    sidecar.logs("too many requests of this key wait for its answer");
    eventually("force-off is accepted", || {
        let log = sidecar.log();
        log.lines().any(|line| line.contains("power off (API_KEY from") && line.ends_with(" accepted"))
    });
    drop((looping, changes, force_off));
}

/// It was carried out and answered. So it is not "not sent", however full the queue is.
#[test]
fn a_known_delivery_is_answered_before_any_limit_counts() {
    let script = "case \"$*\" in *'power off') exec sleep 600 ;; esac; echo 'Chassis Power Control: Up/On'";
    let sidecar = Sidecar::with_fake_ipmitool(script).start();
    let deliver = || sidecar.post("/power/on").key(KEY).header("Idempotency-Key", "d-1");
    deliver().expect(200, is_up());
    let hanging = sidecar.post("/power/force-off").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(2);
    let waiting: Vec<_> = (0..4).map(|_| sidecar.post("/power/on").key(KEY).begin()).collect();
    sidecar.get("/health").send();
    sidecar
        .post("/power/on")
        .key(KEY)
        .expect_failure(503, "busy")
        .error_contains("too many changes of this key");
    sidecar.logs(" refused: busy: Not sent: too many changes of this key");
    let again = deliver().expect(200, is_up()).within(Duration::from_secs(3));
    assert_eq!(again.header("idempotent-replayed"), "true");
    drop((hanging, waiting));
}

#[test]
fn a_change_whose_own_body_came_too_late_is_told_so() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power Control: Up/On'")
        .env("REQUEST_TIMEOUT", "7")
        .start();
    let request = sidecar.post("/power/on").key(KEY).body("1234").bytes();
    let (all_but_one, last) = request.split_at(request.len() - 1);
    let connection = sidecar.connect().write(all_but_one);
    sleep(Duration::from_secs(3));
    let told = connection.write(last).reply().expect_failure(503, "busy");
    told.error_contains("its body took the time it had");
    assert!(sidecar.ipmitool_runs().is_empty());
}
