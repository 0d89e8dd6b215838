//! Versions of `ipmitool`, and installations that are damaged.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{KEY, Sidecar, SimulatedBmc, TempDir, require};

const ID: &str = "Idempotency-Key";

/// A start that waits for an `ipmitool` that hangs.
const START: Duration = Duration::from_secs(8);

fn with_version(version: &str, body: &str) -> Sidecar {
    Sidecar::with_fake_ipmitool(":").ipmitool_of_version(version, body)
}

/// 1.8.16 to 1.8.18 print nothing before a session is up. So their silence does not mean that a change was sent.
#[test]
fn a_change_that_an_older_ipmitool_never_sent_is_not_remembered() {
    let sidecar =
        with_version("echo ipmitool version 1.8.18", "exec sleep 600").env("REQUEST_TIMEOUT", "7").start();
    for _ in 0..2 {
        let cycle = sidecar.post("/power/cycle").key(KEY).header(ID, "d-1");
        cycle.expect_failure(502, "bmc_unreachable");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

#[test]
fn a_change_that_an_older_ipmitool_sent_is_unknown() {
    let unconfirmed = "echo 'Discovered IPMB address 0x0' >&2; exec sleep 600";
    let sidecar =
        with_version("echo ipmitool version 1.8.18", unconfirmed).env("REQUEST_TIMEOUT", "7").start();
    for _ in 0..2 {
        sidecar.post("/power/cycle").key(KEY).header(ID, "d-1").expect_failure(504, "outcome_unknown");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn an_ipmitool_that_hides_what_was_sent_stops_the_start() {
    for version in ["1.8.15", "1.8.13"] {
        let sidecar = with_version(&format!("echo ipmitool version {version}"), ":");
        let ended = sidecar.run(&[]).exits(78);
        ended
            .prints_error("ipmi-sidecar: IPMITOOL is \"")
            .prints_error(version)
            .prints_error("1.8.16 or newer");
    }
}

#[test]
fn a_version_that_was_never_tried_is_warned_of() {
    for version in ["echo ipmitool version 1.9.1", "echo 1.8.19", "exit 1", "exec sleep 600"] {
        let sidecar = with_version(version, "echo 'Chassis Power is on'").start();
        sidecar.logs("WARN ipmitool ");
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200, "{version}");
    }
    with_version("exec sleep 600", ":").run(&["check"]).within(START);
}

#[test]
fn known_versions_are_started_without_a_warning() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    assert!(!sidecar.log().contains("WARN"), "{}", sidecar.log());
}

/// As in a web server's chroot.
#[test]
fn without_dev_null_that_is_what_is_missing() {
    let script = "mount -t tmpfs none /dev && exec \"$1\"";
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).started_by(&in_own_mounts(script)).start();
    let reply = sidecar.get("/power/status").key(KEY).expect_failure(500, "internal");
    reply.error_contains("opening /dev/null: No such file or directory");
}

#[test]
fn an_empty_list_of_manufacturers_is_told_as_a_damaged_installation() {
    let list = Path::new("/usr/share/misc/enterprise-numbers.txt");
    assert!(list.exists(), "{}: install ipmitool: apt-get install ipmitool", list.display());
    let files = TempDir::new();
    let empty = files.file("empty", "");
    let script = format!("mount --bind {} {} && exec \"$1\"", empty.display(), list.display());
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).started_by(&in_own_mounts(&script)).start();
    let reply = sidecar.get("/power/status").key(KEY).expect_failure(500, "ipmitool_missing");
    reply.error_contains("enterprise-numbers.txt");
}

/// Starts the program by a script in mounts of its own, which needs a user namespace where the tests do not run as root.
#[track_caller]
fn in_own_mounts(script: &str) -> Vec<&str> {
    let user: &[&str] = &["--user", "--map-root-user"];
    let works = |options: &&[&str]| {
        let mount = ["--mount", "mount", "-t", "tmpfs", "none", "/mnt"];
        let probe = Command::new(require("unshare")).args(options.iter().chain(&mount)).output();
        probe.is_ok_and(|output| output.status.success())
    };
    let options = [&[][..], user].into_iter().find(works).expect("root or user namespaces");
    [&["unshare"], options, &["--mount", "sh", "-c", script, "sh"]].concat()
}
