//! `STATE_DIR`: CGI programs wait for locked files, one for changes and one for reads.

use std::fs::{self, File};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::cgi::program::{Cgi, RunningCgi, cgi};
use crate::support::{KEY, Running, Sidecar, TempDir, eventually, has_ended};

/// For a reply of the program on a busy machine.
const MARGIN: Duration = Duration::from_secs(3);

/// Prints every success line, so that any command succeeds.
const DONE: &str = r#"echo 'Chassis Power is on'
for what in Up/On Soft Down/Off Cycle Reset; do echo "Chassis Power Control: $what"; done"#;

fn request<'a>(sidecar: &'a Running, state: &TempDir, method: &str, path: &str) -> Cgi<'a> {
    cgi(sidecar, method, path).key(KEY).variable("STATE_DIR", state.path())
}

/// A dead BMC holds the locks of its own server, and the history of each is its own.
#[test]
fn each_server_has_its_own_locks_and_history() {
    let body = format!("case \"$*\" in *-H\\ 127.0.0.2\\ *) exec sleep 600 ;; esac\n{DONE}");
    let sidecar = Sidecar::with_fake_ipmitool(&body)
        .without("BMC_HOST")
        .server_at("dead", ([127, 0, 0, 2], 623).into())
        .server_at("nas", ([127, 0, 0, 3], 623).into())
        .start();
    let state = TempDir::new();
    let dead = request(&sidecar, &state, "POST", "/servers/dead/power/on").begin();
    sidecar.wait_for_ipmitool_runs(1);
    for _ in 0..2 {
        let path = "/servers/nas/power/on";
        let reply = request(&sidecar, &state, "POST", path).header("Idempotency-Key", "d-1").run();
        assert!(reply.status == 200 && reply.took < MARGIN, "{reply:?}");
    }
    let has = |file: &str| state.path().join(file).exists();
    assert!(has("nas/changes.lock") && has("nas/attempts.json") && has("dead/changes.lock"));
    assert!(!has("changes.lock") && !has("attempts.json"));
    drop(dead);
}

/// Waits until this process waits for a lock. The kernel lists waiting processes in `/proc/locks`
/// (`proc_locks(5)`).
#[track_caller]
fn wait_until_queued(running: &RunningCgi<'_>) {
    let pid = running.pid().to_string();
    eventually("the process waits for its lock", || {
        let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
        locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|words| {
            // `7: -> FLOCK ADVISORY WRITE PID …`
            words.get(1) == Some(&"->") && words.get(2) == Some(&"FLOCK") && words.get(5) == Some(&&*pid)
        })
    });
}

#[test]
fn each_queue_runs_one_ipmitool_at_a_time() {
    let body = format!(
        r#"kind=change; case "$*" in *"power status") kind=read ;; esac
echo "$kind starts" >>"$0.notes"; sleep 0.1; echo "$kind ends" >>"$0.notes"
{DONE}"#
    );
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(&body).start(), TempDir::new());
    let running: Vec<_> = (0..20)
        .map(|number| match number % 2 {
            0 => request(&sidecar, &state, "GET", "/power/status"),
            _ => request(&sidecar, &state, "POST", "/power/on"),
        })
        .map(Cgi::begin)
        .collect();
    for running in running {
        let reply = running.reply();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let notes = sidecar.ipmitool_notes();
    for kind in ["change", "read"] {
        let own: Vec<_> = notes.iter().filter_map(|note| note.strip_prefix(kind)).collect();
        assert_eq!(own, [" starts", " ends"].repeat(10), "{kind}: {notes:?}");
    }
    let first_read = notes.iter().position(|note| note == "read starts");
    let last_change = notes.iter().rposition(|note| note == "change ends");
    assert!(first_read < last_change, "reads and changes must not wait for each other: {notes:?}");
}

#[test]
fn changes_run_in_the_order_of_arrival() {
    // The first run ends after the last change has arrived.
    let state = TempDir::new();
    let body = format!("until [ -e '{}/go' ]; do sleep 0.02; done; {DONE}", state.path().display());
    let sidecar = Sidecar::with_fake_ipmitool(&body).env("POWER_COOLDOWN", "0").start();
    let paths = ["/power/on", "/power/cycle", "/power/reset", "/power/off", "/power/force-off", "/power/on"];
    let mut running = Vec::new();
    for path in paths {
        running.push(request(&sidecar, &state, "POST", path).begin());
        match &running[..] {
            [_] => drop(sidecar.wait_for_ipmitool_runs(1)),
            [.., last] => wait_until_queued(last),
            [] => {}
        }
    }
    state.file("go", "");
    for running in running {
        let reply = running.reply();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let run = sidecar.ipmitool_runs();
    let words = |run: &str| run.rsplit(' ').next().map(str::to_owned).unwrap_or_default();
    let run: Vec<_> = run.iter().map(|run| words(&run.arguments)).collect();
    assert_eq!(run, ["on", "cycle", "reset", "soft", "off", "on"]);
}

/// A web server may kill the program after its time limit. Otherwise its `ipmitool` would keep the lock without a deadline.
#[test]
fn a_killed_program_takes_its_ipmitool_along() {
    let body = format!(r#"if mkdir "$0.first" 2>/dev/null; then exec sleep 600; fi; {DONE}"#);
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(&body).start(), TempDir::new());
    let first = request(&sidecar, &state, "POST", "/power/on").begin();
    // The script notes its run before it makes the folder, and must not be killed in between.
    eventually("the first run hangs", || sidecar.ipmitool_path().with_extension("first").exists());
    let ipmitool = sidecar.ipmitool_runs()[0].pid;
    first.kill();
    eventually("ipmitool has ended", || has_ended(ipmitool));
    assert_eq!(request(&sidecar, &state, "POST", "/power/reset").run().status, 200);
}

#[test]
fn a_program_that_is_told_to_stop_answers_what_it_knows() {
    let body = "echo 'Discovered IPMB address 0x0' >&2; exec sleep 600";
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(body).start(), TempDir::new());
    let running = request(&sidecar, &state, "POST", "/power/on").begin();
    sidecar.wait_for_ipmitool_runs(1);
    let ipmitool = sidecar.ipmitool_runs()[0].pid;
    let pid = Pid::from_raw(running.pid().try_into().expect("a pid")).expect("a pid");
    kill_process(pid, Signal::TERM).expect("a process");
    running.reply().expect_failure(504, "outcome_unknown");
    eventually("ipmitool has ended", || has_ended(ipmitool));
}

/// The two would forget each other's changes.
#[test]
fn a_program_does_not_share_its_folder_with_a_server() {
    let state = TempDir::new();
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
    let refused = request(&sidecar, &state, "POST", "/power/on").run().expect_failure(500, "internal");
    assert!(refused.json["error"].as_str().is_some_and(|error| error.contains("a server uses STATE_DIR")));
    assert!(sidecar.ipmitool_runs().is_empty());
}

#[test]
fn a_queue_is_free_after_its_ipmitool_was_killed() {
    let body = format!(r#"if mkdir "$0.first" 2>/dev/null; then exec sleep 60; fi; {DONE}"#);
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(&body).start(), TempDir::new());
    let first = request(&sidecar, &state, "GET", "/power/status").variable("REQUEST_TIMEOUT", "7").run();
    first.expect_failure(504, "bmc_timeout");
    assert_eq!(request(&sidecar, &state, "GET", "/power/status").run().status, 200);
}

#[test]
fn a_request_that_cannot_get_its_lock_in_time_is_busy() {
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(DONE).start(), TempDir::new());
    let request = |method, path| request(&sidecar, &state, method, path).variable("REQUEST_TIMEOUT", "7");
    let locks = ["changes.lock", "reads.lock", "sensors.lock"].map(|name| {
        let lock = File::create(state.path().join(name)).expect("a file");
        flock(&lock, FlockOperation::LockExclusive).expect("a lock");
        lock
    });
    let waiting = [("POST", "/power/on"), ("GET", "/power/status"), ("GET", "/sensors")]
        .map(|(method, path)| request(method, path).begin());
    // Requests without a command do not wait. A request that waits is refused as busy, since all locks are
    // held.
    let healthy = json!({"status": "healthy", "service": "ipmi-sidecar"});
    request("GET", "/health").expect(200, &healthy);
    request("POST", "/power/status").expect_failure(405, "method_not_allowed");
    // Of its 7 s, a change needs 5 s to start and a read needs 1 s.
    for (running, certain) in waiting.into_iter().zip([2, 6, 6]) {
        let reply = running.reply().expect_failure(503, "busy").within(Duration::from_secs(certain) + MARGIN);
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
        reply.logs("busy: ");
    }
    drop(locks);
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
    request("POST", "/power/on").run().logs("accepted").logs("answered after");
}

/// A program has its own time alone. What it keeps for the next one are the definitions.
#[test]
fn sensors_have_a_queue_of_their_own_and_keep_their_definitions() {
    let body = r#"echo 'Loading IANA PEN Registry...' >&2
case "$*" in
*"sdr info") echo 'Record Count : 1' ;;
*"mc info") echo 'Firmware Revision : 1.23' ;;
*"sdr dump "*) for file; do :; done; printf '\001\000\121\001\001a' >"$file" ;;
*"elist full") echo starts >>"$0.notes"; sleep 0.3; echo ends >>"$0.notes"
    echo 'Fan,900,RPM,ok,29.1,Fan Device,Fan,,,,,,,,,,0.000,255.000' ;;
*) echo 'Chassis Power is on' ;;
esac"#;
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(body).start(), TempDir::new());
    let all: Vec<_> = (0..3).map(|_| request(&sidecar, &state, "GET", "/sensors").begin()).collect();
    assert_eq!(request(&sidecar, &state, "GET", "/power/status").run().status, 200);
    for running in all {
        let reply = running.reply();
        assert_eq!((reply.status, &reply.json["age"]), (200, &json!(0)), "{reply:?}");
        assert_eq!(reply.json["sensors"][0]["id"], "fan");
    }
    assert_eq!(sidecar.ipmitool_notes(), ["starts", "ends"].repeat(3));
    let runs = sidecar.ipmitool_runs();
    let count = |words| runs.iter().filter(|run| run.arguments.contains(words)).count();
    assert_eq!((count("sdr dump"), count("-S ")), (1, 3), "{runs:?}");
}

/// Or each program would spend its time on them.
#[test]
fn definitions_that_take_too_long_for_a_program_are_not_tried_by_the_next() {
    let body = r#"case "$*" in
*"sdr info") echo 'Record Count : 1' ;;
*"mc info") echo 'Firmware Revision : 1.23' ;;
*"sdr dump "*) exec sleep 600 ;;
*"elist full") echo 'Fan,900,RPM,ok,29.1,Fan Device,Fan,,,,,,,,,,0.000,255.000' ;;
esac"#;
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(body).start(), TempDir::new());
    let first = request(&sidecar, &state, "GET", "/sensors").variable("REQUEST_TIMEOUT", "7").run();
    assert_eq!(first.status, 504, "{first:?}");
    assert_eq!(request(&sidecar, &state, "GET", "/sensors").run().status, 200);
}

#[test]
fn sensors_that_take_too_long_for_a_program_are_a_time_out() {
    let body = r#"case "$*" in *"sdr info") echo 'Record Count : 1' ;; *) exec sleep 600 ;; esac"#;
    let sidecar = Sidecar::with_fake_ipmitool(body).start();
    let running = cgi(&sidecar, "GET", "/sensors").key(KEY).variable("REQUEST_TIMEOUT", "7").begin();
    running.reply().expect_failure(504, "bmc_timeout").within(Duration::from_secs(7) + MARGIN);
    let run = sidecar.ipmitool_runs().pop().expect("a run");
    eventually("ipmitool has ended", || has_ended(run.pid));
}

#[test]
fn an_unauthenticated_request_creates_no_lock() {
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(DONE).start(), TempDir::new());
    let unauthenticated = request(&sidecar, &state, "POST", "/power/on").key("wr0ng-key-5f2c81d07ae4");
    unauthenticated.expect_failure(401, "unauthorized");
    assert_eq!(fs::read_dir(state.path()).expect("a folder").count(), 0);
}
