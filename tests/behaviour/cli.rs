//! The subcommands, for people and for probes.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::{Sidecar, SimulatedBmc};

/// A probe has a second; the check gives up after 900 ms, and a process takes a moment to start.
const PROBE: Duration = Duration::from_millis(1_200);

/// What can be set, as the design has it.
const VARIABLES: [&str; 12] = [
    "API_KEY",
    "BMC_HOST",
    "BMC_USER",
    "BMC_PASSWORD",
    "BMC_PORT",
    "BMC_CIPHER_SUITE",
    "BMC_PRIVILEGE",
    "IPMITOOL",
    "IPMITOOL_ARGS",
    "LISTEN_ADDR",
    "REQUEST_TIMEOUT",
    "RUST_LOG",
];

#[test]
fn healthcheck_is_well_beside_a_sidecar_that_serves() {
    let sidecar = Sidecar::beside(SimulatedBmc::dead()).start();
    sidecar.run(&["healthcheck"]).exits(0).within(PROBE);
}

/// Those are addresses to listen on, not to ask.
#[test]
fn healthcheck_asks_loopback_when_all_addresses_are_listened_on() {
    let sidecar = Sidecar::beside(SimulatedBmc::dead()).start();
    let any = format!("0.0.0.0:{}", sidecar.address.port());
    Sidecar::unconfigured().env("LISTEN_ADDR", any).run(&["healthcheck"]).exits(0).within(PROBE);
}

#[test]
fn healthcheck_is_unwell_where_nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = Sidecar::unconfigured().env("LISTEN_ADDR", free.to_string());
    asked.run(&["healthcheck"]).exits(1).within(PROBE);
}

#[test]
fn healthcheck_is_unwell_where_nobody_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let asked = Sidecar::unconfigured().env("LISTEN_ADDR", address);
    asked.run(&["healthcheck"]).exits(1).within(PROBE);
}

#[test]
fn check_prints_the_power_state() {
    let on = Sidecar::beside(SimulatedBmc::on()).run(&["check"]).exits(0);
    assert!(on.stdout.contains("on") && !on.stdout.contains("off"), "{on:?}");
    Sidecar::beside(SimulatedBmc::off()).run(&["check"]).exits(0).prints("off");
}

#[test]
fn check_tells_the_code_and_the_remedy() {
    let wrong = Sidecar::beside(SimulatedBmc::on()).user("admin", "wr0ng-passw0rd").run(&["check"]).exits(1);
    let told = format!("{}{}", wrong.stdout, wrong.stderr);
    assert!(told.contains("bmc_bad_password") && told.contains("BMC_PASSWORD"), "{wrong:?}");
}

#[test]
fn check_validates_the_configuration_first() {
    let wrong = Sidecar::beside(SimulatedBmc::dead()).env("BMC_CIPHER_SUITE", "three");
    wrong.run(&["check"]).exits(78).says("BMC_CIPHER_SUITE");
}

#[test]
fn help_names_every_variable() {
    let help = Sidecar::unconfigured().run(&["--help"]).exits(0);
    for name in VARIABLES {
        assert!(help.stdout.contains(name), "no {name} in {}", help.stdout);
    }
    for command in ["healthcheck", "check", "--help", "--version", "_FILE"] {
        assert!(help.stdout.contains(command), "no {command} in {}", help.stdout);
    }
}

#[test]
fn version_is_that_of_the_package() {
    let version = Sidecar::unconfigured().run(&["--version"]).exits(0);
    assert_eq!(version.stdout, concat!("ipmi-sidecar ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn an_unknown_argument_is_named() {
    for arguments in [&["--frobnicate"][..], &["serve"], &["check", "--frobnicate"], &[""]] {
        let sidecar = Sidecar::beside(SimulatedBmc::dead());
        let named = arguments[arguments.len() - 1];
        let ended = sidecar.run(arguments).exits(64).says("ipmi-sidecar: ").says(named);
        assert_eq!(ended.stdout, "");
    }
}
