//! What comes twice: named deliveries, alerts that go on firing, and restarts in a row.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::slice::from_ref;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{KEY, Reply, Running, Scratch, Sidecar, SimulatedBmc};

const ID: &str = "Idempotency-Key";

/// Succeeds at once, whatever is asked.
const DONE: &str =
    r#"for what in Up/On Soft Down/Off Cycle Reset; do echo "Chassis Power Control: $what"; done"#;

/// Gets as far as sending, and hears nothing.
const UNCONFIRMED: &str = "echo 'Discovered IPMB address 0x0' >&2; exit 1";

/// Gets nowhere.
const NO_SESSION: &str = "printf '%s\n' 'Loading IANA PEN Registry...' \
    'Error: Unable to establish IPMI v2 / RMCP+ session' >&2; exit 1";

/// The server is off, say.
const DECLINED: &str =
    "echo 'Set Chassis Power Control to Cycle failed: Command not supported in present state' >&2; exit 1";

/// The BMC answers, and what it says is anybody's guess.
const FAULTY: &str = "echo 'Set Chassis Power Control to Cycle failed: Unspecified error' >&2; exit 1";

fn cycled() -> Value {
    json!({"success": true, "output": "Chassis Power Control: Cycle", "command": "power cycle"})
}

fn skipped(why: &str) -> Value {
    json!({"success": true, "skipped": why})
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

/// As Alertmanager sends it.
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

/// A server that can be cycled as often as a test likes.
fn without_cooldown(script: &str) -> Sidecar {
    Sidecar::with_fake_ipmitool(script).env("POWER_COOLDOWN", "0")
}

#[test]
fn a_delivery_that_comes_again_gets_the_same_answer_and_no_second_run() {
    for field in [ID, "webhook-id", "X-GitHub-Delivery"] {
        let sidecar = Sidecar::beside(SimulatedBmc::on()).start();
        let first = sidecar.post("/power/cycle").key(KEY).header(field, "d-1").expect(200, cycled());
        assert!(!first.has_header("Idempotent-Replayed"));
        let again = sidecar.post("/power/cycle").key(KEY).header(field, "d-1").expect(200, cycled());
        assert_eq!(again.header("idempotent-replayed"), "true");
        sidecar.bmc_was_asked(["set power 0", "set power 1"]);
    }
}

#[test]
fn another_delivery_is_another_run() {
    let sidecar = without_cooldown(DONE).start();
    for id in ["d-1", "d-2"] {
        sidecar.post("/power/cycle").key(KEY).header(ID, id).expect(200, cycled());
    }
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

#[test]
fn sixty_four_at_once_with_one_id_are_one_run_and_equal_answers() {
    let sidecar = Sidecar::beside(SimulatedBmc::on().slow(Duration::from_secs(2))).start();
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
    refused.expect_failure(422, "delivery_id_reused").error_names("power cycle");
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn an_id_is_its_sender_s_own() {
    let other = "other-0123456789abcdef";
    let sidecar = without_cooldown(DONE).env("ACCESS_O_KEY", other).env("ACCESS_O_ALLOW", "on").start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    assert_eq!(sidecar.post("/power/on").key(other).header(ID, "d-1").send().status, 200);
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

#[test]
fn an_id_that_cannot_be_meant_is_refused() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).start();
    for id in ["", "a b", &"x".repeat(256)] {
        let reply = sidecar.post("/power/on").key(KEY).header(ID, id).send();
        assert_eq!((reply.status, reply.code()), (400, "bad_request"), "{id:?}");
    }
    let both = sidecar.post("/power/on").key(KEY).header(ID, "a").header("webhook-id", "a").send();
    assert_eq!((both.status, both.code()), (400, "bad_request"));
    assert!(sidecar.ipmitool_runs().is_empty());
}

/// That is what a sender repeats it for.
#[test]
fn a_delivery_of_which_nothing_was_sent_runs_when_it_comes_again() {
    let sidecar = Sidecar::with_fake_ipmitool(&format!(
        r#"if [ -e "$0.up" ]; then {DONE}; else : >"$0.up"; {NO_SESSION}; fi"#
    ));
    let sidecar = sidecar.start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(502, "bmc_error");
    let again = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    assert!(!again.has_header("Idempotent-Replayed"));
}

#[test]
fn an_unknown_outcome_stays_unknown_when_the_delivery_comes_again() {
    let sidecar = Sidecar::with_fake_ipmitool(UNCONFIRMED).start();
    for _ in 0..2 {
        let post = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1");
        post.expect_failure(504, "outcome_unknown");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

/// Nothing is the matter with asking twice.
#[test]
fn a_status_needs_no_id_and_takes_any() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'").start();
    for id in ["d-1", "d-1", "not an id"] {
        assert_eq!(sidecar.get("/power/status").key(KEY).header(ID, id).send().status, 200);
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 3);
}

#[test]
fn an_alert_is_acted_on_once_however_it_is_grouped() {
    let sidecar = without_cooldown(DONE).start();
    let [one, two] = ["one", "two"].map(|name| alert("firing", name));
    notify(&sidecar, from_ref(&one)).expect(200, cycled());
    notify(&sidecar, from_ref(&one)).expect(200, skipped("repeat"));
    notify(&sidecar, &[one.clone(), two.clone()]).expect(200, cycled());
    notify(&sidecar, from_ref(&two)).expect(200, skipped("repeat"));
    notify(&sidecar, &[two, one]).expect(200, skipped("repeat"));
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

/// As one Prometheus of a pair and then the other may report it: Alertmanager takes the earlier start.
#[test]
fn an_alert_whose_start_moves_back_is_still_the_same() {
    let sidecar = without_cooldown(DONE).start();
    let mut alert = alert("firing", "one");
    notify(&sidecar, from_ref(&alert)).expect(200, cycled());
    alert["startsAt"] = json!("2026-11-24T03:59:30.000+01:00");
    notify(&sidecar, from_ref(&alert)).expect(200, skipped("repeat"));
    alert["startsAt"] = json!("2026-11-24T03:00:30.000Z");
    notify(&sidecar, from_ref(&alert)).expect(200, cycled());
}

#[test]
fn a_resolved_alert_asks_for_nothing() {
    let sidecar = without_cooldown(DONE).start();
    notify(&sidecar, &[alert("resolved", "one")]).expect(200, skipped("resolved"));
    assert!(sidecar.ipmitool_runs().is_empty());
}

#[test]
fn a_test_asks_for_nothing() {
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

/// As Home Assistant and scripts send them.
#[test]
fn any_other_body_is_nobody_s_business() {
    let sidecar = without_cooldown(DONE).start();
    let bodies =
        ["", "{}", "null", "reset=1", "{\"alerts\": [{}]}", "{\"heartbeat\": null}", "\u{0}\u{ff}", "{\"a"];
    for body in bodies {
        sidecar.post("/power/cycle").key(KEY).body(body).expect(200, cycled());
    }
    assert_eq!(sidecar.ipmitool_runs().len(), bodies.len());
}

/// The head and the body may come in any pieces.
#[test]
fn an_alert_is_recognised_in_whatever_pieces_it_comes() {
    let sidecar = without_cooldown(DONE).start();
    let alerts: Vec<_> = (0..60).map(|number| alert("firing", &format!("{number}-"))).collect();
    let request = sidecar.post("/power/cycle").key(KEY).body(notification(&alerts)).bytes();
    assert!(request.len() > 8 * 1024, "more than one read takes");
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

/// Only a 2xx ends their repeats.
#[test]
fn who_sends_alerts_is_told_200_where_a_repeat_would_do_harm() {
    for (script, status, code, runs) in [
        (UNCONFIRMED, 200, "outcome_unknown", 1),
        (DECLINED, 200, "bmc_refused", 1),
        (FAULTY, 200, "bmc_error", 1),
        (NO_SESSION, 502, "bmc_error", 2),
    ] {
        let sidecar = without_cooldown(script).start();
        let told = notify(&sidecar, &[alert("firing", "one")]);
        assert_eq!((told.status, told.code(), &told.json["success"]), (status, code, &json!(false)));
        let again = notify(&sidecar, &[alert("firing", "one")]);
        match runs {
            1 => drop(again.expect(200, skipped("repeat"))),
            _ => assert_eq!((again.status, again.code()), (status, code)),
        }
        assert_eq!(sidecar.ipmitool_runs().len(), runs, "{code}");
    }
}

#[test]
fn a_restart_is_not_followed_by_another_at_once() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).start();
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    for path in ["/power/cycle", "/power/reset"] {
        let refused = sidecar.post(path).key(KEY).expect_failure(409, "cooldown").error_names("power cycle");
        let wait: u64 = refused.header("retry-after").parse().expect("seconds");
        assert!((100..=120).contains(&wait), "{wait}");
    }
    for path in ["/power/on", "/power/off", "/power/force-off"] {
        assert_eq!(sidecar.post(path).key(KEY).send().status, 200, "{path}");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

#[test]
fn a_restart_may_follow_another_after_the_cooldown() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("POWER_COOLDOWN", "2").start();
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
    let refused = sidecar.post("/power/cycle").key(KEY).expect_failure(409, "cooldown");
    let wait = refused.header("retry-after").parse().expect("seconds");
    sleep(Duration::from_secs(wait));
    sidecar.post("/power/cycle").key(KEY).expect(200, cycled());
}

#[test]
fn only_what_may_have_been_sent_starts_the_cooldown() {
    let nothing = Sidecar::with_fake_ipmitool(NO_SESSION).start();
    for _ in 0..2 {
        nothing.post("/power/cycle").key(KEY).expect_failure(502, "bmc_error");
    }
    let declined = Sidecar::with_fake_ipmitool(DECLINED).start();
    for _ in 0..2 {
        declined.post("/power/cycle").key(KEY).expect_failure(409, "bmc_refused");
    }
    let perhaps = Sidecar::with_fake_ipmitool(UNCONFIRMED).start();
    perhaps.post("/power/cycle").key(KEY).expect_failure(504, "outcome_unknown");
    perhaps.post("/power/reset").key(KEY).expect_failure(409, "cooldown");
}

/// Alertmanager sends it again at the next `group_interval`, and by then the server has had its time.
#[test]
fn an_alert_in_the_cooldown_is_not_acted_on_and_not_remembered() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("POWER_COOLDOWN", "2").start();
    notify(&sidecar, &[alert("firing", "one")]).expect(200, cycled());
    let told = notify(&sidecar, &[alert("firing", "two")]);
    assert_eq!((told.status, told.code()), (409, "cooldown"));
    sleep(Duration::from_millis(2100));
    notify(&sidecar, &[alert("firing", "two")]).expect(200, cycled());
}

/// The worst moment: it was sent, and nobody will ever know what came of it.
#[test]
fn what_was_begun_before_a_crash_is_not_begun_again_after_it() {
    let state = Scratch::new();
    let crashing = Sidecar::with_fake_ipmitool("exec sleep 30").env("STATE_DIR", state.path()).start();
    let lost = crashing.post("/power/cycle").key(KEY).header(ID, "d-1").begin();
    crashing.ipmitool_is_run(1);
    crashing.signal(Signal::KILL);
    lost.let_go();
    drop(crashing);

    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(504, "outcome_unknown");
    sidecar.post("/power/cycle").key(KEY).expect_failure(409, "cooldown");
    assert!(sidecar.ipmitool_runs().is_empty());
}

/// What became of it a person must see: a repeat would look like a success.
#[test]
fn of_an_alert_that_a_crash_cut_short_the_outcome_is_unknown() {
    let state = Scratch::new();
    let begin = |script| without_cooldown(script).env("STATE_DIR", state.path()).start();
    let crashing = begin("exec sleep 30");
    let body = notification(&[alert("firing", "one")]);
    let lost = crashing.post("/power/cycle").key(KEY).body(body).begin();
    crashing.ipmitool_is_run(1);
    crashing.signal(Signal::KILL);
    lost.let_go();
    drop(crashing);

    let sidecar = begin(DONE);
    let told = notify(&sidecar, &[alert("firing", "one")]);
    assert_eq!((told.status, told.code()), (200, "outcome_unknown"));
    sidecar.logs("outcome_unknown");
    notify(&sidecar, &[alert("firing", "one")]).expect(200, skipped("repeat")); // it has been told
    assert!(sidecar.ipmitool_runs().is_empty());
}

/// It has closed its listener, and still runs what it admitted.
#[test]
fn a_successor_waits_until_the_one_before_it_has_noted_all() {
    let state = Scratch::new();
    let begin = |script: &str| without_cooldown(script).env("STATE_DIR", state.path()).start();
    let before = begin(&format!("sleep 1; {DONE}"));
    let last = before.post("/power/cycle").key(KEY).header(ID, "d-1").begin();
    before.ipmitool_is_run(1).signal(Signal::TERM).no_longer_listens();

    let after = begin(DONE);
    let again = after.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert!(after.ipmitool_runs().is_empty());
    last.reply().expect(200, cycled());
}

#[test]
fn two_at_once_do_not_share_a_folder() {
    let state = Scratch::new();
    let sidecar =
        || Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).env("REQUEST_TIMEOUT", "7");
    let _first = sidecar().start();
    sidecar().run(&[]).exits(71).says("STATE_DIR").says("another ipmi-sidecar uses it");
    sidecar().run(&["check"]).exits(1); // that only reads
}

#[test]
fn a_restart_forgets_nothing_that_state_dir_holds() {
    let state = Scratch::new();
    let begin = || without_cooldown(DONE).env("STATE_DIR", state.path()).start();
    let before = begin();
    before.post("/power/on").key(KEY).header(ID, "d-1").send();
    notify(&before, &[alert("firing", "one")]).expect(200, cycled());
    let file = state.path().join("attempts.json");
    assert_eq!(fs::metadata(&file).expect("it").permissions().mode() & 0o777, 0o600);
    drop(before);

    let after = begin();
    let again = after.post("/power/on").key(KEY).header(ID, "d-1").send();
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, "true"));
    notify(&after, &[alert("firing", "one")]).expect(200, skipped("repeat"));
    assert!(after.ipmitool_runs().is_empty());
    drop(after);

    // And without it, everything.
    let forgetful = without_cooldown(DONE).start();
    notify(&forgetful, &[alert("firing", "one")]).expect(200, cycled());
}

#[test]
fn a_damaged_memory_is_set_aside_and_stops_nothing() {
    for damage in [&b""[..], b"{\"attempts\": 7}", b"\0\xff", &vec![b' '; 5_000_000]] {
        let state = Scratch::new();
        state.file("attempts.json", damage);
        let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", state.path()).start();
        sidecar.logs(": set aside as ");
        assert_eq!(fs::read(state.path().join("attempts.damaged")).expect("it"), damage);
        sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
    }
}

#[test]
fn a_state_dir_that_cannot_be_written_stops_the_start() {
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", "/proc/no-such-folder");
    sidecar.run(&[]).exits(78).says("STATE_DIR is \"/proc/no-such-folder\": ");
}

/// A full disk, say. What needs no memory goes on.
#[test]
fn what_cannot_be_noted_is_not_sent() {
    let state = Scratch::new();
    let folder = state.path().join("inner");
    fs::create_dir(&folder).expect("a folder");
    let sidecar = Sidecar::with_fake_ipmitool(DONE).env("STATE_DIR", &folder).start();
    fs::remove_dir_all(&folder).expect("it goes");
    for _ in 0..2 {
        sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(500, "internal");
    }
    sidecar.logs("noting it in STATE_DIR: ");
    for path in ["/power/on", "/power/off", "/power/force-off"] {
        assert_eq!(sidecar.post(path).key(KEY).send().status, 200);
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 3);
    fs::create_dir(&folder).expect("it comes back");
    sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect(200, cycled());
}

#[test]
fn who_hangs_up_takes_nobody_with_it_who_waits_for_the_same_delivery() {
    let slow = SimulatedBmc::on().slow(Duration::from_secs(1));
    let sidecar = Sidecar::beside(slow).env("RUST_LOG", "debug").start();
    let running = sidecar.post("/power/on").key(KEY).begin();
    sidecar.bmc_is_asked("set power 1");
    let [gone, stays] = [(); 2].map(|()| sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").begin());
    sidecar.logs("waits for the same delivery");
    gone.reset();
    assert_eq!(running.reply().status, 200);
    stays.reply().expect(200, cycled());
    sidecar.bmc_was_asked(["set power 1", "set power 0", "set power 1"]);
    assert!(!sidecar.log().contains("not run"), "{}", sidecar.log());
}

#[test]
fn what_was_done_is_told_behind_a_change_that_leaves_no_time_for_another() {
    let hangs = "case \"$*\" in *\"power off\") exec sleep 600 ;; esac; echo 'Chassis Power Control: Cycle'";
    let sidecar = Sidecar::with_fake_ipmitool(hangs).env("REQUEST_TIMEOUT", "7").start();
    let cycle = || sidecar.post("/power/cycle").key(KEY).header(ID, "d-1");
    cycle().expect(200, cycled());
    let hanging = sidecar.post("/power/force-off").key(KEY).begin();
    sidecar.ipmitool_is_run(2);
    let again = cycle().begin();
    hanging.reply().expect_failure(504, "outcome_unknown");
    again.reply().expect(200, cycled());
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}
