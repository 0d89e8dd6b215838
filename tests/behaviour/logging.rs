//! The log: what each level says, and what none of them may.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{KEY, Running, Sidecar, SimulatedBmc, eventually};

/// For what waits for nothing, on a crowded machine.
const AT_ONCE: Duration = Duration::from_secs(1);

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

/// Fills a pipe of 64 KiB many times over, a line of 4 KiB for each request.
const MANY: usize = 100;

fn long_path() -> String {
    format!("/{}", "x".repeat(7_000))
}

/// All that a sidecar must do whatever becomes of its log.
fn serves_on(sidecar: &Running) {
    for _ in 0..MANY {
        sidecar.get(&long_path()).expect_failure(404, "not_found").within(AT_ONCE);
        sidecar.get("/health").send().within(AT_ONCE);
    }
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    assert_eq!(sidecar.post("/power/on").key(KEY).send().status, 200);
    sidecar.get("/power/status").key("wrong").expect_failure(401, "unauthorized");
    sidecar.signal(Signal::TERM).exits(0, AT_ONCE);
}

const ANSWERING: &str =
    "case \"$*\" in *status) echo 'Chassis Power is on' ;; *) echo 'Chassis Power Control: Up/On' ;; esac";

fn talkative() -> Sidecar {
    Sidecar::with_fake_ipmitool(ANSWERING).env("RUST_LOG", "debug")
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    serves_on(&talkative().start_logging_to(writer));
}

#[test]
fn a_log_whose_reader_has_gone_holds_up_nothing() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    serves_on(&talkative().start_logging_to(writer));
}

#[test]
fn a_log_on_a_full_disk_holds_up_nothing() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    serves_on(&talkative().start_logging_to(full));
}

/// As journald hands it to a service.
#[test]
fn a_log_into_a_socket_that_nobody_reads_holds_up_nothing() {
    let (_reader, writer) = UnixStream::pair().expect("sockets");
    serves_on(&talkative().start_logging_to(OwnedFd::from(writer)));
}

/// As `podman run --tty` does, and a person who presses Ctrl-S. A terminal that has room for a byte takes no whole line.
#[test]
fn a_log_on_a_terminal_that_stands_still_holds_up_nothing() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    // What it prints goes to the pipe, and once that is full the terminal stands still.
    let on_a_terminal = ["sh", "-c", "exec script -qc \"$1\" /dev/null >&2", "sh"];
    let sidecar = talkative().started_by(&on_a_terminal).start_logging_to(writer);
    for _ in 0..MANY {
        sidecar.get(&long_path()).expect_failure(404, "not_found").within(AT_ONCE);
        sidecar.get("/health").send().within(AT_ONCE);
    }
}

#[test]
fn lines_that_were_lost_are_counted() {
    const NOTE: &str = " lines of this log were lost";
    let (reader, writer) = io::pipe().expect("a pipe");
    let sidecar = talkative().start_logging_to(writer);
    for _ in 0..MANY {
        sidecar.get(&long_path()).expect_failure(404, "not_found");
    }
    let heard = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let collect = || {
            for line in BufReader::new(reader).lines() {
                heard.lock().unwrap().push(line.expect("text"));
            }
        };
        scope.spawn(collect);
        let mut asked = MANY;
        eventually("the loss is told", || {
            asked += 1;
            sidecar.get("/after").expect_failure(404, "not_found");
            heard.lock().unwrap().iter().any(|line| line.ends_with(": nothing took them"))
        });
        sidecar.signal(Signal::TERM).exits(0, AT_ONCE);
        eventually("its last word is read", || {
            heard.lock().unwrap().last().is_some_and(|line| line == "INFO stopped")
        });
        let lines = heard.lock().unwrap();
        let lost = lines.iter().filter_map(|line| line.strip_prefix("WARN ")?.split_once(NOTE));
        let lost: Vec<usize> = lost.map(|(count, _)| count.parse().expect("a number")).collect();
        let told = lines.len() - lost.len();
        // Of the start one line, of the end two.
        assert_eq!(told + lost.iter().sum::<usize>(), 1 + asked + 2, "{lost:?}");
        assert!(lost[0] > 50, "{lost:?}");
    });
}
