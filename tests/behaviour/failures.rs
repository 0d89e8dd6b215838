//! What a reply says when the BMC, the network or the configuration fails, with the real `ipmitool`.

use std::time::Duration;

use serde_json::json;

use crate::support::{KEY, Sidecar, SimulatedBmc, eventually, is_gone};

/// Home Assistant hangs up then; an answer it never sees is no answer.
const TOO_LATE: Duration = Duration::from_secs(10);

#[test]
fn a_wrong_password_is_named() {
    let sidecar = Sidecar::beside(SimulatedBmc::off()).user("admin", "wr0ng-passw0rd").start();
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_bad_password").error_names("BMC_PASSWORD");
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    sidecar.bmc_was_left_alone();
}

#[test]
fn an_unknown_user_is_named() {
    let sidecar = Sidecar::beside(SimulatedBmc::off()).user("nobody", "s3cret").start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unknown_user").error_names("BMC_USER");
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_unknown_user").bmc_was_left_alone();
}

/// Many BMCs lock an account after a few failures, and a poller never stops.
#[test]
fn a_rejected_login_is_not_tried_again_at_once() {
    let sidecar = Sidecar::with_fake_ipmitool("echo '> RAKP 2 HMAC is invalid' >&2; exit 1").start();
    let first = sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    assert!(!first.has_header("retry-after"), "the first was tried");
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
    let sidecar = Sidecar::beside(SimulatedBmc::on()).file("BMC_PASSWORD", "wr0ng-passw0rd\n").start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    sidecar.file("BMC_PASSWORD", "s3cret\n");
    eventually("the new password counts", || sidecar.get("/power/status").key(KEY).send().status == 200);
}

#[test]
fn a_dead_bmc_is_unreachable_for_a_status() {
    let sidecar = Sidecar::beside(SimulatedBmc::dead()).start();
    let reply = sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unreachable").within(TOO_LATE);
    reply
        .error_names("IPMI over LAN is enabled")
        .error_names("UDP")
        .error_names("623")
        .error_names("this node");
}

#[test]
fn a_dead_bmc_is_unreachable_for_a_change() {
    let sidecar = Sidecar::beside(SimulatedBmc::dead()).start();
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_unreachable").within(TOO_LATE);
}

#[test]
fn a_host_name_that_does_not_resolve_is_unreachable() {
    let sidecar = Sidecar::beside(SimulatedBmc::off()).env("BMC_HOST", "no-such-bmc.invalid").start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_unreachable").error_names("BMC_HOST");
    sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_unreachable").bmc_was_left_alone();
}

#[test]
fn a_cipher_suite_the_bmc_lacks_is_named() {
    let sidecar = Sidecar::beside(SimulatedBmc::off()).env("BMC_CIPHER_SUITE", "17").start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_cipher_suite");
    reply.error_names("BMC_CIPHER_SUITE").error_names("17").error_names("3");
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_cipher_suite");
    sidecar.bmc_was_left_alone();
}

#[test]
fn a_user_who_may_only_look_cannot_act() {
    let sidecar =
        Sidecar::beside(SimulatedBmc::off()).user("viewer", "viewpw").env("BMC_PRIVILEGE", "USER").start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_privilege");
    reply.error_names("OPERATOR").error_names("BMC_PRIVILEGE").bmc_was_left_alone();
}

#[test]
fn an_error_of_the_bmc_is_passed_on() {
    let sidecar = Sidecar::beside(SimulatedBmc::off().refusing()).start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(502, "bmc_error");
    reply.error_names("Unspecified error").bmc_was_asked(["set power 1"]);
    // It still answers what it can.
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
}

#[test]
fn a_slow_bmc_is_asked_once_and_waited_for() {
    let sidecar = Sidecar::beside(SimulatedBmc::off().slow(Duration::from_secs(3))).start();
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
fn a_slow_bmc_still_tells_its_status() {
    let sidecar = Sidecar::beside(SimulatedBmc::on().slow(Duration::from_secs(3))).start();
    let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    sidecar.get("/power/status").key(KEY).expect(200, on).within(TOO_LATE);
}

#[test]
fn a_change_that_is_never_confirmed_is_sent_once_and_may_have_happened() {
    let sidecar = Sidecar::beside(SimulatedBmc::off().never_confirming()).start();
    let reply = sidecar.post("/power/on").key(KEY).expect_failure(504, "outcome_unknown").within(TOO_LATE);
    reply.error_names("power status").bmc_was_asked(["set power 1"]);
    let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    sidecar.get("/power/status").key(KEY).expect(200, on);
}

#[test]
fn a_command_that_the_bmc_declines_is_refused() {
    let sidecar = Sidecar::with_fake_ipmitool(
        "echo 'Set Chassis Power Control to Cycle failed: Command not supported in present state' >&2; exit 1",
    )
    .start();
    let reply = sidecar.post("/power/cycle").key(KEY).expect_failure(409, "bmc_refused");
    reply.error_names("not supported in present state");
}

#[test]
fn a_tool_that_has_gone_since_the_start_is_missing() {
    let sidecar = Sidecar::with_fake_ipmitool(r#"rm "$0"; echo 'Chassis Power is on'"#).start();
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    sidecar.get("/power/status").key(KEY).expect_failure(500, "ipmitool_missing").error_names("IPMITOOL");
}

/// As `trap '' CHLD` in the script that starts us leaves it: the system then keeps no exit code for anybody.
#[test]
fn how_the_tool_ended_is_known_even_where_sigchld_is_ignored() {
    let sidecar = Sidecar::with_fake_ipmitool("echo boom >&2; exit 3")
        .started_by(&["env", "--ignore-signal=CHLD"])
        .start();
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_error").error_names("boom");
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

/// SIGINT and a lost Close Session come after the line that decides.
#[test]
fn the_success_line_outweighs_the_exit_code() {
    let body = "echo 'Chassis Power Control: Up/On'; echo 'Close Session command failed' >&2; exit 1";
    let sidecar = Sidecar::with_fake_ipmitool(body).start();
    sidecar.post("/power/on").key(KEY).expect(
        200,
        json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}),
    );
}

#[test]
fn a_run_is_stopped_in_time_and_leaves_nobody() {
    let sidecar =
        Sidecar::with_fake_ipmitool("trap '' INT; exec sleep 600").env("REQUEST_TIMEOUT", "7").start();
    let limit = Duration::from_millis(7_500);
    sidecar.get("/power/status").key(KEY).expect_failure(504, "bmc_timeout").within(limit);
    let runs = sidecar.ipmitool_runs();
    assert!(is_gone(runs[0].pid), "{runs:?}");
}

/// Those lines come only once a session is up; before them nothing can have been sent.
#[test]
fn a_change_cut_short_may_have_happened_once_a_session_was_up() {
    let lines =
        ["Running Get VSO Capabilities my_addr 0x20, transit 0, target 0x20", "Discovered IPMB address 0x0"];
    let sidecars = lines.map(|line| {
        let body = format!("echo '{line}' >&2; exec sleep 600");
        Sidecar::with_fake_ipmitool(&body).env("REQUEST_TIMEOUT", "7").start()
    });
    let asked = sidecars.each_ref().map(|sidecar| {
        (sidecar.post("/power/on").key(KEY).begin(), sidecar.get("/power/status").key(KEY).begin())
    });
    for (change, status) in asked {
        change.reply().expect_failure(504, "outcome_unknown");
        status.reply().expect_failure(504, "bmc_timeout");
    }
    for sidecar in sidecars {
        assert_eq!(sidecar.ipmitool_runs().len(), 2);
    }
}

#[test]
fn a_change_without_an_acknowledgement_may_have_happened() {
    let body = "echo 'Discovered IPMB address 0x0\nUnable to set Chassis Power Control to Reset' >&2; exit 1";
    let sidecar = Sidecar::with_fake_ipmitool(body).start();
    sidecar.post("/power/reset").key(KEY).expect_failure(504, "outcome_unknown");
    assert_eq!(sidecar.ipmitool_runs().len(), 1);
}

#[test]
fn a_child_gets_two_variables_and_no_secret_in_its_arguments() {
    let sidecar = Sidecar::with_fake_ipmitool(r#"env >"$0.env"; echo 'Chassis Power is on'"#)
        .user("admin", "pw-8d2f61")
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
