//! What a BMC measures, with the real `ipmitool` and a BMC that knows DCMI.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{KEY, Process, Sidecar, packages, unique_address, wait_for};

const PYGHMI: &str = include_str!("../support/pyghmi.txt");

/// Below the ephemeral ports, so that no client socket has it by chance. Simulated BMCs use another one.
const PORT: u16 = 6231;

/// Python reads all of pyghmi first, for which it needs seconds on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A BMC that runs. It ends when it is dropped.
struct MeasuringBmc {
    address: SocketAddr,
    _process: Process,
}

impl MeasuringBmc {
    /// `answer` has a completion code, and what it measures: see `dcmi_bmc.py`.
    #[track_caller]
    fn answering(answer: &str) -> Self {
        let address = unique_address(PORT);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/dcmi_bmc.py");
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", packages::install("pyghmi", PYGHMI)).arg(program);
        command.args([address.ip().to_string(), address.port().to_string()]).args(answer.split(' '));
        let process = Process::spawn(&mut command);
        let ready = wait_for(START, || process.stdout.text().contains("ready").then_some(()));
        assert!(ready.is_some(), "the BMC does not start: {}", process.stderr.text());
        Self { address, _process: process }
    }

    fn sidecar(&self) -> Sidecar {
        Sidecar::with_bmc_at(self.address)
    }
}

#[test]
fn watts_are_those_of_the_bmc() {
    for (answer, expected) in [
        ("0 182 12 1940 176 activated", json!([182, 176, 12, 1940, true])),
        ("0 0 0 480 20 activated", json!([0, 20, 0, 480, true])),
        // Some BMCs say deactivated beside a true reading.
        ("0 182 12 1940 176 deactivated", json!([182, 176, 12, 1940, false])),
        ("0 0 0 0 0 deactivated", json!([null, null, null, null, false])),
    ] {
        let bmc = MeasuringBmc::answering(answer);
        let sidecar = bmc.sidecar().start();
        let reply = sidecar.get("/power/reading").key(KEY).send();
        assert_eq!(reply.status, 200, "{:?}", reply.json);
        let names = ["watts", "average_watts", "minimum_watts", "maximum_watts", "activated"];
        let told: Value = names.iter().map(|name| reply.json[*name].clone()).collect();
        assert_eq!(told, expected, "{answer}");
        let raw = reply.json["raw_output"].as_str().unwrap_or_default();
        assert!(raw.starts_with("Instantaneous power reading:"), "{raw}");
    }
}

/// And power can be switched all the same.
#[test]
fn a_bmc_that_lacks_the_measurement_is_asked_once_in_ten_minutes() {
    for code in [0xc1, 0xcc, 0xd5] {
        let bmc = MeasuringBmc::answering(&format!("{code} 0 0 0 0 deactivated"));
        let sidecar = bmc.sidecar().env("RUST_LOG", "debug").start();
        for _ in 0..3 {
            sidecar.get("/power/reading").key(KEY).expect_failure(501, "bmc_unsupported");
        }
        let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
        sidecar.get("/power/status").key(KEY).expect(200, on);
        assert_eq!(sidecar.log().matches("running ").count(), 2, "{}", sidecar.log());
    }
}

/// Completion codes c0 and c9. Neither proves that the BMC lacks the measurement.
#[test]
fn a_bmc_that_is_busy_or_refuses_is_asked_again() {
    for (completion, status, code, words) in
        [(0xc0, 502, "bmc_busy", "Node busy"), (0xc9, 409, "bmc_refused", "Parameter out of range")]
    {
        let bmc = MeasuringBmc::answering(&format!("{completion} 0 0 0 0 deactivated"));
        let sidecar = bmc.sidecar().env("RUST_LOG", "debug").start();
        for _ in 0..2 {
            sidecar.get("/power/reading").key(KEY).expect_failure(status, code).error_contains(words);
        }
        assert_eq!(sidecar.log().matches("running ").count(), 2, "{}", sidecar.log());
    }
}
