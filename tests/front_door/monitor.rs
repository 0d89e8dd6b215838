//! What others feel of an attack while it goes on, and what it costs the sidecar.

use std::fs;
use std::io::{self, Write};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{KEY, Running, Sidecar, eventually};

/// `/health` waits for nothing: what a kubelet gives a probe.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// In KiB: of the whole process, in the build that is tested. (PSS: shared pages count in shares.)
const PSS_LIMIT: u64 = 5 * 1024;

const THREAD_LIMIT: u64 = 5;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Answers every command as a BMC that is on would.
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

/// An observer, who is also the honest caller.
pub struct Monitor<'a> {
    sidecar: &'a Running,
    /// A program that reads files of `/proc` as the sidecar's own user.
    reader: &'a [&'a str],
    descriptors: usize,
    health: Duration,
    keyed: Duration,
    pss: u64,
    threads: u64,
    looks: usize,
}

impl<'a> Monitor<'a> {
    #[track_caller]
    pub fn over(sidecar: &'a Running, reader: &'a [&'a str]) -> Self {
        let mut watch = Monitor {
            sidecar,
            reader,
            descriptors: 0,
            health: Duration::ZERO,
            keyed: Duration::ZERO,
            pss: 0,
            threads: 0,
            looks: 0,
        };
        watch.look(200);
        watch.descriptors = sidecar.resources().descriptors;
        watch
    }

    /// Asks for `/health` and, with a key, for the power status, which must have this outcome.
    #[track_caller]
    pub fn look(&mut self, status: u16) {
        let begun = Instant::now();
        let healthy = json!({"status": "healthy", "service": "ipmi-sidecar"});
        self.sidecar.get("/health").expect(200, healthy);
        self.health = self.health.max(begun.elapsed());
        assert!(begun.elapsed() < HEALTH_LIMIT, "/health took {:?}", begun.elapsed());

        let begun = Instant::now();
        let reply = self.sidecar.get("/power/status").key(KEY).send();
        assert_eq!(reply.status, status, "{:?}", reply.json);
        self.keyed = self.keyed.max(begun.elapsed());

        self.pss = self.pss.max(self.number_in("smaps_rollup", "Pss:"));
        self.threads = self.threads.max(self.number_in("status", "Threads:"));
        assert!(self.pss < PSS_LIMIT, "{} KiB", self.pss);
        assert!(self.threads <= THREAD_LIMIT, "{} threads", self.threads);
        self.looks += 1;
    }

    /// The end of an attack: everything works as before, and everything is given back.
    #[track_caller]
    pub fn conclude(mut self, name: &str, connections: usize) {
        self.look(200);
        let unasked = self.runs(|arguments| !arguments.ends_with("power status"));
        let statuses = self.runs(|arguments| arguments.ends_with("power status"));
        assert_eq!(unasked, 0, "runs that nobody with a key asked for");
        assert!(statuses <= self.looks, "{statuses} runs for {} questions", self.looks);

        let switched =
            json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"});
        self.sidecar.post("/power/on").key(KEY).expect(200, switched);
        assert_eq!(self.runs(|arguments| arguments.ends_with("power on")), 1);
        eventually("it has closed what it had open", || {
            self.sidecar.resources().descriptors <= self.descriptors
        });
        self.report(name, connections, unasked);
    }

    fn runs(&self, those: impl Fn(&str) -> bool) -> usize {
        self.sidecar.ipmitool_runs().iter().filter(|run| those(&run.arguments)).count()
    }

    /// A line of a table, past the test runner, which keeps what a passing test prints to itself.
    fn report(&self, name: &str, connections: usize, unasked: usize) {
        static HEADING: Once = Once::new();
        let line = |cells: [&str; 7]| {
            let [name, connections, health, keyed, pss, threads, runs] = cells;
            let row = format!(
                "| {name:<46} | {connections:>11} | {health:>13} | {keyed:>14} | {pss:>9} | {threads:>7} | {runs:>16} |\n"
            );
            let _ = io::stderr().write_all(row.as_bytes()); // for people
        };
        HEADING.call_once(|| {
            line([
                "attack",
                "connections",
                "worst /health",
                "worst with key",
                "most PSS",
                "threads",
                "runs without key",
            ]);
        });
        line([
            name,
            &connections.to_string(),
            &format!("{} ms", self.health.as_millis()),
            &format!("{} ms", self.keyed.as_millis()),
            &format!("{} KiB", self.pss),
            &self.threads.to_string(),
            &unasked.to_string(),
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

/// Carries out an attack that returns the number of its connections, and looks on.
#[track_caller]
pub fn under_attack(name: &str, sidecar: &Running, attack: impl FnOnce() -> usize) {
    let mut watch = Monitor::over(sidecar, &[]);
    let is_over = AtomicBool::new(false);
    let connections = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                watch.look(200);
                thread::sleep(PAUSE);
            }
        });
        let end = End(&is_over);
        let connections = attack();
        drop(end);
        watching.join().expect("whoever has a key is served");
        connections
    });
    watch.conclude(name, connections);
}

/// Ends the watching, also where the attack fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
