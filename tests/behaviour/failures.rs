//! The replies when the BMC, the network or the configuration fails, mostly with the real `ipmitool`.

use std::time::Duration;

use serde_json::json;

use crate::support::{KEY, Sidecar, SimulatedBmc, eventually, has_ended};

/// Home Assistant hangs up after 10 s and never sees a later reply.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn a_wrong_password_is_reported() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).login("admin", "wr0ng-passw0rd").start();
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_bad_password").error_contains("BMC_PASSWORD");
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    sidecar.bmc_was_never_asked();
}

#[test]
fn an_unknown_user_is_reported() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).login("nobody", "s3cret").start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unknown_user").error_contains("BMC_USER");
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_unknown_user").bmc_was_never_asked();
}

/// Many BMCs lock an account after a few failed logins, and a poller repeats its request without end.
#[test]
fn a_rejected_login_is_not_tried_again_at_once() {
    let sidecar = Sidecar::with_fake_ipmitool("echo '> RAKP 2 HMAC is invalid' >&2; exit 1").start();
    let first = sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    assert!(!first.has_header("retry-after"), "the first login was tried");
    for _ in 0..3 {
        let reply = sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
        let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
        sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_bad_password");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn a_new_password_in_the_file_is_tried_at_once() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).file("BMC_PASSWORD", "wr0ng-passw0rd\n").start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    sidecar.file("BMC_PASSWORD", "s3cret\n");
    eventually("the new password is used", || sidecar.get("/power/status").key(KEY).send().status == 200);
}

/// The password is right.
#[test]
fn a_kg_key_that_does_not_fit_is_reported() {
    let keyed = || SimulatedBmc::on().kg_key("\"sesame-kg-key\"");
    for (bmc, key) in [(keyed(), "another-kg-key"), (keyed(), ""), (SimulatedBmc::on(), "sesame-kg-key")] {
        let sidecar = Sidecar::with_bmc(bmc).env("BMC_KG_KEY", key).env("RUST_LOG", "trace").start();
        let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_bad_kg_key");
        reply.error_contains("BMC_KG_KEY").bmc_was_never_asked();
        // It is not tried again at once: each try may leave a session open on the BMC.
        let reply = sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_kg_key");
        assert_ne!(reply.header("retry-after"), "");
    }
    let wrong = Sidecar::with_bmc(keyed()).env("BMC_KG_KEY", "another-kg-key").run(&["check"]).exits(1);
    wrong.prints_error("bmc_bad_kg_key");
}

#[test]
fn a_kg_key_is_given_as_text_or_in_hexadecimal() {
    let digits = "f10203040506070809080b0c0d0e0fff";
    let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    for (bmc, key) in [
        ("\"sesame-kg-key\"", "sesame-kg-key"),
        ("\"sesame-kg-key\"", "0x736573616d652d6b672d6b6579"),
        (digits, &format!("0x{digits}")),
        (digits, &format!("{digits}00000000")),
    ] {
        let bmc = SimulatedBmc::on().kg_key(bmc);
        let sidecar = Sidecar::with_bmc(bmc).env("BMC_KG_KEY", key).env("RUST_LOG", "trace").start();
        sidecar.get("/power/status").key(KEY).expect(200, on.clone());
    }
}

/// It is no error to repeat, and power works all the same.
#[test]
fn a_command_that_the_bmc_lacks_is_unsupported() {
    let lacks_identify = "case \"$*\" in
        *identify*) echo 'Set Chassis Identify failed: Invalid command' >&2; exit 1 ;;
        *) echo 'Chassis Power Control: Up/On' ;;
        esac";
    let sidecar = Sidecar::with_fake_ipmitool(lacks_identify).start();
    let reply = sidecar.post("/identify/on").key(KEY).expect_failure(501, "bmc_unsupported");
    reply.error_contains("Invalid command").error_contains("Do not repeat it");
    assert_eq!(sidecar.post("/power/on").key(KEY).send().status, 200);
}

#[test]
fn a_status_of_a_dead_bmc_is_unreachable() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    let reply =
        sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unreachable").within(CLIENT_TIMEOUT);
    reply
        .error_contains("IPMI over LAN is enabled")
        .error_contains("UDP")
        .error_contains("623")
        .error_contains("this node");
}

#[test]
fn a_change_on_a_dead_bmc_is_unreachable() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_unreachable").within(CLIENT_TIMEOUT);
}

#[test]
fn a_host_name_that_does_not_resolve_is_unreachable() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("BMC_HOST", "no-such-bmc.invalid").start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unreachable").error_contains("BMC_HOST");
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_unreachable").bmc_was_never_asked();
}

#[test]
fn a_cipher_suite_that_the_bmc_lacks_is_reported() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("BMC_CIPHER_SUITE", "17").start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_cipher_suite");
    reply.error_contains("BMC_CIPHER_SUITE").error_contains("17").error_contains("3");
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_cipher_suite");
    sidecar.bmc_was_never_asked();
}

#[test]
fn a_user_who_may_only_read_cannot_change_anything() {
    let sidecar =
        Sidecar::with_bmc(SimulatedBmc::off()).login("viewer", "viewpw").env("BMC_PRIVILEGE", "USER").start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_privilege");
    reply.error_contains("OPERATOR").error_contains("BMC_PRIVILEGE").bmc_was_never_asked();
}

#[test]
fn an_error_of_the_bmc_is_in_the_reply() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().refusing()).start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_error");
    reply.error_contains("Unspecified error").bmc_was_asked(["set power 1"]);
    // A read still works.
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
}

/// `ipmitool` ends with exit code 0 all the same.
#[test]
fn a_boot_device_that_the_bmc_refuses_is_no_success() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().refusing()).start();
    let reply = sidecar.post("/boot/pxe").key(KEY).expect_failure(502, "bmc_error");
    reply.error_contains("Unspecified error").bmc_was_asked(["set boot pxe"]);
}

#[test]
fn a_boot_device_that_the_bmc_never_confirms_has_an_unknown_outcome() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().never_confirming()).start();
    let reply =
        sidecar.post("/boot/pxe").key(KEY).expect_failure(504, "outcome_unknown").within(CLIENT_TIMEOUT);
    reply.bmc_was_asked(["set boot pxe"]);
}

#[test]
fn a_change_on_a_slow_bmc_is_sent_once() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().slow(Duration::from_secs(3))).start();
    sidecar
        .post("/power/on")
        .key(KEY)
        .expect(
            200,
            json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}),
        )
        .bmc_was_asked(["set power 1"]);
}

#[test]
fn a_status_of_a_slow_bmc_is_read() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on().slow(Duration::from_secs(3))).start();
    let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    sidecar.get("/power/status").key(KEY).expect(200, on).within(CLIENT_TIMEOUT);
}

#[test]
fn a_change_without_a_reply_from_the_bmc_is_sent_once_and_has_an_unknown_outcome() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off().never_confirming()).start();
    let reply =
        sidecar.post("/power/on").key(KEY).expect_failure(504, "outcome_unknown").within(CLIENT_TIMEOUT);
    reply.error_contains("power status").bmc_was_asked(["set power 1"]);
    let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    sidecar.get("/power/status").key(KEY).expect(200, on);
}

#[test]
fn a_command_that_the_bmc_refuses_is_reported() {
    let sidecar = Sidecar::with_fake_ipmitool(
        "echo 'Set Chassis Power Control to Cycle failed: Command not supported in present state' >&2; exit 1",
    )
    .start();
    let reply = sidecar.post("/power/cycle").key(KEY).expect_failure(409, "bmc_refused");
    reply.error_contains("not supported in present state");
}

#[test]
fn an_ipmitool_that_was_removed_after_the_start_is_reported() {
    let sidecar = Sidecar::with_fake_ipmitool(r#"rm "$0"; echo 'Chassis Power is on'"#).start();
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    sidecar.get("/power/status").key(KEY).expect_failure(500, "ipmitool_missing").error_contains("IPMITOOL");
}

/// A start script with `trap '' CHLD` makes the program inherit an ignored SIGCHLD. The kernel then drops
/// exit codes.
#[test]
fn the_exit_code_of_ipmitool_is_known_when_the_parent_ignores_sigchld() {
    let sidecar = Sidecar::with_fake_ipmitool("echo boom >&2; exit 3")
        .started_by(&["env", "--ignore-signal=CHLD"])
        .start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_error").error_contains("boom");
}

#[test]
fn only_the_success_line_is_success() {
    for (output, code) in [
        ("", "bmc_error"),
        ("Chassis Power is", "bmc_error"),
        ("Chassis Power is on and on", "bmc_error"),
        ("the lights are on", "bmc_error"),
    ] {
        let sidecar = Sidecar::with_fake_ipmitool(&format!("echo '{output}'")).start();
        sidecar.get("/power/status").key(KEY).expect_failure(502, code);
    }
}

/// `ipmitool` prints the success line first. A SIGINT or a lost Close Session can change its exit code
/// afterwards.
#[test]
fn the_success_line_decides_and_not_the_exit_code() {
    let body = "echo 'Chassis Power Control: Up/On'; echo 'Close Session command failed' >&2; exit 1";
    let sidecar = Sidecar::with_fake_ipmitool(body).start();
    sidecar.post("/power/on").key(KEY).expect(
        200,
        json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}),
    );
}

#[test]
fn a_run_is_killed_at_the_deadline() {
    let sidecar =
        Sidecar::with_fake_ipmitool("trap '' INT; exec sleep 600").env("REQUEST_TIMEOUT", "7").start();
    // The deadline of 7 s, and a margin for a busy machine.
    let limit = Duration::from_secs(7 + 2);
    sidecar.get("/power/status").key(KEY).expect_failure(504, "bmc_timeout").within(limit);
    let runs = sidecar.ipmitool_runs();
    assert!(has_ended(runs[0].pid), "{runs:?}");
}

/// `ipmitool` prints these lines only after the login. Before them, it cannot have sent the command.
#[test]
fn a_change_that_is_killed_after_the_login_has_an_unknown_outcome() {
    let lines =
        ["Running Get VSO Capabilities my_addr 0x20, transit 0, target 0x20", "Discovered IPMB address 0x0"];
    let sidecars = lines.map(|line| {
        let body = format!("echo '{line}' >&2; exec sleep 600");
        Sidecar::with_fake_ipmitool(&body).env("REQUEST_TIMEOUT", "7").start()
    });
    let connections = sidecars.each_ref().map(|sidecar| {
        (sidecar.post("/power/on").key(KEY).begin(), sidecar.get("/power/status").key(KEY).begin())
    });
    for (change, status) in connections {
        change.reply().expect_failure(504, "outcome_unknown");
        status.reply().expect_failure(504, "bmc_timeout");
    }
    for sidecar in sidecars {
        assert_eq!(sidecar.ipmitool_runs().len(), 2);
    }
}

#[test]
fn a_change_without_a_confirmation_has_an_unknown_outcome() {
    let body = "echo 'Discovered IPMB address 0x0\nUnable to set Chassis Power Control to Reset' >&2; exit 1";
    let sidecar = Sidecar::with_fake_ipmitool(body).start();
    sidecar.post("/power/reset").key(KEY).expect_failure(504, "outcome_unknown");
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn ipmitool_gets_two_variables_and_no_secret_in_its_arguments() {
    let sidecar = Sidecar::with_fake_ipmitool(r#"env >"$0.env"; echo 'Chassis Power is on'"#)
        .login("admin", "pw-8d2f61")
        .env("HOME", "/nonexistent")
        .env("KUBERNETES_PORT", "tcp://10.0.0.1:443")
        .start();
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    let run = &sidecar.ipmitool_runs()[0];
    assert!(!run.arguments.contains("pw-8d2f61") && !run.arguments.contains(KEY), "{run:?}");
    assert!(run.arguments.contains("-I lanplus") && run.arguments.contains(" -E "), "{run:?}");
    let environment = sidecar.ipmitool_environment();
    assert_eq!(environment, ["IPMITOOL_PASSWORD=pw-8d2f61", "LC_ALL=C"]);
}
