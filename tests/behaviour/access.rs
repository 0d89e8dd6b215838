//! Limited keys: the commands that each key allows, and the replies to all other commands.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;

use ipmi_sidecar::command::Command;
use ipmi_sidecar::timing::GUESSES;
use serde_json::json;

use crate::support::{KEY, Sidecar, TempDir, eventually};

const STATUS_KEY: &str = "dashboard-0123456789abcdef";
const ALERTS_KEY: &str = "alerts-0123456789abcdef";

fn with_keys() -> Sidecar {
    Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'; echo 'Chassis Power Control: Cycle'")
        .env("API_KEY_STATUS", STATUS_KEY)
        .env("ACCESS_ALERTS_KEY", ALERTS_KEY)
        .env("ACCESS_ALERTS_ALLOW", "status,cycle")
}

#[test]
fn a_limited_key_allows_only_its_commands() {
    let sidecar = with_keys().start();
    for key in [KEY, STATUS_KEY, ALERTS_KEY] {
        let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
        sidecar.get("/power/status").key(key).expect(200, on);
    }
    let cycled = json!({"success": true, "output": "Chassis Power Control: Cycle", "command": "power cycle"});
    sidecar.post("/power/cycle").bearer(ALERTS_KEY).expect(200, cycled);
    let changes = || Command::all().filter(|command| command.is_change());
    for path in changes().map(Command::path) {
        let refused = sidecar.post(path).basic("dashboard", STATUS_KEY).expect_failure(403, "forbidden");
        refused.error_contains("this key is only for status");
    }
    for path in changes().filter(|command| command.word() != "cycle").map(Command::path) {
        let refused = sidecar.post(path).key(ALERTS_KEY).expect_failure(403, "forbidden");
        refused.error_contains("this key is only for status, cycle");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

#[test]
fn the_log_names_the_key_of_a_request() {
    let sidecar = with_keys().start();
    sidecar.post("/power/cycle").key(ALERTS_KEY).send();
    sidecar.logs("INFO power cycle (ACCESS_ALERTS_KEY from 127.0.0.1:");
    sidecar.post("/power/force-off").key(STATUS_KEY).send();
    sidecar.logs("forbidden: Not allowed: this key is only for status");
}

#[test]
fn a_key_without_a_list_of_commands_is_a_configuration_error() {
    let sidecar = with_keys().without("ACCESS_ALERTS_ALLOW");
    sidecar
        .run(&[])
        .exits(78)
        .prints_error("ACCESS_ALERTS_ALLOW is not set: it must say what ACCESS_ALERTS_KEY allows");
}

#[test]
fn two_equal_keys_are_a_configuration_error() {
    let sidecar = with_keys().env("API_KEY_STATUS", KEY);
    sidecar.run(&[]).exits(78).prints_error("API_KEY_STATUS is the same key as API_KEY");
}

#[test]
fn a_limited_key_can_be_rotated() {
    const NEXT: &str = "next-0123456789abcdef";
    let sidecar = with_keys().mount("ACCESS_ALERTS_KEY", ALERTS_KEY).start();
    assert_eq!(sidecar.get("/power/status").key(ALERTS_KEY).send().status, 200);
    sidecar.remount("ACCESS_ALERTS_KEY", NEXT);
    eventually("the new key is used", || sidecar.get("/power/status").key(NEXT).send().status == 200);
    sidecar.get("/power/status").key(ALERTS_KEY).expect_failure(401, "unauthorized");
}

/// A rotation can make two keys equal while the program runs. Then the key that allows fewer commands
/// decides.
#[test]
fn a_key_that_becomes_equal_to_another_allows_no_more() {
    let sidecar = with_keys().mount("API_KEY_STATUS", STATUS_KEY).start();
    sidecar.remount("API_KEY_STATUS", ALERTS_KEY);
    eventually("the new key is used", || sidecar.post("/power/cycle").key(ALERTS_KEY).send().status == 403);
}

#[test]
fn the_file_of_variables_may_contain_keys() {
    let files = TempDir::new();
    let text = format!("ACCESS_FILE_KEY={ALERTS_KEY}-2\nACCESS_FILE_ALLOW=status\n");
    let file = files.file("env", text);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a mode");
    let sidecar = with_keys().env("IPMI_SIDECAR_ENV", file).start();
    assert_eq!(sidecar.get("/power/status").key(&format!("{ALERTS_KEY}-2")).send().status, 200);
}

/// The first has a line of its own. It takes a minute, and stands in the file whose tests start first.
#[test]
fn guesses_have_a_line_a_minute() {
    let sidecar = with_keys().start();
    let guess = || drop(sidecar.get("/power/status").key("wrong").expect_failure(401, "unauthorized"));
    (0..4).for_each(|_| guess());
    sleep(GUESSES);
    guess();
    sidecar.logs("WARN 4 more requests without a valid key, from 1 addresses");
    assert_eq!(sidecar.log().matches("without a valid key").count(), 1);
}
