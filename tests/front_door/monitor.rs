//! Checks the sidecar during an attack: its replies to other clients, its memory and its threads.

use std::fs;
use std::io::{self, Write};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{KEY, Running, Sidecar, eventually};

/// `/health` waits for nothing. The kubelet gives a probe one second.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// In KiB, for the whole process: the sidecar runs with a memory limit of 16 MB. Shared pages count whole.
const MEMORY_LIMIT: u64 = 16_000_000 / 1024;

const THREAD_LIMIT: u64 = 5;

/// The time between two checks.
const PAUSE: Duration = Duration::from_millis(20);

/// Answers every command like a BMC whose server is on.
pub const ANSWERING: &str = r#"case "$*" in
*"power status") echo "Chassis Power is on" ;;
*"power on") echo "Chassis Power Control: Up/On" ;;
*"power soft") echo "Chassis Power Control: Soft" ;;
*"power off") echo "Chassis Power Control: Down/Off" ;;
*"power cycle") echo "Chassis Power Control: Cycle" ;;
*"power reset") echo "Chassis Power Control: Reset" ;;
esac"#;

pub fn sidecar() -> Sidecar {
    Sidecar::with_fake_ipmitool(ANSWERING)
}

/// Sends normal requests during an attack and measures the sidecar.
pub struct Monitor<'a> {
    sidecar: &'a Running,
    /// A launcher that reads files of `/proc` as the user of the sidecar.
    reader: &'a [&'a str],
    descriptors: usize,
    health: Duration,
    keyed: Duration,
    memory: u64,
    threads: u64,
    checks: usize,
}

impl<'a> Monitor<'a> {
    #[track_caller]
    pub fn start(sidecar: &'a Running, reader: &'a [&'a str]) -> Self {
        let mut monitor = Monitor {
            sidecar,
            reader,
            descriptors: 0,
            health: Duration::ZERO,
            keyed: Duration::ZERO,
            memory: 0,
            threads: 0,
            checks: 0,
        };
        monitor.check(200);
        monitor.descriptors = sidecar.resources().descriptors;
        monitor
    }

    /// Requests `/health`, and the power status with a key, which must have this status code.
    #[track_caller]
    pub fn check(&mut self, status: u16) {
        let begun = Instant::now();
        let healthy = json!({"status": "healthy", "service": "ipmi-sidecar"});
        self.sidecar.get("/health").expect(200, healthy);
        self.health = self.health.max(begun.elapsed());
        assert!(begun.elapsed() < HEALTH_LIMIT, "/health took {:?}", begun.elapsed());

        let begun = Instant::now();
        let reply = self.sidecar.get("/power/status").key(KEY).send();
        assert_eq!(reply.status, status, "{:?}", reply.json);
        self.keyed = self.keyed.max(begun.elapsed());

        self.memory = self.memory.max(self.number_in("status", "VmRSS:"));
        self.threads = self.threads.max(self.number_in("status", "Threads:"));
        assert!(self.memory < MEMORY_LIMIT, "{} KiB", self.memory);
        assert!(self.threads <= THREAD_LIMIT, "{} threads", self.threads);
        self.checks += 1;
    }

    /// After the attack, everything must work as before, and all descriptors must be closed.
    #[track_caller]
    pub fn finish(mut self, name: &str, connections: usize) {
        self.check(200);
        let without_key = self.runs(|arguments| !arguments.ends_with("power status"));
        let statuses = self.runs(|arguments| arguments.ends_with("power status"));
        assert_eq!(without_key, 0, "runs without a key");
        assert!(statuses <= self.checks, "{statuses} runs for {} requests", self.checks);

        let done = json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"});
        self.sidecar.post("/power/on").key(KEY).expect(200, done);
        assert_eq!(self.runs(|arguments| arguments.ends_with("power on")), 1);
        eventually("the descriptors are closed", || self.sidecar.resources().descriptors <= self.descriptors);
        self.report(name, connections, without_key);
    }

    fn runs(&self, filter: impl Fn(&str) -> bool) -> usize {
        self.sidecar.ipmitool_runs().iter().filter(|run| filter(&run.arguments)).count()
    }

    /// Prints a line of a table. It goes to standard error directly, since the test runner hides the output
    /// of a test that passes.
    fn report(&self, name: &str, connections: usize, without_key: usize) {
        static HEADING: Once = Once::new();
        let line = |cells: [&str; 7]| {
            let [name, connections, health, keyed, memory, threads, runs] = cells;
            let row = format!(
                "| {name:<46} | {connections:>11} | {health:>13} | {keyed:>14} | {memory:>11} | {threads:>7} | {runs:>16} |\n"
            );
            let _ = io::stderr().write_all(row.as_bytes());
        };
        HEADING.call_once(|| {
            line([
                "attack",
                "connections",
                "worst /health",
                "worst with key",
                "most memory",
                "threads",
                "runs without key",
            ]);
        });
        line([
            name,
            &connections.to_string(),
            &format!("{} ms", self.health.as_millis()),
            &format!("{} ms", self.keyed.as_millis()),
            &format!("{} KiB", self.memory),
            &self.threads.to_string(),
            &without_key.to_string(),
        ]);
    }

    #[track_caller]
    fn number_in(&self, file: &str, name: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.sidecar.pid().as_raw_pid());
        let text = match self.reader {
            [] => fs::read_to_string(&path).expect(&path),
            [program, arguments @ ..] => {
                let output = Command::new(program).args(arguments).args(["cat", &path]).output();
                String::from_utf8(output.expect(program).stdout).expect("text")
            }
        };
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {path}: {text}"))
    }
}

/// Runs an attack and checks the sidecar meanwhile. The attack returns the number of its connections.
#[track_caller]
pub fn under_attack(name: &str, sidecar: &Running, attack: impl FnOnce() -> usize) {
    let mut monitor = Monitor::start(sidecar, &[]);
    let is_over = AtomicBool::new(false);
    let connections = thread::scope(|scope| {
        let checks = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                monitor.check(200);
                thread::sleep(PAUSE);
            }
        });
        let stop_checks = StopChecks(&is_over);
        let connections = attack();
        drop(stop_checks);
        checks.join().expect("clients with a key are served");
        connections
    });
    monitor.finish(name, connections);
}

/// Ends the checks, also when the attack panics.
struct StopChecks<'a>(&'a AtomicBool);

impl Drop for StopChecks<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
