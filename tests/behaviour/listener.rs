//! The listener: the requests that it accepts, the ones that it refuses, and slow clients.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Connection, KEY, Sidecar, SimulatedBmc, eventually};

/// `/health` is answered within a second.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// For a refusal that waits for nothing, on a busy machine. Less than the 5 s for a body, and less than the 4
/// s after which a queued change is refused.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A request must be complete within 5 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

const HANGING: &str = "exec sleep 600";
const ANSWERING: &str = "echo 'Chassis Power is on'";

fn healthy() -> Value {
    json!({"status": "healthy", "service": "ipmi-sidecar"})
}

fn is_on() -> Value {
    json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"})
}

#[test]
fn health_is_answered_while_both_workers_hang() {
    let sidecar = Sidecar::with_fake_ipmitool(HANGING).start();
    let _change = sidecar.post("/power/on").key(KEY).begin();
    let _read = sidecar.get("/power/status").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(2);
    for _ in 0..20 {
        sidecar.get("/health").expect(200, healthy()).within(HEALTH_LIMIT);
    }
}

#[test]
fn slow_clients_delay_no_other_client() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let head = sidecar.get("/power/status").key(KEY).bytes();
    let (first, rest) = head.split_at(10);
    let slow: Vec<_> = (0..50).map(|_| sidecar.connect().write(first)).collect();
    for _ in 0..10 {
        sidecar.get("/health").expect(200, healthy()).within(HEALTH_LIMIT);
        sidecar.get("/power/status").key(KEY).expect(200, is_on());
    }
    for connection in slow {
        connection.write(rest).reply().expect(200, is_on());
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let bytes = sidecar.get("/power/status").key(KEY).bytes();
    let connection = bytes.iter().fold(sidecar.connect(), |connection, byte| connection.write(&[*byte]));
    connection.reply().expect(200, is_on());
}

#[test]
fn an_incomplete_request_times_out() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let started = Instant::now();
    let half = sidecar.connect().write(b"GET /health HTTP/1.1\r\nHost: a\r\n");
    let silent = sidecar.connect();
    half.reply().expect_failure(408, "request_timeout");
    assert!(started.elapsed() > REQUEST_LIMIT.mul_f32(0.9) && started.elapsed() < REQUEST_LIMIT * 2);
    // The connection of a client that sent nothing must be closed. A reply is allowed, but not needed.
    silent.wait_for_close();
}

#[test]
fn a_missing_body_times_out() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power Control: Up/On'").start();
    let head = format!("POST /power/on HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Length: 4\r\n\r\n");
    sidecar.raw(head.as_bytes()).expect_failure(408, "request_timeout").within(REQUEST_LIMIT * 2);
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

#[test]
fn a_head_may_have_at_most_eight_kib() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let padded = |size: usize| {
        let plain = sidecar.get("/health").header("X-Padding", "").bytes().len();
        sidecar.get("/health").header("X-Padding", &"x".repeat(size - plain))
    };
    padded(8 * 1024).expect(200, healthy());
    padded(8 * 1024 + 1).expect_failure(431, "head_too_large");
    padded(60 * 1024).expect_failure(431, "head_too_large");
    sidecar.connect().write(&[b'a'; 9_000]).reply().expect_failure(431, "head_too_large");
}

#[test]
fn a_head_may_have_at_most_sixty_four_fields() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let with = |headers: usize| (0..headers).fold(sidecar.get("/health"), |all, _| all.header("X-A", "b"));
    with(63).expect(200, healthy()); // and Host
    with(64).expect_failure(431, "head_too_large");
}

#[test]
fn a_body_may_have_at_most_sixty_four_kib() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power Control: Up/On'").start();
    let request = |length: usize| sidecar.post("/power/on").key(KEY).body(vec![b'x'; length]);
    assert_eq!(request(64 * 1024).send().status, 200);
    request(64 * 1024 + 1).expect_failure(413, "body_too_large");
    // An announced body that is too large is refused before it arrives.
    let announced = format!(
        "POST /power/on HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Length: 99999999999999999\r\n\r\n"
    );
    sidecar.raw(announced.as_bytes()).expect_failure(413, "body_too_large").within(AT_ONCE);
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn a_change_starts_after_its_body_is_complete() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power Control: Up/On'").start();
    let bytes = sidecar.post("/power/on").key(KEY).body("1234").bytes();
    let (all_but_one, last) = bytes.split_at(bytes.len() - 1);
    let connection = sidecar.connect().write(all_but_one);
    sidecar.get("/health").expect(200, healthy());
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
    assert_eq!(connection.write(last).reply().status, 200);
}

#[test]
fn the_body_of_an_unauthenticated_client_is_not_awaited() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let announced = b"POST /power/on HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n";
    sidecar.raw(announced).expect_failure(401, "unauthorized").within(AT_ONCE);
    // A client that sends its body gets the reply too.
    let sent = sidecar.post("/power/on").key("wrong").body(vec![b'x'; 50_000]);
    sent.expect_failure(401, "unauthorized");
}

#[test]
fn invalid_http_is_a_bad_request() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let key = format!("X-API-Key: {KEY}\r\n");
    for bytes in [
        "GET /health HTTP/1.1\nHost: a\n\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a\r\nX-A: \u{7}\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(),
        "GET /h\u{e9}alth HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET  /health HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /health HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
        "GET /health\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{0}".to_owned(),
        format!("POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n"),
        format!(
            "POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"
        ),
        format!("POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n"),
        format!(
            "POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: identity\r\n\r\n"),
        format!(
            "POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 4\r\nContent-Length: 4\r\n\r\n1234"
        ),
        format!("POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Content-Length: -1\r\n\r\n"),
        format!("POST /power/on HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 4x\r\n\r\n1234"),
    ] {
        let reply = sidecar.raw(bytes.as_bytes());
        assert_eq!((reply.status, reply.json["code"].as_str()), (400, Some("bad_request")), "{bytes:?}");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

/// Java's stream publishers, .NET, Bun, Node's streams, service meshes and Android send bodies so without being asked.
#[test]
fn a_body_may_come_in_chunks() {
    const UP: &str = "echo 'Chassis Power Control: Up/On'";
    let sidecar = Sidecar::with_fake_ipmitool(&format!("{UP}; {ANSWERING}")).start();
    let large = format!("ffff\r\n{}\r\n", "x".repeat(0xffff));
    let request = |line: &str, body: &str| {
        let head =
            format!("{line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n");
        sidecar.raw((head + body).as_bytes()).status
    };
    for (line, body, status) in [
        ("POST /power/on", "0\r\n\r\n", 200),
        ("POST /power/on", "2\r\n{}\r\n0\r\n\r\n", 200),
        ("POST /power/on", "1;a=\"b\"\r\n{\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n", 200),
        ("POST /power/on", &format!("{large}1\r\nx\r\n0\r\n\r\n"), 200),
        ("POST /power/on", &format!("{large}2\r\nxx\r\n0\r\n\r\n"), 413),
        ("POST /power/on", "10001\r\n", 413),
        ("GET /power/status", "2\r\n{}\r\n0\r\n\r\n", 200),
        ("GET /health", "0\r\n\r\n", 200),
        ("GET /health", "", 200),
    ] {
        assert_eq!(request(line, body), status, "{line} {:?}", &body[..body.len().min(60)]);
    }
    let resolved = "{\"status\":\"resolved\",\"alerts\":[]}";
    let body = format!("{:x}\r\n{resolved}\r\n0\r\n\r\n", resolved.len());
    let runs = sidecar.ipmitool_runs().len();
    assert_eq!(request("POST /power/on", &body), 200);
    assert_eq!(sidecar.ipmitool_runs().len(), runs, "a resolved alert in chunks asks for nothing");
}

#[test]
fn a_refusal_of_a_valid_key_is_logged_with_its_reason() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    let reply = sidecar.get("//power/status").key(KEY).expect_failure(404, "not_found");
    reply.error_contains("there is no //power/status");
    sidecar.logs("WARN //power/status (API_KEY from 127.0.0.1:").logs("not_found: ");
    sidecar.post("/power/on").key(KEY).body(vec![b'x'; 70_000]).expect_failure(413, "body_too_large");
    sidecar.logs("WARN power on (API_KEY from 127.0.0.1:").logs("body_too_large: ");
    assert_eq!(sidecar.post("/power/on").key(KEY).header("Idempotency-Key", "").send().status, 400);
    sidecar.logs("bad_request: ");
    // Without a key anyone may ask for anything, and fills no disk.
    sidecar.get("/nothing").expect_failure(404, "not_found");
    sidecar.get("/power/status").key(KEY).expect(200, is_on());
    assert!(!sidecar.log().contains("/nothing"), "{}", sidecar.log());
}

#[test]
fn http_1_0_and_a_leading_empty_line_are_accepted() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    sidecar.raw(b"GET /health HTTP/1.0\r\n\r\n").expect(200, healthy());
    sidecar.raw(b"\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n").expect(200, healthy());
}

#[test]
fn one_connection_carries_one_request() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power Control: Up/On'").start();
    let one = sidecar.post("/power/on").key(KEY).bytes();
    // `Reply` fails if more bytes follow its body.
    assert_eq!(sidecar.raw(&one.repeat(3)).status, 200);
    sidecar.get("/health").expect(200, healthy());
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power Control: Up/On'").start();
    let head = |key| {
        format!(
            "POST /power/on HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let connection = sidecar.connect().write(head(KEY).as_bytes());
    assert_eq!(connection.expect_continue().write(b"body").reply().status, 200);
    let unauthenticated = sidecar.connect().write(head("wrong").as_bytes());
    unauthenticated.reply().expect_failure(401, "unauthorized");
}

#[test]
fn a_queued_change_is_cancelled_when_its_client_leaves() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_secs(1))).start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    let left = sidecar.post("/power/force-off").key(KEY).begin();
    drop(left);
    let last = sidecar.post("/power/reset").key(KEY).begin();
    assert_eq!(first.reply().status, 200);
    assert_eq!(last.reply().status, 200);
    sidecar.bmc_was_asked(["set power 1", "set reset 1"]);
}

/// A busy machine may need several attempts: a read joins a run that began at most a second ago.
#[test]
fn reads_join_a_running_read() {
    let sidecar = Sidecar::with_fake_ipmitool(&format!("sleep 0.8; {ANSWERING}")).start();
    eventually("one run answers nine clients", || {
        let earlier = sidecar.ipmitool_runs().len();
        let first = sidecar.get("/power/status").key(KEY).begin();
        sidecar.wait_for_ipmitool_runs(earlier + 1);
        let others: Vec<_> = (0..8).map(|_| sidecar.get("/power/status").key(KEY).begin()).collect();
        first.reply().expect(200, is_on());
        others.into_iter().map(Connection::reply).for_each(|reply| {
            reply.expect(200, is_on());
        });
        sidecar.ipmitool_runs().len() == earlier + 1
    });
}

#[test]
fn changes_are_made_in_the_order_of_arrival() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_millis(300))).start();
    let first = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_bmc_call("set power 1");
    let second = sidecar.post("/power/force-off").key(KEY).begin();
    sidecar.get("/health").expect(200, healthy()); // one thread reads: the earlier requests have been read
    let third = sidecar.post("/power/reset").key(KEY).begin();
    for connection in [first, second, third] {
        assert_eq!(connection.reply().status, 200);
    }
    sidecar.bmc_was_asked(["set power 1", "set power 0", "set reset 1"]);
}

#[test]
fn a_ninth_queued_change_is_refused() {
    let sidecar = Sidecar::with_fake_ipmitool(HANGING).start();
    let running = sidecar.post("/power/on").key(KEY).begin();
    sidecar.wait_for_ipmitool_runs(1);
    let waiting: Vec<_> = (0..8).map(|_| sidecar.post("/power/on").key(KEY).begin()).collect();
    sidecar.get("/health").expect(200, healthy());
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(503, "busy").within(AT_ONCE);
    assert!(reply.header("retry-after").parse::<u64>().is_ok());
    // The running change hangs until its deadline, so no queued change can start in time.
    running.reply().expect_failure(504, "outcome_unknown");
    for connection in waiting {
        connection.reply().expect_failure(503, "busy");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}
