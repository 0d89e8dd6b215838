//! Several servers behind one sidecar: each is reached by its name, and nothing of one BMC is shared with another.

use std::time::{Duration, Instant};

use ipmi_sidecar::command::Command;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{KEY, Running, Sidecar, SimulatedBmc, TempDir, eventually, unique_address};

const NAS_KEY: &str = "nas-only-0123456789abcdef";

/// For a reply that waits for no other BMC, on a busy machine. A request to the dead one takes 9 s.
const AT_ONCE: Duration = Duration::from_secs(3);

/// The servers `nas`, `lab-2` and `dead`, and no server without a name.
fn three_servers() -> Sidecar {
    Sidecar::unconfigured()
        .env("API_KEY", KEY)
        .login("admin", "s3cret")
        .server("nas", SimulatedBmc::off())
        .server("lab-2", SimulatedBmc::on())
        .server("dead", SimulatedBmc::dead())
        .env("ACCESS_NAS_KEY", NAS_KEY)
        .env("ACCESS_NAS_ALLOW", Command::words().join(","))
        .env("ACCESS_NAS_SERVERS", "nas")
}

fn is(state: &str) -> Value {
    json!({"success": true, "power_state": state, "raw_output": format!("Chassis Power is {state}")})
}

fn done(what: &str, command: &str) -> Value {
    json!({"success": true, "output": format!("Chassis Power Control: {what}"), "command": command})
}

#[test]
fn each_path_reaches_the_server_that_it_names() {
    let sidecar = three_servers().start();
    sidecar.get("/servers/nas/power/status").key(KEY).expect(200, is("off"));
    sidecar.get("/servers/lab-2/power/status").key(KEY).expect(200, is("on"));
    sidecar.post("/servers/nas/power/on").key(KEY).expect(200, done("Up/On", "power on"));
    sidecar.post("/servers/lab-2/power/force-off").key(KEY).expect(200, done("Down/Off", "power off"));
    sidecar.get("/servers/nas/power/status").key(KEY).expect(200, is("on"));
    sidecar.get("/servers/lab-2/power/status").key(KEY).expect(200, is("off"));
    assert_eq!(sidecar.bmc_of("nas").changes(), ["set power 1"]);
    assert_eq!(sidecar.bmc_of("lab-2").changes(), ["set power 0"]);
    sidecar.logs("INFO nas: power on (API_KEY from 127.0.0.1:").logs("INFO lab-2: power off (API_KEY from");
    sidecar.logs("BMC nas: 127.");
}

#[test]
fn a_key_learns_its_servers_and_others_learn_nothing() {
    let sidecar = three_servers().start();
    let servers = |names: &[&str]| json!({"success": true, "servers": names});
    sidecar.get("/servers").key(KEY).expect(200, servers(&["nas", "lab-2", "dead"]));
    sidecar.get("/servers").bearer(NAS_KEY).expect(200, servers(&["nas"]));
    sidecar.get("/servers").expect_failure(401, "unauthorized");
    sidecar.post("/servers").key(KEY).expect_failure(405, "method_not_allowed");
    for name in ["nas", "lab-2", "no-such", "%6eas", ""] {
        let path = format!("/servers/{name}/power/status");
        sidecar.get(&path).expect_failure(401, "unauthorized");
        sidecar.get(&path).key("wrong-0123456789abcdef").expect_failure(401, "unauthorized");
    }
}

/// Or the list of servers would tell in silence which key is right.
#[test]
fn a_guess_at_the_list_of_servers_is_in_the_log() {
    let sidecar = three_servers().start();
    sidecar.get("/servers").key("wrong-0123456789abcdef").expect_failure(401, "unauthorized");
    sidecar.logs("WARN /servers (no valid key from 127.0.0.1:");
}

#[test]
fn a_server_that_is_not_there_is_told_to_a_key_that_reaches_all() {
    let sidecar = three_servers().start();
    let unknown = |path: &str, fragment: &str| {
        let failure = sidecar.post(path).key(KEY).expect_failure(404, "unknown_server");
        failure.error_contains(fragment).error_contains("GET /servers lists the servers of a key");
    };
    unknown("/servers/NAS/power/on", "There is no such server: NAS");
    unknown("/servers/no-such/power/on", "no-such");
    unknown("/power/on", "BMC_HOST is not set, so the path must name a server");
    sidecar.get("/servers/nas/power/statu").key(KEY).expect_failure(404, "not_found");
    sidecar.get("/servers/nas").key(KEY).expect_failure(404, "not_found");
}

#[test]
fn a_limited_key_is_refused_on_every_route_of_every_other_server() {
    let sidecar = three_servers().env("BMC_HOST", "192.0.2.1").start();
    for command in Command::all() {
        for server in ["/servers/lab-2", "/servers/dead", "/servers/no-such", "/servers/NAS", ""] {
            let path = format!("{server}{}", command.path());
            let method = command.method().to_string();
            let refused = sidecar.request(&method, &path).key(NAS_KEY).expect_failure(403, "forbidden");
            let refused = refused.error_contains("this key is only for the servers nas.");
            assert!(!refused.error().contains("lab-2"), "{}", refused.error());
        }
    }
    sidecar.post("/servers/nas/power/on").key(NAS_KEY).expect(200, done("Up/On", "power on"));
    assert_eq!(sidecar.bmc_of("lab-2").calls(), Vec::<String>::new());
}

#[test]
fn a_refusal_says_which_of_the_two_lists_was_in_the_way() {
    let sidecar = three_servers().env("ACCESS_NAS_ALLOW", "status,on").start();
    let refused = |path: &str| sidecar.post(path).key(NAS_KEY).expect_failure(403, "forbidden");
    refused("/servers/nas/power/off")
        .error_contains("this key is only for status, on. Use one that allows it");
    refused("/servers/lab-2/power/on")
        .error_contains("this key is only for the servers nas. Use one for the server that you asked for");
}

#[test]
fn the_log_names_the_server_of_a_refused_request() {
    let sidecar = three_servers().start();
    sidecar.post("/servers/lab-2/power/on").key(NAS_KEY).expect_failure(403, "forbidden");
    sidecar.logs("WARN lab-2: power on (ACCESS_NAS_KEY from 127.0.0.1:");
    sidecar.post("/servers/no-such/power/on").expect_failure(401, "unauthorized");
    sidecar.logs("WARN power on (no valid key from 127.0.0.1:");
}

#[test]
fn a_server_without_a_name_stands_beside_those_with_names() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on()).server("nas", SimulatedBmc::off()).start();
    sidecar.get("/power/status").key(KEY).expect(200, is("on"));
    sidecar.get("/servers/nas/power/status").key(KEY).expect(200, is("off"));
    sidecar.get("/servers").key(KEY).expect(200, json!({"success": true, "servers": ["nas"]}));
    let checked = sidecar.run(&["check"]).exits(0);
    let firsts: Vec<_> = checked.stdout.lines().filter(|line| line.contains("Power is")).collect();
    assert_eq!(firsts, ["Chassis Power is on", "nas: Chassis Power is off"]);
}

/// 32 requests wait for the dead BMC. Meanwhile the others are as quick as before.
#[test]
fn a_dead_bmc_costs_the_others_nothing() {
    let sidecar = three_servers().server("slow", SimulatedBmc::off().slow(Duration::from_secs(2))).start();
    let waiting: Vec<_> =
        (0..32).map(|_| sidecar.get("/servers/dead/power/status").key(KEY).begin()).collect();
    let changes: Vec<_> = (0..2).map(|_| sidecar.post("/servers/dead/power/on").key(KEY).begin()).collect();
    let slow = sidecar.get("/servers/slow/power/status").key(KEY).begin();
    let (mut worst, begun) = ([Duration::ZERO; 3], Instant::now());
    while begun.elapsed() < Duration::from_secs(4) {
        let measured = [
            sidecar.get("/health").send().took,
            sidecar.get("/servers/lab-2/power/status").key(KEY).expect(200, is("on")).took,
            sidecar.post("/servers/nas/power/on").key(KEY).expect(200, done("Up/On", "power on")).took,
        ];
        worst = std::array::from_fn(|index| worst[index].max(measured[index]));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("at worst: /health {:?}, a status {:?}, a change {:?}", worst[0], worst[1], worst[2]);
    assert!(worst.iter().all(|took| *took < AT_ONCE), "{worst:?}");
    slow.reply().expect(200, is("off"));
    for connection in waiting {
        connection.reply().expect_failure(502, "bmc_unreachable");
    }
    drop(changes);
}

#[test]
fn each_server_keeps_its_share_of_the_places() {
    let script = r#"case "$*" in *-H\ 127.0.0.2\ *) exec sleep 600 ;; esac; echo 'Chassis Power is on'"#;
    let sidecar = Sidecar::with_fake_ipmitool(script)
        .without("BMC_HOST")
        .server_at("dead", ([127, 0, 0, 2], 623).into())
        .server_at("nas", ([127, 0, 0, 3], 623).into())
        .start();
    let ask = |server: &str| sidecar.get(&format!("/servers/{server}/power/status")).key(KEY);
    let mut flood: Vec<_> = (0..70).map(|_| ask("dead").begin()).collect();
    // Two servers share 64 places, of which each has 16 for itself.
    for refused in flood.split_off(48) {
        refused.reply().expect_failure(503, "busy").error_contains("for this server are waiting");
    }
    for _ in 0..20 {
        ask("nas").expect(200, is("on")).within(AT_ONCE);
    }
}

#[test]
fn a_delivery_id_and_a_cooldown_are_a_servers_own() {
    let sidecar = Sidecar::unconfigured()
        .env("API_KEY", KEY)
        .login("admin", "s3cret")
        .server("nas", SimulatedBmc::on())
        .server("lab", SimulatedBmc::on())
        .start();
    for server in ["nas", "lab"] {
        let path = format!("/servers/{server}/power/cycle");
        let cycle = || sidecar.post(&path).key(KEY).header("Idempotency-Key", "d-1");
        let first = cycle().expect(200, done("Cycle", "power cycle"));
        assert!(!first.has_header("idempotent-replayed"), "{server}");
        assert!(cycle().expect(200, done("Cycle", "power cycle")).has_header("idempotent-replayed"));
        sidecar.post(&path).key(KEY).expect_failure(409, "cooldown");
        assert_eq!(sidecar.bmc_of(server).changes().len(), 1, "{server}");
    }
}

#[test]
fn a_rotated_password_of_one_server_is_used_for_it_alone() {
    let sidecar = three_servers().mount("BMC_LAB_2_PASSWORD", "wr0ng-passw0rd").start();
    sidecar.get("/servers/nas/power/status").key(KEY).expect(200, is("off"));
    let wrong = || sidecar.get("/servers/lab-2/power/status").key(KEY).send();
    assert_eq!(wrong().code(), "bmc_bad_password");
    sidecar.remount("BMC_LAB_2_PASSWORD", "s3cret");
    eventually("the new password is used", || wrong().status == 200);
    sidecar.logs("BMC_LAB_2_PASSWORD: its file has a new value");
    sidecar.get("/servers/nas/power/status").key(KEY).expect(200, is("off"));
}

#[test]
fn each_server_has_a_folder_of_its_own_in_the_state_dir() {
    let state = TempDir::new();
    let sidecar = three_servers().env("STATE_DIR", state.path()).start();
    let deliver = |sidecar: &Running, server: &str| {
        let path = format!("/servers/{server}/power/on");
        sidecar.post(&path).key(KEY).header("Idempotency-Key", "d-1").expect(200, done("Up/On", "power on"));
    };
    deliver(&sidecar, "nas");
    let has = |file: &str| state.path().join(file).exists();
    assert!(has("nas/attempts.json") && has("lab-2/attempts.json") && !has("attempts.json"));
    let again = sidecar.run(&["check", "nas"]).exits(0);
    assert!(again.stdout.starts_with("nas: Chassis Power is on\n"), "{again:?}");
    sidecar.signal(Signal::TERM).exits(0, AT_ONCE);
}

#[test]
fn a_file_in_place_of_a_folder_is_named() {
    let state = TempDir::new();
    state.file("nas", "");
    let sidecar = three_servers().env("STATE_DIR", state.path());
    sidecar.run(&[]).exits(71).prints_error("/nas/sidecar.lock: Not a directory");
}

/// The script puts a FIFO in place of the file that is written next.
#[test]
fn a_history_that_cannot_be_written_any_more_is_named() {
    let state = TempDir::new();
    let folder = state.path().join("nas");
    let script = format!("mkfifo {}/attempts.new; echo 'Chassis Power Control: Cycle'", folder.display());
    let sidecar = Sidecar::with_fake_ipmitool(&script).without("BMC_HOST").env("STATE_DIR", state.path());
    let sidecar = sidecar.server_at("nas", unique_address(623)).start();
    sidecar.post("/servers/nas/power/cycle").key(KEY).expect(200, done("Cycle", "power cycle"));
    sidecar.logs(&format!("ERROR {}/attempts.json: noting how an attempt ended: ", folder.display()));
}

/// A sidecar gets one server more, and takes over from the one that ran before.
#[test]
fn the_folder_of_one_server_is_waited_for_beside_those_that_are_free() {
    let state = TempDir::new();
    let with = |server: &str| {
        let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'").without("BMC_HOST");
        sidecar.env("STATE_DIR", state.path()).server_at(server, unique_address(623))
    };
    let before = with("lab").start();
    std::thread::scope(|scope| {
        let after = scope.spawn(|| with("nas").server_at("lab", unique_address(623)).start());
        eventually("it waits", || state.path().join("nas/sidecar.lock").exists());
        before.signal(Signal::TERM).exits(0, AT_ONCE);
        let after = after.join().expect("it starts");
        after.get("/servers/lab/power/status").key(KEY).expect(200, is("on"));
    });
}

#[test]
fn check_asks_all_at_once_and_tells_in_the_order_of_the_list() {
    let dead = [1, 2, 3].map(|number| (format!("dead-{number}"), SimulatedBmc::dead()));
    let servers = dead.into_iter().fold(three_servers(), |servers, (name, bmc)| servers.server(&name, bmc));
    let all = servers.start();
    let checked = all.run(&["check"]).exits(1);
    let told = |name: &str, state: &str| {
        let lines = [
            format!("Chassis Power is {state}"),
            "reading: this BMC has none".into(),
            "sensors: this BMC has none".into(),
            "no faults reported".into(),
        ];
        lines.map(|line| format!("{name}: {line}\n")).concat()
    };
    assert_eq!(checked.stdout, told("nas", "off") + &told("lab-2", "on"));
    assert_eq!(checked.stderr.lines().count(), 4, "{checked:?}");
    let checked = checked.prints_error("ipmi-sidecar: BMC dead: 127.").prints_error("bmc_unreachable");
    // Four that are dead take 9 s each.
    assert!(checked.took < Duration::from_secs(30), "one after the other: {checked:?}");
    let one = all.run(&["check", "lab-2"]).exits(0);
    assert_eq!(one.stdout, told("lab-2", "on"));
    all.run(&["check", "no-such"])
        .exits(64)
        .prints_error("there is no server \"no-such\": expected one that");
}

#[test]
fn sixteen_servers_cost_no_thread_until_they_are_asked() {
    let with = |servers: usize| {
        let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'").without("BMC_HOST");
        let address = unique_address(623);
        (0..servers).fold(sidecar, |sidecar, index| sidecar.server_at(&format!("s{index}"), address)).start()
    };
    let [one, sixteen] = [1, 16].map(|servers| with(servers).resources());
    assert_eq!(one.threads, sixteen.threads);
    let sidecar = with(16);
    for server in 0..16 {
        sidecar.get(&format!("/servers/s{server}/power/status")).key(KEY).expect(200, is("on"));
    }
}
