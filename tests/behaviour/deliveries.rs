//! Requests that come twice: deliveries with an ID, alerts that keep firing, and restarts in a row.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::slice::from_ref;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{KEY, Reply, Running, Sidecar, SimulatedBmc, TempDir};

const ID: &str = "Idempotency-Key";

/// Succeeds at once, with any command.
const DONE: &str =
    r#"for what in Up/On Soft Down/Off Cycle Reset; do echo "Chassis Power Control: $what"; done"#;

/// Sends the command and gets no reply.
const UNCONFIRMED: &str = "echo 'Discovered IPMB address 0x0' >&2; exit 1";

/// Fails before the login.
const NO_SESSION: &str = "printf '%s\n' 'Loading IANA PEN Registry...' \
    'Error: Unable to establish IPMI v2 / RMCP+ session' >&2; exit 1";

/// The BMC refuses the command, for example because the server is off.
const REFUSED: &str =
    "echo 'Set Chassis Power Control to Cycle failed: Command not supported in present state' >&2; exit 1";

/// The BMC reports an error that does not tell whether the change was made.
const FAULTY: &str = "echo 'Set Chassis Power Control to Cycle failed: Unspecified error' >&2; exit 1";

fn cycled() -> Value {
    json!({"success": true, "output": "Chassis Power Control: Cycle", "command": "power cycle"})
}

fn skipped(reason: &str) -> Value {
    json!({"success": true, "skipped": reason})
}

fn alert(status: &str, name: &str) -> Value {
    json!({
        "status": status,
        "labels": {"alertname": "HostDown", "instance": name},
        "startsAt": "2026-11-24T03:00:00.000Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": format!("{name}00112233445566"),
    })
}

/// The body that Alertmanager sends.
fn notification(alerts: &[Value]) -> String {
    let fires = alerts.iter().any(|alert| alert["status"] == "firing");
    let status = if fires { "firing" } else { "resolved" };
    let group = "{}:{alertname=\"HostDown\"}";
    json!({"version": "4", "groupKey": group, "truncatedAlerts": 0, "status": status, "alerts": alerts})
        .to_string()
}

fn notify<'a>(sidecar: &'a Running, alerts: &[Value]) -> Reply<'a> {
    let post = sidecar.post("/power/cycle").key(KEY).header("Content-Type", "application/json");
    post.body(notification(alerts)).send()
}

/// Allows any number of restarts in a row.
fn without_cooldown(script: &str) -> Sidecar {
    Sidecar::with_fake_ipmitool(script).env("POWER_COOLDOWN", "0")
}

#[test]
fn a_repeated_delivery_gets_the_same_reply_without_a_second_run() {
    for field in [ID, "webhook-id", "X-GitHub-Delivery"] {
        let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
        let first = sidecar.post("/power/cycle").key(KEY).header(field, "d-1").expect(200, cycled());
        assert!(!first.has_header("Idempotent-Replayed"));
        let again = sidecar.post("/power/cycle").key(KEY).header(field, "d-1").expect(200, cycled());
        assert_eq!(again.header("idempotent-replayed"), "true");
        sidecar.bmc_was_asked(["set power 0", "set power 1"]);
    }
}

#[test]
fn each_new_delivery_is_a_run() {
    let sidecar = without_cooldown(DONE).start();
    for id in ["d-1", "d-2"] {
        sidecar.post("/power/cycle").key(KEY).header(ID, id).expect(200, cycled());
    }
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

#[test]
fn sixty_four_simultaneous_requests_with_one_id_are_one_run_with_equal_replies() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on().slow(Duration::from_secs(2))).start();
    let all: Vec<_> =
        (0..64).map(|_| sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").begin()).collect();
    for connection in all {
        connection.reply().expect(200, cycled());
    }
    sidecar.bmc_was_asked(["set power 0", "set power 1"]);
}

#[test]
fn the_same_id_on_another_route_is_refused() {
    let sidecar = without_cooldown(DONE).start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    let refused = sidecar.post("/power/reset").key(KEY).header(ID, "d-1");
    refused.expect_failure(422, "delivery_id_reused").error_contains("power cycle");
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn the_same_id_with_another_key_is_another_delivery() {
    let other = "other-0123456789abcdef";
    let sidecar = without_cooldown(DONE).env("ACCESS_O_KEY", other).env("ACCESS_O_ALLOW", "on").start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    assert_eq!(sidecar.post("/power/on").key(other).header(ID, "d-1").send().status, 200);
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

#[test]
fn an_invalid_id_is_refused() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).start();
    for id in ["", "a\tb", &"x".repeat(256)] {
        let reply = sidecar.post("/power/on").key(KEY).header(ID, id).send();
        assert_eq!((reply.status, reply.code()), (400, "bad_request"), "{id:?}");
    }
    let twice = sidecar.post("/power/on").key(KEY).header(ID, "a").header(ID, "b").send();
    assert_eq!((twice.status, twice.code()), (400, "bad_request"));
    assert!(sidecar.ipmitool_runs().is_empty());
}

/// GitLab sends two fields with one value. Relays repeat a field, or add one of their own.
#[test]
fn a_second_field_with_an_id_changes_nothing() {
    let sidecar = without_cooldown(DONE).start();
    let post = || sidecar.post("/power/cycle").key(KEY).header(ID, "job 7, step 2");
    post().header("webhook-id", "job 7, step 2").expect(200, cycled());
    for again in [post(), post().header(ID, "job 7, step 2"), post().header("X-GitHub-Delivery", "other")] {
        assert_eq!(again.expect(200, cycled()).header("idempotent-replayed"), "true");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

/// What this program cannot read it does not obey: it may be an alert that has ended.
#[test]
fn an_alert_that_cannot_be_read_is_not_obeyed() {
    let sidecar = without_cooldown(DONE).start();
    let post = |body: &str| sidecar.post("/power/cycle").key(KEY).body(body);
    let resolved = notification(&[alert("resolved", "one")]);
    post(&format!("\u{feff}{resolved}")).expect(200, skipped("resolved"));
    for alerts in ["null", "{}", "[]", "7"] {
        post(&format!("{{\"status\":\"resolved\",\"alerts\":{alerts}}}")).expect(200, skipped("resolved"));
    }
    for encoding in ["gzip", "GZIP", "identity, gzip", "br", "x"] {
        let reply = post(&resolved).header("Content-Encoding", encoding).send();
        assert_eq!((reply.status, reply.code()), (415, "unsupported_encoding"), "{encoding}");
    }
    assert!(sidecar.ipmitool_runs().is_empty());
    post(&resolved).header("Content-Encoding", "identity").expect(200, skipped("resolved"));
    post("{\"status\": \"resolved\", \"alerts\": [").expect(200, cycled());
    sidecar.logs("WARN power cycle (API_KEY from").logs("begins as JSON and is none");
}

/// A sender repeats a failed delivery so that it succeeds.
#[test]
fn a_repeated_delivery_runs_when_nothing_was_sent_the_first_time() {
    let sidecar = Sidecar::with_fake_ipmitool(&format!(
        r#"if [ -e "$0.up" ]; then {DONE}; else : >"$0.up"; {NO_SESSION}; fi"#
    ));
    let sidecar = sidecar.start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(502, "bmc_error");
    let again = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    assert!(!again.has_header("Idempotent-Replayed"));
}

#[test]
fn a_repeated_delivery_with_an_unknown_outcome_is_not_run_again() {
    let sidecar = Sidecar::with_fake_ipmitool(UNCONFIRMED).start();
    for _ in 0..2 {
        let post = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1");
        post.expect_failure(504, "outcome_unknown");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

/// A read can be repeated without harm.
#[test]
fn a_status_ignores_the_id() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'").start();
    for id in ["d-1", "d-1", "not an id"] {
        assert_eq!(sidecar.get("/power/status").key(KEY).header(ID, id).send().status, 200);
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 3);
}

#[test]
fn an_alert_causes_one_change_in_any_grouping() {
    let sidecar = without_cooldown(DONE).start();
    let [one, two] = ["one", "two"].map(|name| alert("firing", name));
    notify(&sidecar, from_ref(&one)).expect(200, cycled());
    notify(&sidecar, from_ref(&one)).expect(200, skipped("repeat"));
    notify(&sidecar, &[one.clone(), two.clone()]).expect(200, cycled());
    notify(&sidecar, from_ref(&two)).expect(200, skipped("repeat"));
    notify(&sidecar, &[two, one]).expect(200, skipped("repeat"));
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

/// Two Prometheus servers may report the same alert with different start times. Alertmanager uses the earlier
/// one.
#[test]
fn an_alert_with_an_earlier_start_is_still_the_same_alert() {
    let sidecar = without_cooldown(DONE).start();
    let mut alert = alert("firing", "one");
    notify(&sidecar, from_ref(&alert)).expect(200, cycled());
    alert["startsAt"] = json!("2026-11-24T03:59:30.000+01:00");
    notify(&sidecar, from_ref(&alert)).expect(200, skipped("repeat"));
    alert["startsAt"] = json!("2026-11-24T03:00:30.000Z");
    notify(&sidecar, from_ref(&alert)).expect(200, cycled());
}

#[test]
fn a_resolved_alert_causes_no_change() {
    let sidecar = without_cooldown(DONE).start();
    notify(&sidecar, &[alert("resolved", "one")]).expect(200, skipped("resolved"));
    assert!(sidecar.ipmitool_runs().is_empty());
}

#[test]
fn a_test_notification_causes_no_change() {
    let sidecar = without_cooldown(DONE).start();
    let mut grafana = alert("firing", "one");
    grafana["labels"]["alertname"] = json!("TestAlert");
    notify(&sidecar, &[grafana]).expect(200, skipped("test"));
    for (heartbeat, expected) in [
        (Value::Null, skipped("test")),
        (json!({"status": 1}), skipped("resolved")),
        (json!({"status": 0}), cycled()),
    ] {
        let kuma = json!({"heartbeat": heartbeat, "monitor": {"name": "server"}, "msg": "…"}).to_string();
        sidecar.post("/power/cycle").key(KEY).body(kuma).expect(200, expected);
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

/// Home Assistant and scripts send such bodies.
#[test]
fn any_other_body_is_ignored() {
    let sidecar = without_cooldown(DONE).start();
    let bodies =
        ["", "{}", "null", "reset=1", "{\"alerts\": [{}]}", "{\"heartbeat\": null}", "\u{0}\u{ff}", "{\"a"];
    for body in bodies {
        sidecar.post("/power/cycle").key(KEY).body(body).expect(200, cycled());
    }
    assert_eq!(sidecar.ipmitool_runs().len(), bodies.len());
}

/// The head and the body may arrive in pieces of any size.
#[test]
fn an_alert_is_recognised_in_pieces_of_any_size() {
    let sidecar = without_cooldown(DONE).start();
    let alerts: Vec<_> = (0..60).map(|number| alert("firing", &format!("{number}-"))).collect();
    let request = sidecar.post("/power/cycle").key(KEY).body(notification(&alerts)).bytes();
    assert!(request.len() > 8 * 1024, "more bytes than one read of the socket takes");
    for piece in [request.len(), 1500, 100] {
        let mut connection = sidecar.connect();
        for piece in request.chunks(piece) {
            connection = connection.write(piece);
            sleep(Duration::from_millis(1));
        }
        let expected = if piece == request.len() { cycled() } else { skipped("repeat") };
        connection.reply().expect(200, expected);
    }
}

/// Alert senders retry every reply that is not 2xx.
#[test]
fn an_alert_gets_200_when_a_retry_would_be_unsafe() {
    for (script, status, code, runs) in [
        (UNCONFIRMED, 200, "outcome_unknown", 1),
        (REFUSED, 200, "bmc_refused", 1),
        (FAULTY, 200, "bmc_error", 1),
        (NO_SESSION, 502, "bmc_error", 2),
    ] {
        let sidecar = without_cooldown(script).start();
        let reply = notify(&sidecar, &[alert("firing", "one")]);
        assert_eq!((reply.status, reply.code(), &reply.json["success"]), (status, code, &json!(false)));
        let again = notify(&sidecar, &[alert("firing", "one")]);
        match runs {
            1 => drop(again.expect(200, skipped("repeat"))),
            _ => assert_eq!((again.status, again.code()), (status, code)),
        }
        assert_eq!(sidecar.ipmitool_runs().len(), runs, "{code}");
    }
}

#[test]
fn a_second_restart_in_the_cooldown_is_refused() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).start();
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    for path in ["/power/cycle", "/power/reset"] {
        let refused =
            sidecar.post(path).key(KEY).expect_failure(409, "cooldown").error_contains("power cycle");
        let wait: u64 = refused.header("retry-after").parse().expect("seconds");
        assert!((10..=30).contains(&wait), "{wait}");
    }
    for path in ["/power/on", "/power/off", "/power/force-off"] {
        assert_eq!(sidecar.post(path).key(KEY).send().status, 200, "{path}");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

#[test]
fn a_second_restart_after_the_cooldown_is_allowed() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("POWER_COOLDOWN", "2").start();
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    let refused = sidecar.post("/power/cycle").key(KEY).expect_failure(409, "cooldown");
    let wait = refused.header("retry-after").parse().expect("seconds");
    sleep(Duration::from_secs(wait));
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
}

#[test]
fn only_a_restart_that_may_have_been_sent_starts_the_cooldown() {
    let not_sent = Sidecar::with_fake_ipmitool(NO_SESSION).start();
    for _ in 0..2 {
        not_sent.post("/power/cycle").key(KEY).expect_failure(502, "bmc_error");
    }
    let refused = Sidecar::with_fake_ipmitool(REFUSED).start();
    for _ in 0..2 {
        refused.post("/power/cycle").key(KEY).expect_failure(409, "bmc_refused");
    }
    let unknown = Sidecar::with_fake_ipmitool(UNCONFIRMED).start();
    unknown.post("/power/cycle").key(KEY).expect_failure(504, "outcome_unknown");
    unknown.post("/power/reset").key(KEY).expect_failure(409, "cooldown");
}

/// Alertmanager sends the alert again after `group_interval`. By then the cooldown is over.
#[test]
fn an_alert_in_the_cooldown_causes_no_change_and_is_not_stored() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("POWER_COOLDOWN", "2").start();
    notify(&sidecar, &[alert("firing", "one")]).expect(200, cycled());
    let reply = notify(&sidecar, &[alert("firing", "two")]);
    assert_eq!((reply.status, reply.code()), (409, "cooldown"));
    sleep(Duration::from_millis(2100));
    notify(&sidecar, &[alert("firing", "two")]).expect(200, cycled());
}

/// The program crashes after it has sent the command, so the outcome stays unknown.
#[test]
fn a_change_that_ran_during_a_crash_is_not_repeated_after_it() {
    let state = TempDir::new();
    let crashing = Sidecar::with_fake_ipmitool("exec sleep 30").env("STATE_DIR", state.path()).start();
    let lost = crashing.post("/power/cycle").key(KEY).header(ID, "d-1").begin();
    crashing.wait_for_ipmitool_runs(1);
    crashing.signal(Signal::KILL);
    lost.wait_for_close();
    drop(crashing);

    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(504, "outcome_unknown");
    sidecar.post("/power/cycle").key(KEY).expect_failure(409, "cooldown");
    assert!(sidecar.ipmitool_runs().is_empty());
}

/// A person must see that the outcome is unknown. The reply to a repeat would look like success.
#[test]
fn an_alert_that_ran_during_a_crash_has_an_unknown_outcome() {
    let state = TempDir::new();
    let begin = |script| without_cooldown(script).env("STATE_DIR", state.path()).start();
    let crashing = begin("exec sleep 30");
    let body = notification(&[alert("firing", "one")]);
    let lost = crashing.post("/power/cycle").key(KEY).body(body).begin();
    crashing.wait_for_ipmitool_runs(1);
    crashing.signal(Signal::KILL);
    lost.wait_for_close();
    drop(crashing);

    let sidecar = begin(DONE);
    let reply = notify(&sidecar, &[alert("firing", "one")]);
    assert_eq!((reply.status, reply.code()), (200, "outcome_unknown"));
    sidecar.logs("outcome_unknown");
    // The outcome is reported once.
    notify(&sidecar, &[alert("firing", "one")]).expect(200, skipped("repeat"));
    assert!(sidecar.ipmitool_runs().is_empty());
}

/// Its folder is not to blame.
#[test]
fn a_delivery_whose_turn_comes_too_late_is_busy() {
    let state = TempDir::new();
    let sidecar = Sidecar::with_fake_ipmitool(&format!("sleep 3; {DONE}"))
        .env("STATE_DIR", state.path())
        .env("REQUEST_TIMEOUT", "7")
        .start();
    let first = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").begin();
    sidecar.wait_for_ipmitool_runs(1);
    let second = sidecar.post("/power/on").key(KEY).header(ID, "d-2").expect_failure(503, "busy");
    second.error_contains("earlier commands took the time");
    first.reply().expect(200, cycled());
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

/// The old process has closed its listener and still runs its accepted requests.
#[test]
fn a_new_process_waits_until_the_old_one_has_stored_its_history() {
    let state = TempDir::new();
    let begin = |script: &str| without_cooldown(script).env("STATE_DIR", state.path()).start();
    let before = begin(&format!("sleep 1; {DONE}"));
    let last = before.post("/power/cycle").key(KEY).header(ID, "d-1").begin();
    before.wait_for_ipmitool_runs(1).signal(Signal::TERM).no_longer_listens();

    let after = begin(DONE);
    let again = after.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert!(after.ipmitool_runs().is_empty());
    last.reply().expect(200, cycled());
}

#[test]
fn two_processes_cannot_use_one_state_dir() {
    let state = TempDir::new();
    let sidecar =
        || Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).env("REQUEST_TIMEOUT", "7");
    let _first = sidecar().start();
    sidecar().run(&[]).exits(71).prints_error("STATE_DIR").prints_error("another ipmi-sidecar uses it");
    sidecar().run(&["check"]).exits(1); // `check` only reads
}

#[test]
fn the_history_in_state_dir_survives_a_restart() {
    let state = TempDir::new();
    let begin = || without_cooldown(DONE).env("STATE_DIR", state.path()).start();
    let before = begin();
    before.post("/power/on").key(KEY).header(ID, "d-1").send();
    notify(&before, &[alert("firing", "one")]).expect(200, cycled());
    let file = state.path().join("attempts.json");
    assert_eq!(fs::metadata(&file).expect("the history").permissions().mode() & 0o777, 0o600);
    drop(before);

    let after = begin();
    let again = after.post("/power/on").key(KEY).header(ID, "d-1").send();
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, "true"));
    notify(&after, &[alert("firing", "one")]).expect(200, skipped("repeat"));
    assert!(after.ipmitool_runs().is_empty());
    drop(after);

    // Without STATE_DIR, a restart clears the history.
    let without_state = without_cooldown(DONE).start();
    notify(&without_state, &[alert("firing", "one")]).expect(200, cycled());
}

#[test]
fn a_damaged_history_is_moved_aside_and_the_start_succeeds() {
    for damage in [&b""[..], b"{\"attempts\": 7}", b"\0\xff", &vec![b' '; 5_000_000]] {
        let state = TempDir::new();
        state.file("attempts.json", damage);
        let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
        sidecar.logs(": set aside as ");
        assert_eq!(fs::read(state.path().join("attempts.damaged")).expect("the damaged history"), damage);
        sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    }
}

#[test]
fn a_state_dir_that_cannot_be_written_is_a_configuration_error() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", "/proc/no-such-folder");
    sidecar.run(&[]).exits(78).prints_error("STATE_DIR is \"/proc/no-such-folder\": ");
}

/// For example on a full disk. Changes that need no history still work.
#[test]
fn a_change_that_cannot_be_stored_is_not_sent() {
    let state = TempDir::new();
    let folder = state.path().join("inner");
    fs::create_dir(&folder).expect("a folder");
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", &folder).start();
    fs::remove_dir_all(&folder).expect("a removed folder");
    for _ in 0..2 {
        sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(500, "internal");
    }
    sidecar.logs("noting it in STATE_DIR: ");
    for path in ["/power/on", "/power/off", "/power/force-off"] {
        assert_eq!(sidecar.post(path).key(KEY).send().status, 200);
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 3);
    fs::create_dir(&folder).expect("a folder");
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
}

#[test]
fn a_client_that_leaves_does_not_cancel_the_same_delivery_of_another_client() {
    let slow = SimulatedBmc::on().slow(Duration::from_secs(1));
    let sidecar = Sidecar::with_bmc(slow).env("RUST_LOG", "debug").start();
    let running = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    let [left, stays] = [(); 2].map(|()| sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").begin());
    sidecar.logs("waits for the same delivery");
    left.reset();
    assert_eq!(running.reply().status, 200);
    stays.reply().expect(200, cycled());
    sidecar.bmc_was_asked(["set power 1", "set power 0", "set power 1"]);
    assert!(!sidecar.log().contains("not run"), "{}", sidecar.log());
}

#[test]
fn a_repeated_delivery_is_answered_while_a_hanging_change_blocks_the_queue() {
    let hangs = "case \"$*\" in *\"power off\") exec sleep 600 ;; esac; echo 'Chassis Power Control: Cycle'";
    let sidecar = Sidecar::with_fake_ipmitool(hangs).env("REQUEST_TIMEOUT", "7").start();
    let cycle = || sidecar.post("/power/cycle").key(KEY).header(ID, "d-1");
    cycle().expect(200, cycled());
    let hanging = sidecar.post("/power/force-off").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(2);
    let again = cycle().begin();
    hanging.reply().expect_failure(504, "outcome_unknown");
    again.reply().expect(200, cycled());
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

/// Thousands of looks a second: if an age were added up from look to look, each would lose a part of a millisecond.
#[test]
fn a_cooldown_ends_while_a_sender_repeats_its_delivery() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("POWER_COOLDOWN", "2").start();
    let cycle = || sidecar.post("/power/cycle").key(KEY);
    let deliver = || cycle().header(ID, "d-1").expect(200, cycled());
    deliver();
    let until = Instant::now() + Duration::from_millis(2_100);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < until {
                    deliver();
                }
            });
        }
    });
    cycle().expect(200, cycled());
}

/// Or a key that may only do little could silence the alerts of another for a week.
#[test]
fn an_alert_of_another_key_is_another_alert() {
    let other = "other-0123456789abcdef";
    let sidecar = without_cooldown(DONE).env("ACCESS_O_KEY", other).env("ACCESS_O_ALLOW", "cycle").start();
    for key in [other, KEY] {
        let body = notification(&[alert("firing", "one")]);
        sidecar.post("/power/cycle").key(key).body(body).expect(200, cycled());
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

/// Their replies do not wait for it, and a change that could not be noted is not sent.
#[test]
fn a_history_that_cannot_be_written_is_told_in_time() {
    let state = TempDir::new();
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
    // A FIFO in place of the file that is written: it has no reader.
    let fifo = state.path().join("attempts.new");
    assert!(
        std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo, of coreutils").success()
    );
    let cycle = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1");
    cycle
        .expect_failure(500, "internal")
        .error_contains("noting it in STATE_DIR")
        .within(Duration::from_secs(9));
    assert!(sidecar.ipmitool_runs().is_empty());
    assert_eq!(sidecar.post("/power/on").key(KEY).send().status, 200);
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
}

#[test]
fn a_fifo_in_place_of_the_history_is_set_aside() {
    let state = TempDir::new();
    let fifo = state.path().join("attempts.json");
    assert!(
        std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo, of coreutils").success()
    );
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
    sidecar.logs("it is no regular file: set aside as ");
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
}
