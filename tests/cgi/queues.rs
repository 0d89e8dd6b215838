//! `STATE_DIR`: the two lanes of processes that know nothing of each other.

use std::fs::{self, File};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::program::{Cgi, RunningCgi, cgi};
use crate::support::{KEY, Running, Sidecar, TempDir, eventually, has_ended, wait_for};

const HEALTHY: Duration = Duration::from_secs(2);

/// Prints every success line, so that any command succeeds.
const DONE: &str = r#"echo 'Chassis Power is on'
for what in Up/On Soft Down/Off Cycle Reset; do echo "Chassis Power Control: $what"; done"#;

fn asked<'a>(sidecar: &'a Running, state: &TempDir, method: &str, path: &str) -> Cgi<'a> {
    cgi(sidecar, method, path).key(KEY).variable("STATE_DIR", state.path())
}

/// Waits until this process stands in the queue for a lock, by what the kernel says of it (`proc_locks(5)`).
#[track_caller]
fn wait_until_queued(begun: &RunningCgi<'_>) {
    let pid = begun.pid().to_string();
    eventually("it waits for its lane", || {
        let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
        locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|words| {
            // `7: -> FLOCK ADVISORY WRITE PID …`
            words.get(1) == Some(&"->") && words.get(2) == Some(&"FLOCK") && words.get(5) == Some(&&*pid)
        })
    });
}

#[test]
fn a_lane_runs_one_ipmitool_at_a_time() {
    let body = format!(
        r#"lane=change; case "$*" in *"power status") lane=read ;; esac
echo "$lane starts" >>"$0.notes"; sleep 0.1; echo "$lane ends" >>"$0.notes"
{DONE}"#
    );
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(&body).start(), TempDir::new());
    let begun: Vec<_> = (0..20)
        .map(|number| match number % 2 {
            0 => asked(&sidecar, &state, "GET", "/power/status"),
            _ => asked(&sidecar, &state, "POST", "/power/on"),
        })
        .map(Cgi::begin)
        .collect();
    for begun in begun {
        let reply = begun.reply();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let notes = sidecar.ipmitool_notes();
    for lane in ["change", "read"] {
        let own: Vec<_> = notes.iter().filter_map(|note| note.strip_prefix(lane)).collect();
        assert_eq!(own, [" starts", " ends"].repeat(10), "{lane}: {notes:?}");
    }
    let first_read = notes.iter().position(|note| note == "read starts");
    let last_change = notes.iter().rposition(|note| note == "change ends");
    assert!(first_read < last_change, "a lane of its own each: {notes:?}");
}

#[test]
fn changes_keep_the_order_in_which_they_arrived() {
    // The first waits for the last to arrive.
    let state = TempDir::new();
    let body = format!("until [ -e '{}/go' ]; do sleep 0.02; done; {DONE}", state.path().display());
    let sidecar = Sidecar::with_fake_ipmitool(&body).env("POWER_COOLDOWN", "0").start();
    let paths = ["/power/on", "/power/cycle", "/power/reset", "/power/off", "/power/force-off", "/power/on"];
    let mut begun = Vec::new();
    for path in paths {
        begun.push(asked(&sidecar, &state, "POST", path).begin());
        match &begun[..] {
            [_] => drop(sidecar.wait_for_ipmitool_runs(1)),
            [.., last] => wait_until_queued(last),
            [] => {}
        }
    }
    state.file("go", "");
    for begun in begun {
        let reply = begun.reply();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let run = sidecar.ipmitool_runs();
    let words = |run: &str| run.rsplit(' ').next().map(str::to_owned).unwrap_or_default();
    let run: Vec<_> = run.iter().map(|run| words(&run.arguments)).collect();
    assert_eq!(run, ["on", "cycle", "reset", "soft", "off", "on"]);
}

/// A web server kills the program whose client it has given up; what that had begun goes on all the same.
#[test]
fn a_lane_is_taken_as_long_as_its_ipmitool_lives() {
    let body = format!(r#"if mkdir "$0.first" 2>/dev/null; then exec sleep 3; fi; {DONE}"#);
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(&body).start(), TempDir::new());
    let first = asked(&sidecar, &state, "POST", "/power/on").begin();
    sidecar.wait_for_ipmitool_runs(1);
    let ipmitool = sidecar.ipmitool_runs()[0].pid;
    first.kill();

    let second = asked(&sidecar, &state, "POST", "/power/reset").begin();
    wait_until_queued(&second);
    assert!(!has_ended(ipmitool) && sidecar.ipmitool_runs().len() == 1, "the second waits for the first");
    let overlapped = wait_for(Duration::from_secs(10), || match sidecar.ipmitool_runs().len() {
        1 => None,
        _ => Some(!has_ended(ipmitool)),
    });
    assert_eq!(overlapped, Some(false));
    assert_eq!(second.reply().status, 200);
}

#[test]
fn a_lane_is_free_once_its_ipmitool_was_stopped() {
    let body = format!(r#"if mkdir "$0.first" 2>/dev/null; then exec sleep 60; fi; {DONE}"#);
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(&body).start(), TempDir::new());
    let first = asked(&sidecar, &state, "GET", "/power/status").variable("REQUEST_TIMEOUT", "7").run();
    first.expect_failure(504, "bmc_timeout");
    assert_eq!(asked(&sidecar, &state, "GET", "/power/status").run().status, 200);
}

#[test]
fn who_finds_its_lane_taken_until_it_is_too_late_is_told_so() {
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(DONE).start(), TempDir::new());
    let asked = |method, path| asked(&sidecar, &state, method, path).variable("REQUEST_TIMEOUT", "7");
    let locks = ["changes.lock", "reads.lock"].map(|name| {
        let lock = File::create(state.path().join(name)).expect("a file");
        flock(&lock, FlockOperation::LockExclusive).expect("a lock");
        lock
    });
    let waiting = [asked("POST", "/power/on").begin(), asked("GET", "/power/status").begin()];
    // Who needs no lane waits for none.
    let healthy = json!({"status": "healthy", "service": "ipmi-sidecar"});
    asked("GET", "/health").expect(200, &healthy).within(HEALTHY);
    asked("POST", "/power/status").expect_failure(405, "method_not_allowed").within(HEALTHY);
    // A change needs 5 of its 7 s to start, a read 1.
    for (begun, certain) in waiting.into_iter().zip([2, 6]) {
        let reply = begun.reply().expect_failure(503, "busy").within(Duration::from_secs(certain) + HEALTHY);
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
        reply.logs("busy: ");
    }
    drop(locks);
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
    asked("POST", "/power/on").run().logs("accepted").logs("answered after");
}

#[test]
fn a_stranger_does_not_touch_the_lanes() {
    let (sidecar, state) = (Sidecar::with_fake_ipmitool(DONE).start(), TempDir::new());
    let stranger = asked(&sidecar, &state, "POST", "/power/on").key("wr0ng-key-5f2c81d07ae4");
    stranger.expect_failure(401, "unauthorized");
    assert_eq!(fs::read_dir(state.path()).expect("a folder").count(), 0);
}
