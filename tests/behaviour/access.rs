//! Keys of less power: what each one may do, and what it is told.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{KEY, Scratch, Sidecar, eventually};

const LOOK: &str = "look-0123456789abcdef";
const ALERTS: &str = "alerts-0123456789abcdef";

fn with_keys() -> Sidecar {
    Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'; echo 'Chassis Power Control: Cycle'")
        .env("API_KEY_STATUS", LOOK)
        .env("ACCESS_ALERTS_KEY", ALERTS)
        .env("ACCESS_ALERTS_ALLOW", "status,cycle")
}

#[test]
fn a_key_does_what_it_is_for_and_nothing_else() {
    let sidecar = with_keys().start();
    for key in [KEY, LOOK, ALERTS] {
        let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
        sidecar.get("/power/status").key(key).expect(200, on);
    }
    let cycled = json!({"success": true, "output": "Chassis Power Control: Cycle", "command": "power cycle"});
    sidecar.post("/power/cycle").bearer(ALERTS).expect(200, cycled);
    for path in ["/power/on", "/power/off", "/power/force-off", "/power/cycle", "/power/reset"] {
        let refused = sidecar.post(path).basic("dashboard", LOOK).expect_failure(403, "forbidden");
        refused.error_names("this key is only for status");
    }
    for path in ["/power/on", "/power/off", "/power/force-off", "/power/reset"] {
        let refused = sidecar.post(path).key(ALERTS).expect_failure(403, "forbidden");
        refused.error_names("this key is only for status, cycle");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 4);
}

#[test]
fn the_log_names_the_key_that_acted() {
    let sidecar = with_keys().start();
    sidecar.post("/power/cycle").key(ALERTS).send();
    sidecar.logs("INFO power cycle (ACCESS_ALERTS_KEY from 127.0.0.1:");
    sidecar.post("/power/force-off").key(LOOK).send();
    sidecar.logs("forbidden: Not allowed: this key is only for status");
}

#[test]
fn a_key_without_its_list_stops_the_start() {
    let sidecar = with_keys().without("ACCESS_ALERTS_ALLOW");
    sidecar
        .run(&[])
        .exits(78)
        .says("ACCESS_ALERTS_ALLOW is not set: it must say what ACCESS_ALERTS_KEY allows");
}

#[test]
fn two_equal_keys_stop_the_start() {
    let sidecar = with_keys().env("API_KEY_STATUS", KEY);
    sidecar.run(&[]).exits(78).says("API_KEY_STATUS is the same key as API_KEY");
}

#[test]
fn a_key_of_less_power_is_rotated_like_any_other() {
    const NEXT: &str = "next-0123456789abcdef";
    let sidecar = with_keys().mount("ACCESS_ALERTS_KEY", ALERTS).start();
    assert_eq!(sidecar.get("/power/status").key(ALERTS).send().status, 200);
    sidecar.remount("ACCESS_ALERTS_KEY", NEXT);
    eventually("the new key counts", || sidecar.get("/power/status").key(NEXT).send().status == 200);
    sidecar.get("/power/status").key(ALERTS).expect_failure(401, "unauthorized");
}

/// Keys can become equal while the program runs; then the narrower one counts.
#[test]
fn a_key_that_becomes_another_s_equal_gains_nothing() {
    let sidecar = with_keys().mount("API_KEY_STATUS", LOOK).start();
    sidecar.remount("API_KEY_STATUS", ALERTS);
    eventually("the new key counts", || sidecar.post("/power/cycle").key(ALERTS).send().status == 403);
}

#[test]
fn keys_may_stand_in_the_file_of_variables() {
    let files = Scratch::new();
    let text = format!("ACCESS_FILE_KEY={ALERTS}-2\nACCESS_FILE_ALLOW=status\n");
    let file = files.file("env", text);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a mode");
    let sidecar = with_keys().env("IPMI_SIDECAR_ENV", file).start();
    assert_eq!(sidecar.get("/power/status").key(&format!("{ALERTS}-2")).send().status, 200);
}
