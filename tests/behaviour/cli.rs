//! The subcommands and options.

use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Process, Sidecar, SimulatedBmc, eventually, has_ended};

/// The check gives up after 900 ms. On a busy machine, the process needs seconds to start and to end.
const PROBE: Duration = Duration::from_secs(3);

/// Variables that the help must list.
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
fn healthcheck_succeeds_when_a_sidecar_listens() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    sidecar.run(&["healthcheck"]).exits(0).within(PROBE);
}

/// A client cannot connect to such an address.
#[test]
fn healthcheck_uses_loopback_when_the_sidecar_listens_on_all_addresses() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    let any = format!("0.0.0.0:{}", sidecar.address.port());
    Sidecar::unconfigured().env("LISTEN_ADDR", any).run(&["healthcheck"]).exits(0).within(PROBE);
}

#[test]
fn healthcheck_fails_when_nothing_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let healthcheck = Sidecar::unconfigured().env("LISTEN_ADDR", free.to_string());
    healthcheck.run(&["healthcheck"]).exits(1).within(PROBE);
}

#[test]
fn healthcheck_fails_when_nothing_replies() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let healthcheck = Sidecar::unconfigured().env("LISTEN_ADDR", address);
    healthcheck.run(&["healthcheck"]).exits(1).within(PROBE);
}

/// The simulated BMC measures no watts.
#[test]
fn check_prints_a_line_of_each_read() {
    for (bmc, state) in [(SimulatedBmc::on(), "on"), (SimulatedBmc::off(), "off")] {
        let checked = Sidecar::with_bmc(bmc).run(&["check"]).exits(0);
        let expected = format!(
            "Chassis Power is {state}\nreading: this BMC has none\nsensors: this BMC has none\nno faults reported\n"
        );
        assert_eq!(checked.stdout, expected);
    }
}

#[test]
fn check_prints_watts_sensors_and_faults() {
    let broken = "case \"$*\" in
        *'power status') echo 'Chassis Power is on' ;;
        *dcmi*) echo 'Instantaneous power reading: 182 Watts' ;;
        *'sdr info') echo 'Record Count : 2' ;;
        *elist*) printf '%s,7.1,System Board,Fan,,,,,,,,,,,\n' 'Fan 1,900,RPM,ok' 'Fan 2,0,RPM,Lower Critical' ;;
        *) printf '%s\n' 'System Power : on' 'Drive Fault : true' 'Cooling/Fan Fault : true' ;;
        esac";
    let checked = Sidecar::with_fake_ipmitool(broken).run(&["check"]).exits(0);
    let checked = checked
        .prints("Chassis Power is on\n182 W\nsensors: 2, without a reading: 0, not ok: fan_2 (Lower Critical); read in ")
        .prints(" s\nfaults: Drive Fault, Cooling/Fan Fault\n");
    assert_eq!(checked.stdout.lines().count(), 4);
}

/// The power status decides. The other lines say what is wrong with them.
#[test]
fn check_succeeds_when_another_read_fails() {
    let busy = "case \"$*\" in
        *'power status') echo 'Chassis Power is on' ;;
        *dcmi*) echo 'DCMI request failed because: Node busy (c0)' >&2; exit 1 ;;
        *) echo 'System Power : on' ;;
        esac";
    let checked = Sidecar::with_fake_ipmitool(busy).run(&["check"]).exits(0);
    checked.prints("reading: bmc_busy: The BMC is busy: Node busy").prints("no faults reported");
}

/// Ctrl-C ends it, and no reading of the sensors goes on behind it.
#[test]
fn a_check_that_is_killed_takes_its_ipmitool_along() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 600").start();
    let check = Process::spawn(sidecar.command().arg("check"));
    sidecar.wait_for_ipmitool_runs(1);
    let ipmitool = sidecar.ipmitool_runs()[0].pid;
    check.signal(Signal::INT);
    eventually("ipmitool has ended", || has_ended(ipmitool));
}

#[test]
fn check_prints_the_code_and_the_remedy() {
    let wrong =
        Sidecar::with_bmc(SimulatedBmc::on()).login("admin", "wr0ng-passw0rd").run(&["check"]).exits(1);
    let output = format!("{}{}", wrong.stdout, wrong.stderr);
    assert!(output.contains("bmc_bad_password") && output.contains("BMC_PASSWORD"), "{wrong:?}");
}

#[test]
fn check_validates_the_configuration_first() {
    let wrong = Sidecar::with_bmc(SimulatedBmc::dead()).env("BMC_CIPHER_SUITE", "three");
    wrong.run(&["check"]).exits(78).prints_error("BMC_CIPHER_SUITE");
}

#[test]
fn help_lists_every_variable() {
    let help = Sidecar::unconfigured().run(&["--help"]).exits(0);
    for name in VARIABLES {
        assert!(help.stdout.contains(name), "no {name} in {}", help.stdout);
    }
    for command in ["healthcheck", "check", "--help", "--version", "_FILE"] {
        assert!(help.stdout.contains(command), "no {command} in {}", help.stdout);
    }
}

#[test]
fn version_prints_the_version_of_the_package() {
    let version = Sidecar::unconfigured().run(&["--version"]).exits(0);
    assert_eq!(version.stdout, concat!("ipmi-sidecar ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn an_unknown_argument_is_reported() {
    for arguments in [&["--frobnicate"][..], &["serve"], &["check", "--frobnicate"], &[""]] {
        let sidecar = Sidecar::with_bmc(SimulatedBmc::dead());
        let unknown = arguments[arguments.len() - 1];
        let ended = sidecar.run(arguments).exits(64).prints_error("ipmi-sidecar: ").prints_error(unknown);
        assert_eq!(ended.stdout, "");
    }
}
