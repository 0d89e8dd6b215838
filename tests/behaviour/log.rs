//! The log: the lines of each level, and the text that no level may contain.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{KEY, Running, Sidecar, SimulatedBmc, TempDir, eventually};

/// `/health` waits for nothing, not even for the log.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// For an exit that waits for nothing, on a busy machine.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

const ON: &str = "echo 'Chassis Power is on'";

/// All lines but the first, which reports the start.
fn lines(log: &str) -> Vec<&str> {
    log.lines().skip(1).collect()
}

#[test]
fn info_has_a_line_when_a_change_is_accepted_and_one_when_it_is_answered() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
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
fn info_has_no_lines_for_probes_and_polls() {
    let sidecar = Sidecar::with_fake_ipmitool(ON).start();
    for _ in 0..5 {
        sidecar.get("/health").send();
        sidecar.get("/power/status").key(KEY).send();
        sidecar.get("/nothing").send();
    }
    // The log is read in order: when this line is there, all earlier lines are too.
    sidecar.post("/power/reset").key(KEY).send();
    sidecar.logs("power reset");
    let log = sidecar.log();
    assert!(lines(&log)[0].contains("power reset"), "{log}");
}

#[test]
fn a_repeated_failure_of_a_status_is_logged_once() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Get Auth Capabilities error' >&2; exit 1").start();
    for _ in 0..5 {
        sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unreachable");
    }
    // The log is read in order: when this line is there, all earlier lines are too.
    sidecar.post("/power/reset").key(KEY).expect_failure(502, "bmc_unreachable");
    sidecar.logs("power reset");
    let log = sidecar.log();
    let statuses = lines(&log).into_iter().filter(|line| line.contains("power status"));
    assert_eq!(statuses.filter(|line| line.starts_with("WARN ")).count(), 1, "{log}");
}

/// A BMC that answers each status, and nothing else.
#[test]
fn a_read_that_fails_beside_one_that_succeeds_is_logged_once() {
    let script = format!(r#"case "$*" in *"power status") {ON} ;; *) exit 1 ;; esac"#);
    let sidecar = Sidecar::with_fake_ipmitool(&script).start();
    for _ in 0..5 {
        sidecar.get("/chassis").key(KEY).expect_failure(502, "bmc_error");
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
    sidecar.post("/power/reset").key(KEY).send();
    sidecar.logs("power reset");
    let log = sidecar.log();
    let reads = lines(&log).into_iter().filter(|line| line.contains("status (API_KEY"));
    assert_eq!(reads.count(), 1, "{log}");
}

#[test]
fn debug_has_every_request_and_a_command_line_that_can_be_pasted() {
    let sidecar = Sidecar::with_fake_ipmitool(ON).env("RUST_LOG", "debug").start();
    sidecar.get("/health").send();
    sidecar.get("/power/status").key(KEY).send();
    let command_line = sidecar.ipmitool_runs().remove(0).arguments;
    sidecar.logs("/health").logs("/power/status").logs(&command_line);
}

#[test]
fn bytes_from_a_client_are_escaped_in_the_log() {
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
    // An attempt to forge a log line.
    sidecar.get("/x%0aINFO%20power%20off").expect_failure(404, "not_found");
    sidecar.logs("/x%0aINFO");
    let log = sidecar.log();
    assert!(log.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{log:?}");
}

/// The harness searches the log and the replies of every sidecar for secrets. This one logs at the level
/// trace and gets keys in every way.
#[test]
fn trace_contains_no_secret() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).env("RUST_LOG", "trace").start();
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

/// This many requests, each with a log line of 4 KiB, fill a pipe of 64 KiB several times.
const MANY: usize = 100;

fn long_path() -> String {
    format!("/{}", "x".repeat(7_000))
}

/// The sidecar must do all of this when its log cannot be written.
fn still_works(sidecar: &Running) {
    for _ in 0..MANY {
        sidecar.get(&long_path()).expect_failure(404, "not_found");
        sidecar.get("/health").send().within(HEALTH_LIMIT);
    }
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    assert_eq!(sidecar.post("/power/on").key(KEY).send().status, 200);
    sidecar.get("/power/status").key("wrong").expect_failure(401, "unauthorized");
    sidecar.signal(Signal::TERM).exits(0, EXIT_LIMIT);
}

const ANSWERING: &str =
    "case \"$*\" in *status) echo 'Chassis Power is on' ;; *) echo 'Chassis Power Control: Up/On' ;; esac";

fn with_debug_log() -> Sidecar {
    Sidecar::with_fake_ipmitool(ANSWERING).env("RUST_LOG", "debug")
}

#[test]
fn a_log_pipe_that_is_not_read_delays_nothing() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    still_works(&with_debug_log().start_logging_to(writer));
}

#[test]
fn a_log_pipe_without_a_reader_delays_nothing() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    still_works(&with_debug_log().start_logging_to(writer));
}

#[test]
fn a_log_on_a_full_disk_delays_nothing() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    still_works(&with_debug_log().start_logging_to(full));
}

/// journald gives a service such a socket.
#[test]
fn a_log_socket_that_is_not_read_delays_nothing() {
    let (_reader, writer) = UnixStream::pair().expect("sockets");
    still_works(&with_debug_log().start_logging_to(OwnedFd::from(writer)));
}

/// `podman run --tty` can cause this, and so can Ctrl-S. A terminal with room for one byte does not take a
/// whole line.
#[test]
fn a_log_on_a_stopped_terminal_delays_nothing() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    // The terminal writes to the pipe. It stops when the pipe is full.
    let on_a_terminal = ["sh", "-c", "exec script -qc \"$1\" /dev/null >&2", "sh"];
    let sidecar = with_debug_log().started_by(&on_a_terminal).start_logging_to(writer);
    for _ in 0..MANY {
        sidecar.get(&long_path()).expect_failure(404, "not_found");
        sidecar.get("/health").send().within(HEALTH_LIMIT);
    }
}

#[test]
fn lost_lines_are_counted_in_the_log() {
    const NOTE: &str = " lines of this log were lost";
    let (reader, writer) = io::pipe().expect("a pipe");
    let sidecar = with_debug_log().start_logging_to(writer);
    for _ in 0..MANY {
        sidecar.get(&long_path()).expect_failure(404, "not_found");
    }
    let read = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let collect = || {
            for line in BufReader::new(reader).lines() {
                read.lock().unwrap().push(line.expect("text"));
            }
        };
        scope.spawn(collect);
        let mut requests = MANY;
        eventually("the loss is logged", || {
            requests += 1;
            sidecar.get("/after").expect_failure(404, "not_found");
            read.lock().unwrap().iter().any(|line| line.ends_with(": nothing took them"))
        });
        sidecar.signal(Signal::TERM).exits(0, EXIT_LIMIT);
        eventually("the last line is read", || {
            read.lock().unwrap().last().is_some_and(|line| line == "INFO stopped")
        });
        let lines = read.lock().unwrap();
        let lost = lines.iter().filter_map(|line| line.strip_prefix("WARN ")?.split_once(NOTE));
        let lost: Vec<usize> = lost.map(|(count, _)| count.parse().expect("a number")).collect();
        let written = lines.len() - lost.len();
        // One line for the start, two for the stop.
        assert_eq!(written + lost.iter().sum::<usize>(), 1 + requests + 2, "{lost:?}");
        assert!(lost[0] > 50, "{lost:?}");
    });
}

/// Someone tries one key after the other.
#[test]
fn a_refused_key_is_logged_once_and_not_for_each_request() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).start();
    for _ in 0..50 {
        sidecar.get("/power/status").key("wrong").expect_failure(401, "unauthorized");
    }
    let lines = sidecar.log().lines().filter(|line| line.contains("unauthorized")).count();
    assert_eq!(lines, 1, "{}", sidecar.log());
}

/// As a service's `2>FILE` has it.
#[test]
fn a_log_in_a_file_is_complete_at_the_end() {
    let files = TempDir::new();
    let path = files.file("log", "");
    let log = OpenOptions::new().append(true).open(&path).expect("a file");
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).env("RUST_LOG", "debug").start_logging_to(log);
    for _ in 0..20 {
        sidecar.get("/power/status").key(KEY).send();
    }
    sidecar.signal(Signal::TERM).exits(0, Duration::from_secs(5));
    let text = fs::read_to_string(path).expect("text");
    assert_eq!(text.lines().filter(|line| line.contains("answered after")).count(), 20, "{text}");
    assert_eq!(text.lines().last(), Some("INFO stopped"));
}
