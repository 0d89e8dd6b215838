//! Attacks on the real binary, with a fake `ipmitool` that counts its runs.

use std::net::TcpStream;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, geteuid};

use crate::front_door::many_clients::{ManyClients, flood, send_and_reset, send_endlessly};
use crate::front_door::monitor::{Monitor, sidecar, under_attack};
use crate::support::{KEY, Running};

/// Most attacks last longer than the 5 s that a request may take. By then they hold as much as they can.
const ATTACK_TIME: Duration = Duration::from_secs(6);

/// After this time a kernel repeats a connection request without a reply (RFC 6298, 2).
const SYN_RETRY: Duration = Duration::from_secs(1);

const MEGABYTE: usize = 1_000_000;

const HALF_A_HEAD: &str = "GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: ";

/// Attacks that load the whole machine run one at a time, so that they do not disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change with this field and this `Content-Length`.
fn change(field: &str, length: &str) -> String {
    format!("POST /power/force-off HTTP/1.1\r\nHost: a\r\n{field}Content-Length: {length}\r\n\r\n")
}

fn key_field() -> String {
    format!("X-API-Key: {KEY}\r\n")
}

fn attack_with(name: &str, size: usize, first: impl Into<Vec<u8>>, repeated: impl Into<Vec<u8>>) {
    let _alone = alone();
    let sidecar = sidecar().start();
    let clients = ManyClients::new(size, sidecar.address, first, repeated);
    under_attack(name, &sidecar, || clients.run_for(ATTACK_TIME).connections);
}

#[test]
fn five_hundred_clients_that_send_a_byte_a_second() {
    attack_with("500 slow heads, a byte a second", 500, HALF_A_HEAD, "x");
}

#[test]
fn four_thousand_clients_that_send_a_byte_a_second() {
    attack_with("4,000 slow heads, a byte a second", 4_000, HALF_A_HEAD, "x");
}

#[test]
fn five_hundred_slow_bodies_without_a_key() {
    attack_with("500 slow bodies without a key", 500, change("", "5000"), "x");
}

#[test]
fn five_hundred_slow_bodies_with_a_key() {
    attack_with("500 slow bodies with a key", 500, change(&key_field(), "5000"), "x");
}

/// Many clients send the body in a packet of its own. Slow bodies of other clients must not keep it out.
#[test]
fn a_normal_body_is_read_among_many_slow_ones() {
    let sidecar = sidecar().start();
    let slow = change(&key_field(), "5000") + "x";
    let slow: Vec<_> = (0..100).map(|_| sidecar.connect().write(slow.as_bytes())).collect();
    let (head, body) = (change(&key_field(), "4"), b"1234");
    let normal = sidecar.connect().write(head.as_bytes());
    sidecar.get("/health").send(); // one thread reads: the head has been read
    assert_eq!(normal.write(body).reply().status, 200);
    drop(slow);
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn a_thousand_clients_that_never_read_their_reply() {
    attack_with("1,000 clients that never read", 1_000, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "");
}

#[test]
fn a_thousand_idle_connections() {
    attack_with("1,000 idle connections", 1_000, "", "");
}

#[test]
fn twenty_thousand_connections_as_fast_as_possible() {
    let _alone = alone();
    let sidecar = sidecar().start();
    under_attack("connect flood without data", &sidecar, || flood(sidecar.address, 20_000, 1_000));
}

/// On a busy machine, the sidecar may wait for a processor during a flood.
#[test]
fn a_client_can_connect_in_a_flood_while_the_sidecar_gets_no_processor() {
    let _alone = alone();
    let sidecar = sidecar().start();
    sidecar.signal(Signal::STOP);
    flood(sidecar.address, 3_000, 1_000);
    TcpStream::connect_timeout(&sidecar.address, SYN_RETRY).expect("room in the backlog");
    let normal = sidecar.get("/health").begin();
    sidecar.signal(Signal::CONT);
    assert_eq!(normal.reply().status, 200);
}

/// The bytes that a client can send after its reply: some are read and ignored, and the kernel buffers the
/// rest.
const MAX_TAKEN: usize = 20 * MEGABYTE;

#[test]
fn heads_without_an_end() {
    const TIMES: usize = 5;
    let _alone = alone();
    let endless: [(&str, &str, &[u8]); 4] = [
        ("request lines of 100 MB", "GET /", &b"a".repeat(64 * 1024)),
        ("header lines of 100 MB", HALF_A_HEAD, &b"a".repeat(64 * 1024)),
        ("headers without end", "GET /health HTTP/1.1\r\nHost: a\r\n", &b"X-A: b\r\n".repeat(8_000)),
        ("empty lines without end", "\r\n", &b"\r\n".repeat(32_000)),
    ];
    for (name, first, chunk) in endless {
        let sidecar = sidecar().start();
        under_attack(name, &sidecar, || {
            for _ in 0..TIMES {
                let taken = send_endlessly(sidecar.address, first.as_bytes(), chunk, 100 * MEGABYTE);
                assert!(taken < MAX_TAKEN, "{taken} bytes of {name} were taken");
            }
            TIMES
        });
    }
}

/// All buffers are full: 256 clients send the largest head without its end, and 256 send the largest head and
/// a body that streams. `prlimit --data` needs no rights, but a cgroup does. It is stricter too: it counts
/// all writable memory, used or not.
#[test]
fn full_buffers_fit_into_sixteen_megabytes() {
    let _alone = alone();
    let padded =
        |start: &str, length: usize| format!("{start}X-Padding: {}", "x".repeat(length - start.len() - 11));
    let head = format!("POST /power/on HTTP/1.1\r\nHost: a\r\n{}Content-Length: 65536\r\n", key_field());
    let whole = padded(&head, 8 * 1024 - 4) + "\r\n\r\n";
    for (name, first, repeated) in [
        ("256 heads of 8 KiB without an end, in 16 MB", padded(HALF_A_HEAD, 8 * 1024 - 1), 0),
        ("256 heads of 8 KiB with bodies, in 16 MB", whole, 8 * 1024),
    ] {
        let sidecar = sidecar().started_by(&["prlimit", "--data=16000000"]).start();
        let clients = ManyClients::new(256, sidecar.address, first, vec![b'x'; repeated]);
        under_attack(name, &sidecar, || clients.run_for(ATTACK_TIME).connections);
    }
}

#[test]
fn three_thousand_clients_that_reset_after_their_request() {
    let _alone = alone();
    let sidecar = sidecar().start();
    let requests =
        ["GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), change("", "0"), HALF_A_HEAD.to_owned()];
    under_attack("connections reset after their request", &sidecar, || {
        for request in requests.iter().cycle().take(3_000) {
            send_and_reset(sidecar.address, request.as_bytes());
        }
        3_000
    });
}

#[test]
fn a_million_pipelined_requests() {
    const REQUESTS: usize = 1_000_000;
    let _alone = alone();
    let sidecar = sidecar().start();
    let request = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let pair = [request, &change("", "0")].concat();
    let (batch, all) = (pair.repeat(1_000), REQUESTS / 2 * pair.len());
    under_attack("a million pipelined requests, unread", &sidecar, || {
        let (mut sent, mut connections) = (0, 0);
        while sent < all {
            sent += send_endlessly(sidecar.address, batch.as_bytes(), batch.as_bytes(), all - sent);
            connections += 1;
        }
        connections
    });
}

/// Request smuggling: each request contains a change with a valid key, which only a wrong parser would find.
#[test]
fn a_request_hidden_in_another_is_not_run() {
    let sidecar = sidecar().start();
    let hidden = change(&key_field(), "0");
    let length = hidden.len().to_string();
    let get = |field: &str| format!("GET /health HTTP/1.1\r\nHost: a\r\n{field}\r\n{hidden}");
    let attacks = [
        change("", &length) + &hidden,
        change("X-API-Key: wrong\r\n", "0") + &hidden,
        change(&key_field(), &(hidden.len() + 1).to_string()) + &hidden, // without its last byte
        change("", "0\r\nTransfer-Encoding: chunked") + "0\r\n\r\n" + &hidden,
        change(&key_field(), "4\r\nTransfer-Encoding: chunked") + "0\r\n\r\n" + &hidden,
        change(&key_field(), &format!("0\r\nContent-Length: {length}")) + &hidden,
        get(""),
        get(&format!("Content-Length: {length}\r\n")),
        get("Transfer-Encoding: chunked\r\n"),
        get("Upgrade: h2c\r\nConnection: Upgrade\r\n"),
        get("Content-Length: 0\r\n\r\n"),
        get("X-A: b\n\n"),
        get("X-A: b\r\r\n"),
        get("X-A: b\0\r\n"),
        format!("GET /health\r\n\r\n{hidden}"),
        format!("\r\n\r\n{hidden}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}"),
    ];
    under_attack("a request hidden in another", &sidecar, || {
        for attack in &attacks {
            sidecar.raw(attack.as_bytes()); // fails if more bytes follow the reply
        }
        attacks.len()
    });
}

/// Without a key, the sidecar neither allocates nor awaits an announced body.
#[test]
fn false_lengths() {
    let sidecar = sidecar().start();
    let lengths = [
        "100000000000000000",
        "5000",
        "-1",
        "+4",
        "4x",
        "4, 4",
        "0x10",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "4\r\nContent-Length: 4",
        "4\r\nContent-Length: 5",
        "5000\r\nTransfer-Encoding: chunked",
        "5000\r\nExpect: 100-continue",
    ];
    under_attack("bodies that are announced and never sent", &sidecar, || {
        for length in lengths.iter().cycle().take(20 * lengths.len()) {
            let reply = sidecar.raw(change("", length).as_bytes());
            assert!([400, 401].contains(&reply.status), "{length:?}: {}", reply.status);
        }
        20 * lengths.len()
    });
}

#[test]
fn three_hundred_clients_of_sixty_four_descriptors() {
    let _alone = alone();
    let sidecar = sidecar().started_by(&["prlimit", "--nofile=64"]).start();
    let clients = ManyClients::new(300, sidecar.address, HALF_A_HEAD, "x");
    under_attack("300 connections, 64 descriptors", &sidecar, || clients.run_for(ATTACK_TIME).connections);
}

#[test]
fn the_listener_recovers_when_it_had_no_descriptor_left() {
    let sidecar = sidecar().start();
    let monitor = Monitor::start(&sidecar, &[]);
    let in_use = sidecar.resources().descriptors;
    limit(&sidecar, &[], &format!("--nofile={in_use}:"));
    let waiting: Vec<_> = (0..50).map(|_| sidecar.get("/health").begin()).collect();
    sidecar.logs("accepting connections fails");
    limit(&sidecar, &[], "--nofile=1024:");
    for connection in waiting {
        assert_eq!(connection.reply().status, 200);
    }
    monitor.finish("no descriptor left for a while", 50);
}

#[test]
fn a_process_limit_fails_only_the_request() {
    // The limit does not apply to root. As root, the test becomes a user without other processes. It keeps
    // only the right to read files, which it needs for the program under test.
    const OTHER_USER: [&str; 7] = [
        "setpriv",
        "--reuid=61234",
        "--regid=61234",
        "--clear-groups",
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
        "--bounding-set=-all,+dac_override",
    ];
    let user: &[&str] = if geteuid().is_root() { &OTHER_USER } else { &[] };
    let sidecar = sidecar().started_by(user).start();
    let mut monitor = Monitor::start(&sidecar, user);
    limit(&sidecar, user, "--nproc=1:");
    for _ in 0..20 {
        monitor.check(500);
    }
    sidecar.post("/power/on").key(KEY).expect_failure(500, "internal");
    limit(&sidecar, user, "--nproc=4096:");
    monitor.finish("no process left for a while", 20);
}

/// Sets a soft limit of the running sidecar.
fn limit(sidecar: &Running, user: &[&str], limit: &str) {
    let pid = sidecar.pid().as_raw_pid().to_string();
    let words = [user, &["prlimit", "--pid", &pid, limit]].concat();
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.expect("prlimit and setpriv, of util-linux").success(), "{words:?}");
}

/// Requests that a page of another site can make a browser send (Fetch, 3.2 and 4.8; W3C Fetch Metadata),
/// with and without the key.
#[test]
fn a_page_of_another_site_changes_nothing() {
    let sidecar = sidecar().start();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let text = "Content-Type: text/plain;charset=UTF-8\r\n";
    let multipart = "Content-Type: multipart/form-data; boundary=----x\r\n";
    let mut requests = 0;
    under_attack("requests by pages of other sites", &sidecar, || {
        for change in ["on", "off", "force-off", "cycle", "reset"] {
            for site in ["cross-site", "same-site"] {
                for (mode, content) in
                    [("navigate", form), ("no-cors", text), ("cors", text), ("no-cors", multipart)]
                {
                    let fields = format!(
                        "Origin: https://page.example\r\nSec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\n{content}"
                    );
                    for (key, expected) in [("", 401), (&*key_field(), 403), (&*basic_field(), 403)] {
                        let request = format!(
                            "POST /power/{change} HTTP/1.1\r\nHost: a\r\n{fields}{key}Content-Length: 7\r\n\r\na=b&c=d"
                        );
                        assert_eq!(sidecar.raw(request.as_bytes()).status, expected, "{request}");
                        requests += 1;
                    }
                }
            }
            // The preflight of a request with a custom field is refused.
            let preflight = sidecar
                .request("OPTIONS", &format!("/power/{change}"))
                .header("Origin", "https://page.example")
                .header("Access-Control-Request-Method", "POST")
                .header("Access-Control-Request-Headers", "x-api-key")
                .send();
            assert_eq!(preflight.status, 405);
            assert!(!preflight.has_header("access-control-allow-origin"));
            // Images, links and address bars send a GET.
            assert_eq!(sidecar.get(&format!("/power/{change}")).key(KEY).send().status, 405);
            requests += 2;
        }
        requests
    });
}

/// A browser sends a stored key like this: base64 of `x:KEY`.
fn basic_field() -> String {
    "Authorization: Basic eDprM3ktYThmNWYxNjdmNDRmNDk2NGU2Yzk5OGRlZTgyNzExMGM=\r\n".to_owned()
}
