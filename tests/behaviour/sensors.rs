//! All sensors, with the real `ipmitool` and a simulated BMC that has forty of them.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::support::{
    KEY, Link, Loss, Reply, Running, SENSORS, Sidecar, SimulatedBmc, TIMEOUT, TempDir, eventually,
};

fn with_sensors() -> Sidecar {
    Sidecar::with_bmc(SimulatedBmc::on().with_sensors()).env("RUST_LOG", "debug")
}

#[track_caller]
fn list(sidecar: &Running) -> Vec<Value> {
    let reply = sidecar.get("/sensors").key(KEY).send();
    assert_eq!(reply.status, 200, "{:?}", reply.json);
    list_of(&reply)
}

#[track_caller]
fn list_of(reply: &Reply) -> Vec<Value> {
    reply.json["sensors"].as_array().expect("a list").clone()
}

/// The runs with these words, by the log.
fn runs(sidecar: &Running, words: &str) -> usize {
    let log = sidecar.log();
    log.lines().filter(|line| line.contains("running env") && line.contains(words)).count()
}

#[test]
fn all_sensors_come_with_their_odd_names_to_the_privilege_level_user() {
    let sidecar = with_sensors().login("viewer", "viewpw").env("BMC_PRIVILEGE", "USER").start();
    let reply = sidecar.get("/sensors").key(KEY).send();
    let sensors = list_of(&reply);
    assert_eq!(
        (sensors.len(), &reply.json["age"], &reply.json["success"]),
        (SENSORS, &json!(0), &json!(true))
    );
    let told: Vec<Value> = sensors
        .iter()
        .take(12)
        .map(|sensor| {
            ["id", "name", "type", "value", "unit", "status"].map(|name| sensor[name].clone()).into()
        })
        .collect();
    let expected = json!([
        ["moving", "Moving", "temperature", 100.0, "°C", "ok"],
        ["ghost", "Ghost", "temperature", null, null, "ns"],
        ["cpu2__temp", "CPU2, Temp", "temperature", 100.0, "°C", "ok"],
        ["q_uote", "q\"uote", "fan", 120.0, "rpm", "ok"],
        ["new_line", "new\nline", "fan", 0.0, "rpm", "Lower Non-Recoverable"],
        ["lat_n", "latén", "voltage", 100.0, "V", "ok"],
        ["sensor", "", "current", 100.0, "A", "ok"],
        ["bell___1m", "bell\u{7}\u{1b}[1m", "power", 175.0, "W", "ok"],
        ["temp", "Temp", "temperature", 101.0, "°C", "ok"],
        ["temp_2", "Temp", "temperature", 102.0, "°C", "ok"],
        ["height", "Height", "other", 100.0, "feet", "ok"],
        ["fan_12", "Fan 12", "fan", 112.0, "rpm", "ok"],
    ]);
    assert_eq!(Value::from(told), expected);
    assert!(sensors.iter().all(|sensor| sensor["entity"] == "7.1" && sensor.get("state").is_none()));
    sidecar.logs("answered after").logs("sensors: 40, without a reading: ");
}

/// A list that is younger than five seconds is given again, so each step takes as long.
#[test]
fn a_sensor_turns_critical_goes_away_and_comes_back() {
    let sidecar = with_sensors().start();
    let moving = || {
        let sensor = list(&sidecar).swap_remove(0);
        json!([sensor["name"], sensor["value"], sensor["status"]])
    };
    assert_eq!(moving(), json!(["Moving", 100.0, "ok"]));
    for (value, is_present, expected) in [
        (230, true, json!(["Moving", 230.0, "Upper Critical"])),
        (230, false, json!(["Moving", null, "ns"])),
        (100, true, json!(["Moving", 100.0, "ok"])),
    ] {
        sidecar.bmc().set_sensor(value, is_present);
        eventually(&expected.to_string(), || moving() == expected);
    }
    assert_eq!(list(&sidecar).len(), SENSORS);
}

#[test]
fn kept_definitions_give_the_same_list_and_outlive_a_restart() {
    let state = TempDir::new();
    let sidecar = with_sensors().env("STATE_DIR", state.path()).start();
    let first = list(&sidecar);
    assert_eq!((first.len(), runs(&sidecar, "sdr dump"), runs(&sidecar, "-S ")), (SENSORS, 1, 1));
    let plain = Sidecar::with_bmc_at(sidecar.bmc().address).start();
    assert_eq!(list(&plain), first);

    sidecar.signal(rustix::process::Signal::TERM).exits(0, TIMEOUT);
    let again = Sidecar::with_bmc_at(sidecar.bmc().address).env("STATE_DIR", state.path());
    let again = again.env("RUST_LOG", "debug").start();
    assert_eq!(list(&again), first);
    assert_eq!((runs(&again, "sdr dump"), runs(&again, "-S ")), (0, 1));
    drop(again);

    // Half a file gives half a list, and ipmitool does not mind.
    let file = state.path().join("sensors.sdr");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let again = Sidecar::with_bmc_at(sidecar.bmc().address).env("STATE_DIR", state.path());
    let again = again.env("RUST_LOG", "debug").start();
    assert_eq!(list(&again), first);
    assert_eq!(runs(&again, "sdr dump"), 1);
    assert_eq!(fs::read(&file).unwrap(), whole);
}

/// `ipmitool sdr elist` would erase its repository, and fill it anew.
#[test]
fn a_bmc_without_definitions_is_not_asked_for_a_list_and_switches_power_all_the_same() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("RUST_LOG", "debug").start();
    for _ in 0..3 {
        sidecar.get("/sensors").key(KEY).expect_failure(501, "bmc_unsupported");
    }
    assert_eq!((runs(&sidecar, "sdr info"), runs(&sidecar, "elist")), (1, 0));
    assert_eq!(sidecar.post("/power/on").key(KEY).send().status, 200);
    sidecar.bmc_was_asked(["set power 1"]);
}

/// Two of a hundred datagrams are lost in each direction. The list is whole or it is none.
#[test]
fn a_network_that_loses_packets_never_shortens_the_list() {
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let state = TempDir::new();
                let sidecar = with_sensors().over_relay().env("REQUEST_TIMEOUT", "18");
                // One half keeps definitions.
                let sidecar = if seed % 2 == 0 { sidecar.env("STATE_DIR", state.path()) } else { sidecar };
                let sidecar = sidecar.start();
                sidecar.set_link(Link::Lossy(Loss::of(2, seed)));
                let reply = sidecar.get("/sensors").key(KEY).send();
                match reply.status {
                    200 => assert_eq!(list_of(&reply).len(), SENSORS),
                    status => assert!([502, 503, 504].contains(&status), "{:?}", reply.json),
                }
                println!("{seed}: {} after {:?}", reply.status, reply.took);
            });
        }
    });
}

#[test]
fn a_wrong_password_is_told_as_such() {
    let sidecar = with_sensors().login("admin", "wrong-pw").start();
    sidecar.get("/sensors").key(KEY).expect_failure(502, "bmc_bad_password");
}
