//! `deploy/openapi.yaml` against the real binary: schemathesis makes requests from it and judges each reply by it.
//!
//! A program of its own, which cargo runs alone: it would slow down the tests that measure the listener.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::path::Path;
use std::process::Command;

use ipmi_sidecar::command;

use support::packages::install;
use support::{KEY, Running, Sidecar, TempDir};

/// schemathesis, with its dependencies.
const SCHEMATHESIS: &str = include_str!("openapi/schemathesis.txt");

/// Systematic requests, and so many random ones for each route. They take some 10 s.
const THOROUGH: &[&str] = &["--phases", "coverage,fuzzing", "--max-examples", "10"];

/// The systematic requests alone, but not the checks that take each failure of a valid request for a mistake.
const FAILURES: &[&str] =
    &["--phases", "coverage", "--exclude-checks", "not_a_server_error,positive_data_acceptance"];

/// Shell code that answers every command of the table.
fn answering() -> String {
    let changes = command::Command::all().filter_map(|command| {
        Some(format!("*\" {}\"*) echo '{}' ;;\n", command.name(), command.success_line()?))
    });
    format!(
        r#"case "$*" in
*" power status") echo 'Chassis Power is on' ;;
*" dcmi power reading") printf '%s\n' 'Instantaneous power reading: 182 Watts' 'Power reading state is: activated' ;;
*" sdr info") echo 'Record Count : 2' ;;
*" sdr elist full") printf '%s,7.1,System Board,Fan,,,,,,,,,,,\n' 'Fan 1,900,RPM,ok' 'Fan 2,,RPM,ns' ;;
*" chassis status") printf '%s\n' 'System Power : on' 'Power Overload : false' 'Power Interlock : inactive' ;;
{}esac"#,
        changes.collect::<String>()
    )
}

/// What stands on standard error of the runs that fail, one after the other, and the code that tells it.
const FAILING: &[(&str, &str)] = &[
    ("Get Auth Capabilities error", "bmc_unreachable"),
    ("Error in open session response message : no matching cipher suite", "bmc_cipher_suite"),
    ("Error in open session response message : insufficient resources for session", "bmc_busy"),
    ("RAKP 2 message indicates an error : unauthorized role requested", "bmc_privilege"),
    ("Failed to initialize the OEM info dictionary", "ipmitool_missing"),
    ("something new", "bmc_error"),
    ("Set Chassis Identify failed: Command not supported in present state", "bmc_refused"),
    ("Set Chassis Identify failed: Invalid command", "bmc_unsupported"),
    ("Get Chassis Power Status failed: Timeout", "bmc_timeout"),
    ("Discovered IPMB address 0x0", "outcome_unknown"),
];

/// Shell code that fails in all these ways in turn, and answers in between.
fn failing() -> String {
    let lines = FAILING.iter().enumerate().map(|(index, (line, _))| format!("{index}) line='{line}' ;;\n"));
    format!(
        r#"n=$(cat "$0.count" 2>/dev/null || echo 0)
echo $((n + 1)) >"$0.count"
case $((n % {})) in
{}*) {}
exit ;;
esac
printf '%s\n' 'Loading IANA PEN Registry...' "$line" >&2
exit 1"#,
        FAILING.len() + 1,
        lines.collect::<String>(),
        answering()
    )
}

/// Runs it with all checks on every route.
#[track_caller]
fn schemathesis(sidecar: &Running, options: &[&str]) {
    schemathesis_at(sidecar, "", command::Command::all().count() + 2, options);
}

/// The same below this path, where there are so many routes.
#[track_caller]
fn schemathesis_at(sidecar: &Running, prefix: &str, routes: usize, options: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = TempDir::new();
    let mut command = Command::new("python3");
    command.args(["-m", "schemathesis.cli", "--config-file"]);
    command.arg(root.join("tests/openapi/schemathesis.toml"));
    command.arg("run").arg(root.join("deploy/openapi.yaml"));
    command.args([
        "--url",
        &format!("http://{}{prefix}", sidecar.address),
        "--header",
        &format!("X-API-Key: {KEY}"),
    ]);
    // The same seed each time: a test that fails must fail again.
    command.args(["--checks", "all", "--seed", "1", "--generation-database", "none", "--no-color"]);
    command.args(options).env("PYTHONPATH", install("schemathesis", SCHEMATHESIS)).env("NO_PROXY", "*");
    let output = command.current_dir(folder.path()).output().expect("python3: apt-get install python3");
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}");
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(status.success(), "schemathesis found something, as above, or did not run: {status} {stderr}");
    let all = command::Command::all().count() + 2;
    let tested = format!("Selected: {routes}/{all}\n  Tested: {routes}\n");
    assert!(printed.contains(&tested), "expected {tested}");
}

#[test]
fn every_reply_is_one_that_the_openapi_document_describes() {
    let sidecar = Sidecar::with_fake_ipmitool(&answering()).env("POWER_COOLDOWN", "0").start();
    schemathesis(&sidecar, THOROUGH);
}

#[test]
fn every_failure_is_one_that_the_openapi_document_describes() {
    let sidecar = Sidecar::with_fake_ipmitool(&failing()).start();
    schemathesis(&sidecar, FAILURES);
    let log = sidecar.log();
    for (_, code) in FAILING {
        assert!(log.contains(&format!(" {code}: ")), "no {code} in {log}");
    }
}

#[test]
fn the_same_routes_are_there_for_a_server_that_has_a_name() {
    let sidecar = Sidecar::with_fake_ipmitool(&answering())
        .env("POWER_COOLDOWN", "0")
        .server_at("nas", ([127, 0, 0, 2], 623).into())
        .start();
    let without = ["--exclude-path", "/health", "--exclude-path", "/servers"];
    let options: Vec<_> = ["--phases", "coverage"].into_iter().chain(without).collect();
    schemathesis_at(&sidecar, "/servers/nas", command::Command::all().count(), &options);
}
