//! The log: what each level says, and what none of them may.

use crate::support::{KEY, Sidecar, SimulatedBmc};

const ON: &str = "echo 'Chassis Power is on'";

/// The lines behind the first, which tells of the start.
fn lines(log: &str) -> Vec<&str> {
    log.lines().skip(1).collect()
}

#[test]
fn info_has_each_change_when_accepted_and_when_answered() {
    let sidecar = Sidecar::beside(SimulatedBmc::off()).start();
    sidecar.post("/power/on").key(KEY).send();
    sidecar.logs("Chassis Power Control: Up/On");
    let log = sidecar.log();
    let [accepted, answered] = lines(&log)[..] else { panic!("not two lines") };
    for line in [accepted, answered] {
        for part in ["INFO ", "power on", "API_KEY", "127.0.0.1:"] {
            assert!(line.contains(part), "no {part:?} in {line:?}");
        }
    }
    assert!(answered.contains(" ms"), "{answered:?}");
}

/// Probes and polls come every few seconds, for years.
#[test]
fn info_has_no_probes_and_no_polls() {
    let sidecar = Sidecar::with_fake_ipmitool(ON).start();
    for _ in 0..5 {
        sidecar.get("/health").send();
        sidecar.get("/power/status").key(KEY).send();
        sidecar.get("/nothing").send();
    }
    // Whatever was written before this line has been read with it.
    sidecar.post("/power/reset").key(KEY).send();
    sidecar.logs("power reset");
    let log = sidecar.log();
    assert!(lines(&log)[0].contains("power reset"), "{log}");
}

#[test]
fn a_status_failure_that_repeats_itself_is_told_once() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Get Auth Capabilities error' >&2; exit 1").start();
    for _ in 0..5 {
        sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unreachable");
    }
    // Whatever was written before this line has been read with it.
    sidecar.post("/power/reset").key(KEY).expect_failure(502, "bmc_unreachable");
    sidecar.logs("power reset");
    let log = sidecar.log();
    let told = lines(&log).into_iter().filter(|line| line.contains("power status"));
    assert_eq!(told.filter(|line| line.starts_with("WARN ")).count(), 1, "{log}");
}

#[test]
fn debug_has_every_request_and_a_command_line_to_paste() {
    let sidecar = Sidecar::with_fake_ipmitool(ON).env("RUST_LOG", "debug").start();
    sidecar.get("/health").send();
    sidecar.get("/power/status").key(KEY).send();
    let command_line = sidecar.ipmitool_runs().remove(0).arguments;
    sidecar.logs("/health").logs("/power/status").logs(&command_line);
}

#[test]
fn nothing_a_client_sends_is_printed_as_it_stands() {
    let sidecar = Sidecar::with_fake_ipmitool(ON).env("RUST_LOG", "trace").start();
    for bytes in [
        &b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /health HTTP/1.1\r\nHost: a\x1b[2J\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: \x1b[2J\r\n\r\n",
        b"G\x1b[2J /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x1b[2J\r\n\r\n",
        b"GET /\xc2\x9b2J HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(sidecar.raw(bytes).status, 400);
    }
    // A forged line of the log.
    sidecar.get("/x%0aINFO%20power%20off").expect_failure(404, "not_found");
    sidecar.logs("/x%0aINFO");
    let log = sidecar.log();
    assert!(log.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{log:?}");
}

/// Every sidecar of these tests has its log and its replies searched for its secrets, by the harness; this one says
/// all it can, and is offered keys in every way.
#[test]
fn trace_tells_no_secret() {
    let sidecar = Sidecar::beside(SimulatedBmc::on()).env("RUST_LOG", "trace").start();
    let (target, wrong) = ("/power/status", "n0t-the-k3y-51c9e5aa8f");
    sidecar.get(target).key(KEY).send();
    sidecar.get(target).bearer(KEY).send();
    sidecar.get(target).basic("user", KEY).send();
    sidecar.get(target).key(wrong).send();
    sidecar.get(target).bearer(wrong).send();
    sidecar.get(target).basic("user", wrong).send();
    sidecar.get("/nothing").key(KEY).send();
    sidecar.post("/power/on").key(KEY).send();
    sidecar.logs("Up/On");
}
