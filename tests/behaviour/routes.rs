//! The contract: the routes, the command that each one sends to the BMC, and the keys that they need.

use ipmi_sidecar::command::Command;
use serde_json::{Value, json};

use crate::support::{KEY, Sidecar, SimulatedBmc, eventually};

/// The path of each change.
fn changes() -> impl Iterator<Item = &'static str> {
    Command::all().filter(|command| command.is_change()).map(Command::path)
}

fn done(command: &str, output: &str) -> Value {
    json!({"success": true, "output": format!("Chassis Power Control: {output}"), "command": command})
}

fn state(state: &str) -> Value {
    json!({"success": true, "power_state": state, "raw_output": format!("Chassis Power is {state}")})
}

#[test]
fn health_needs_no_key_and_no_bmc() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    let healthy = json!({"status": "healthy", "service": "ipmi-sidecar"});
    sidecar.get("/health").expect(200, healthy.clone());
    sidecar.get("/health").key("wrong").expect(200, healthy);
}

#[test]
fn the_status_of_a_server_that_is_on_is_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar.get("/power/status").key(KEY).expect(200, state("on")).bmc_was_asked([]);
}

#[test]
fn the_status_of_a_server_that_is_off_is_off() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar.get("/power/status").key(KEY).expect(200, state("off")).bmc_was_asked([]);
}

#[test]
fn power_on_switches_a_server_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar.post("/power/on").key(KEY).expect(200, done("power on", "Up/On")).bmc_was_asked(["set power 1"]);
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
}

#[test]
fn power_on_is_sent_to_a_server_that_is_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar.post("/power/on").key(KEY).expect(200, done("power on", "Up/On")).bmc_was_asked(["set power 1"]);
}

#[test]
fn power_off_presses_the_button_of_a_server_that_is_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar
        .post("/power/off")
        .key(KEY)
        .expect(200, done("power soft", "Soft"))
        .bmc_was_asked(["set shutdown 1"]);
    // The button is pressed. The server is still on, since its operating system must shut it down.
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
}

#[test]
fn power_off_presses_the_button_of_a_server_that_is_off() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar
        .post("/power/off")
        .key(KEY)
        .expect(200, done("power soft", "Soft"))
        .bmc_was_asked(["set shutdown 1"]);
}

#[test]
fn force_off_cuts_the_power_of_a_server_that_is_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar
        .post("/power/force-off")
        .key(KEY)
        .expect(200, done("power off", "Down/Off"))
        .bmc_was_asked(["set power 0"]);
    sidecar.get("/power/status").key(KEY).expect(200, state("off"));
}

#[test]
fn force_off_is_sent_to_a_server_that_is_off() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar
        .post("/power/force-off")
        .key(KEY)
        .expect(200, done("power off", "Down/Off"))
        .bmc_was_asked(["set power 0"]);
}

/// The simulator cuts the power and restores it about 3 s later.
#[test]
fn cycle_switches_a_server_off_and_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar
        .post("/power/cycle")
        .key(KEY)
        .expect(200, done("power cycle", "Cycle"))
        .bmc_was_asked(["set power 0", "set power 1"]);
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
}

/// Many BMCs refuse this command when the server is off. The simulator accepts it.
#[test]
fn cycle_is_sent_to_a_server_that_is_off() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar
        .post("/power/cycle")
        .key(KEY)
        .expect(200, done("power cycle", "Cycle"))
        .bmc_was_asked(["set power 0", "set power 1"]);
}

#[test]
fn reset_resets_a_server_that_is_on() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar
        .post("/power/reset")
        .key(KEY)
        .expect(200, done("power reset", "Reset"))
        .bmc_was_asked(["set reset 1"]);
}

#[test]
fn reset_is_sent_to_a_server_that_is_off() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar
        .post("/power/reset")
        .key(KEY)
        .expect(200, done("power reset", "Reset"))
        .bmc_was_asked(["set reset 1"]);
}

#[test]
fn identify_switches_the_light_on_and_off() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on())
        .login("oper", "operpw")
        .env("BMC_PRIVILEGE", "OPERATOR")
        .start();
    for (path, command, interval) in [
        ("/identify/on", "chassis identify force", "indefinite"),
        ("/identify/off", "chassis identify 0", "off"),
    ] {
        let output = format!("Chassis identify interval: {interval}");
        let done = json!({"success": true, "output": output, "command": command});
        sidecar.post(path).key(KEY).expect(200, done);
    }
}

/// The simulated BMC calls the disk its default.
#[test]
fn boot_says_what_the_next_boot_starts_from() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off())
        .login("oper", "operpw")
        .env("BMC_PRIVILEGE", "OPERATOR")
        .start();
    for device in ["pxe", "bios", "disk", "cdrom", "none"] {
        let command = format!("chassis bootdev {device}");
        let output = format!("Set Boot Device to {device}");
        let done = json!({"success": true, "output": output, "command": command});
        sidecar.post(&format!("/boot/{device}")).key(KEY).expect(200, done);
    }
    let asked = ["set boot pxe", "set boot bios", "set boot default", "set boot cdrom", "set boot none"];
    sidecar.bmc_was_asked(asked);
}

#[test]
fn the_boot_mode_stands_behind_the_device() {
    for (mode, words) in [
        ("", "chassis bootdev pxe options=efiboot"),
        ("efi", "chassis bootdev pxe options=efiboot"),
        ("legacy", "chassis bootdev pxe"),
    ] {
        let sidecar =
            Sidecar::with_fake_ipmitool("echo 'Set Boot Device to pxe'; echo 'Chassis Power is on'")
                .env("BMC_BOOT", mode)
                .start();
        let done =
            json!({"success": true, "output": "Set Boot Device to pxe", "command": "chassis bootdev pxe"});
        sidecar.post("/boot/pxe").key(KEY).expect(200, done);
        sidecar.get("/power/status").key(KEY).expect(200, state("on"));
        let runs = sidecar.ipmitool_runs();
        assert!(runs[0].arguments.ends_with(&format!(" {words}")), "{runs:?}");
        assert!(runs[1].arguments.ends_with(" power status"), "{runs:?}");
    }
}

#[test]
fn the_chassis_tells_its_faults_to_the_privilege_level_user() {
    let sidecar =
        Sidecar::with_bmc(SimulatedBmc::on()).login("viewer", "viewpw").env("BMC_PRIVILEGE", "USER").start();
    let mut body = sidecar.get("/chassis").key(KEY).send().json.clone();
    let raw = body.remove("raw_output").expect("what ipmitool printed");
    assert!(raw.as_str().is_some_and(|raw| raw.starts_with("System Power         : on\n")), "{raw}");
    let expected = json!({
        "success": true,
        "power_state": "on",
        "power_overload": false,
        "power_fault": false,
        "main_power_fault": false,
        "power_interlock": "inactive",
        "power_restore_policy": "always-off",
        "last_power_event": "",
        "drive_fault": false,
        "cooling_fault": false,
        "chassis_intrusion": "inactive",
    });
    assert_eq!(Value::from(body), expected);
    sidecar.bmc_was_asked([]);
}

#[test]
fn a_bmc_without_dcmi_has_no_watts() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar
        .get("/power/reading")
        .key(KEY)
        .expect_failure(501, "bmc_unsupported")
        .error_contains("Invalid command")
        .bmc_was_asked([]);
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
}

#[test]
fn the_privilege_level_operator_suffices() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off())
        .login("oper", "operpw")
        .env("BMC_PRIVILEGE", "OPERATOR")
        .start();
    sidecar.post("/power/on").key(KEY).expect(200, done("power on", "Up/On")).bmc_was_asked(["set power 1"]);
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
}

#[test]
fn the_privilege_level_user_suffices_for_the_status() {
    let sidecar =
        Sidecar::with_bmc(SimulatedBmc::on()).login("viewer", "viewpw").env("BMC_PRIVILEGE", "USER").start();
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
}

#[test]
fn ipmitool_args_come_before_the_command() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'")
        .env("IPMITOOL_ARGS", "-o supermicro -B '0'")
        .start();
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
    let run = &sidecar.ipmitool_runs()[0];
    assert!(run.arguments.ends_with(" -o supermicro -B 0 power status"), "{run:?}");
}

#[test]
fn head_is_answered_like_get_without_a_body() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    for target in ["/health", "/power/status"] {
        let head = sidecar.request("HEAD", target).key(KEY).send();
        assert_eq!(head.status, 200, "{target}");
    }
    assert_eq!(sidecar.request("HEAD", "/power/status").send().status, 401);
    sidecar.bmc_was_asked([]);
}

#[test]
fn a_get_never_changes_anything() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    for target in changes() {
        sidecar
            .get(target)
            .key(KEY)
            .expect_failure(405, "method_not_allowed")
            .header_contains("allow", "POST");
        let head = sidecar.request("HEAD", target).key(KEY).send().header_contains("allow", "POST");
        assert_eq!(head.status, 405, "{target}");
    }
    sidecar.bmc_was_never_asked();
}

#[test]
fn no_other_method_changes_anything() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "BREW"] {
        for target in changes() {
            sidecar.request(method, target).key(KEY).expect_failure(405, "method_not_allowed");
        }
    }
    for target in ["/health", "/power/status"] {
        let reply = sidecar.post(target).key(KEY).expect_failure(405, "method_not_allowed");
        reply.header_contains("allow", "GET").header_contains("allow", "HEAD");
    }
    sidecar.bmc_was_never_asked();
}

#[test]
fn a_query_string_is_ignored() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar.get("/health?probe=1").expect(200, json!({"status": "healthy", "service": "ipmi-sidecar"}));
    sidecar
        .post("/power/on?command=power%20off&host=other")
        .key(KEY)
        .expect(200, done("power on", "Up/On"))
        .bmc_was_asked(["set power 1"]);
}

#[test]
fn only_the_documented_paths_exist() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    for target in
        ["/", "/power", "/power/", "/power/on/", "//power/on", "/power/soft", "/Power/On", "/power/%6fn"]
    {
        let reply = sidecar.post(target).key(KEY).expect_failure(404, "not_found");
        assert_eq!(reply.error(), format!("Endpoint not found: there is no {target}"));
    }
    sidecar.bmc_was_never_asked();
}

#[test]
fn a_body_changes_nothing() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    sidecar
        .post("/power/on")
        .key(KEY)
        .header("Content-Type", "application/json")
        .body(r#"{"command": "power off", "args": ["-H", "other"]}"#)
        .expect(200, done("power on", "Up/On"))
        .bmc_was_asked(["set power 1"]);
}

#[test]
fn a_key_may_be_sent_in_three_ways() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
    sidecar.get("/power/status").header("x-api-key", KEY).expect(200, state("on"));
    sidecar.get("/power/status").bearer(KEY).expect(200, state("on"));
    sidecar.get("/power/status").basic("homeassistant", KEY).expect(200, state("on"));
    sidecar.get("/power/status").basic("", KEY).expect(200, state("on"));
}

/// A proxy in front has an `Authorization` of its own.
#[test]
fn where_x_api_key_stands_it_decides() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).start();
    for authorization in ["Basic cHJveHk6aXRz", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "", "Negotiate"] {
        let request = sidecar.get("/power/status").key(KEY).header("Authorization", authorization);
        request.expect(200, state("on"));
    }
}

#[test]
fn a_change_needs_exactly_one_valid_key() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    let (short, long) = (&KEY[1..], format!("{KEY}x"));
    for target in changes() {
        let replies = [
            sidecar.post(target).send(),
            sidecar.post(target).key("").send(),
            sidecar.post(target).key("wrong").send(),
            sidecar.post(target).key(short).send(),
            sidecar.post(target).key(&long).send(),
            sidecar.post(target).key(&KEY.to_uppercase()).send(),
            sidecar.post(target).bearer("wrong").send(),
            sidecar.post(target).basic(KEY, "wrong").send(),
            sidecar.post(target).header("Authorization", KEY).send(),
            sidecar.post(target).header("Cookie", "X-API-Key=1").send(),
            // More than one key: refused even if one of them is right.
            sidecar.post(target).key(KEY).key(KEY).send(),
            sidecar.post(target).key("wrong").bearer(KEY).send(),
            sidecar.post(target).bearer(KEY).basic("a", KEY).send(),
        ];
        for reply in replies {
            let reply =
                reply.expect_failure(401, "unauthorized").header_contains("www-authenticate", "Bearer");
            assert_eq!(reply.error(), "Invalid or missing API key");
        }
    }
    sidecar.get("/power/status").expect_failure(401, "unauthorized");
    sidecar.bmc_was_never_asked();
}

/// A browser that gets a Basic challenge asks for the password. Later it adds the password to requests of
/// other pages.
#[test]
fn the_challenge_names_only_bearer() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::dead()).start();
    let reply = sidecar.post("/power/on").expect_failure(401, "unauthorized");
    let challenge = reply.header("www-authenticate").to_lowercase();
    assert!(challenge.starts_with("bearer") && !challenge.contains("basic"), "{challenge}");
}

#[test]
fn a_browser_request_from_another_site_is_refused() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).start();
    for site in ["cross-site", "same-site", "anything"] {
        for target in changes() {
            let request = sidecar.post(target).key(KEY).header("Sec-Fetch-Site", site);
            request.expect_failure(403, "forbidden");
        }
    }
    sidecar.bmc_was_never_asked();
    for site in ["same-origin", "none"] {
        let request = sidecar.post("/power/on").key(KEY).header("Sec-Fetch-Site", site);
        request.expect(200, done("power on", "Up/On"));
    }
    sidecar.bmc_was_asked(["set power 1", "set power 1"]);
}

#[test]
fn a_key_in_a_file_may_change() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).file("API_KEY", format!("{KEY}\n")).start();
    sidecar.get("/power/status").key(KEY).expect(200, state("on"));
    let new = "k3y-2b1f0a77c9d84e55a1d2e0c4f6b89a10";
    sidecar.file("API_KEY", new);
    eventually("the new key is accepted", || sidecar.get("/power/status").key(new).send().status == 200);
    sidecar.get("/power/status").key(KEY).expect_failure(401, "unauthorized");
}
