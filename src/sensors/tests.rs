//! Rows as `ipmitool` prints them, with what real BMCs write into them.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// The end of every threshold row: normal values, thresholds and range.
const LIMITS: &str = ",,,240.000,224.000,208.000,16.000,32.000,48.000,0.000,255.000\n";

/// The last fields of a row, behind the status.
fn row(start: &str, kind: &str) -> String {
    format!("{start},7.1,System Board,{kind},{LIMITS}")
}

fn only(stdout: impl AsRef<[u8]>) -> Sensor {
    let stdout = stdout.as_ref();
    let mut sensors = read(stdout).unwrap_or_else(|| panic!("no list: {}", String::from_utf8_lossy(stdout)));
    assert_eq!(sensors.len(), 1, "{sensors:?}");
    sensors.remove(0)
}

#[test]
fn a_row_of_each_kind_becomes_a_sensor() {
    for (start, kind, expected) in [
        ("CPU1 Temp,45,degrees C,ok", "Temperature", json!(["cpu1_temp", "temperature", 45.0, "°C", "ok"])),
        ("Margin,-28,degrees C,ok", "Temperature", json!(["margin", "temperature", -28.0, "°C", "ok"])),
        (
            "Fan 2,0,RPM,Lower Non-Recoverable",
            "Fan",
            json!(["fan_2", "fan", 0.0, "rpm", "Lower Non-Recoverable"]),
        ),
        ("Fan Zone,31.360,percent,ok", "Fan", json!(["fan_zone", "fan", 31.36, "%", "ok"])),
        (
            "12V,11.937,Volts,Upper Critical",
            "Voltage",
            json!(["12v", "voltage", 11.937, "V", "Upper Critical"]),
        ),
        ("PS1 Amps,0.400,Amps,nc", "Current", json!(["ps1_amps", "current", 0.4, "A", "nc"])),
        // The BMC's own type says nothing of watts, or the wrong thing.
        ("Pwr Consumption,175,Watts,ok", "Other", json!(["pwr_consumption", "power", 175.0, "W", "ok"])),
        ("System Level,175,Watts,ok", "Current", json!(["system_level", "power", 175.0, "W", "ok"])),
        ("Altitude,80,feet,ok", "Other", json!(["altitude", "other", 80.0, "feet", "ok"])),
        ("CPU Usage,3,unspecified,ok", "Unknown", json!(["cpu_usage", "other", 3.0, null, "ok"])),
        ("Temp+#/%.,1,degrees C,ok", "Temperature", json!(["temp_____", "temperature", 1.0, "°C", "ok"])),
    ] {
        let sensor = only(row(start, kind));
        let told = json!([sensor.id, sensor.kind, sensor.value, sensor.unit, sensor.status]);
        assert_eq!(told, expected, "{start}");
        assert_eq!((sensor.entity.as_str(), sensor.state), ("7.1", None));
    }
}

#[test]
fn a_value_that_is_not_there_is_null_and_never_zero() {
    for value in
        ["", "na", "no reading", "No Reading", "disabled", "Not Readable", "nan", "inf", "0x", "1e999"]
    {
        for unit in ["", "Volts"] {
            let sensor = only(row(&format!("Ghost,{value},{unit},ns"), "Voltage"));
            assert_eq!((sensor.value, sensor.kind, sensor.status), (None, "voltage", "ns"), "{value}");
        }
    }
    assert_eq!(only(row("Absent,0.000,degrees C,ok", "Temperature")).value, Some(0.0));
}

#[test]
fn a_sensor_with_states_has_no_value_and_tells_its_states() {
    for (line, value, state) in [
        ("PS2 Status,18h,ok,10.1,Presence detected", None, Some("Presence detected")),
        (
            "PS2 Status,18h,ok,10.1,Presence detected, Failure detected",
            None,
            Some("Presence detected, Failure detected"),
        ),
        ("PS2 Status,18h,ok,10.1,AC out-of-range, but present", None, Some("AC out-of-range, but present")),
        ("PS2 Status,18h,ok,10.1,", None, None),
        ("PS2 Status,18h,ns,10.1,No Reading", None, None),
        ("PS2 Status,12.500,percent,ok,10.1,State Asserted", Some(12.5), Some("State Asserted")),
    ] {
        let plain = only(format!("{line}\n"));
        // With thresholds but without a number, the usual end follows.
        let with_limits = only(row(line, "Power Supply"));
        for sensor in [&plain, &with_limits] {
            assert_eq!((sensor.value, sensor.state.as_deref()), (value, state), "{line}");
            assert_eq!((sensor.name.as_str(), sensor.entity.as_str()), ("PS2 Status", "10.1"), "{line}");
            assert_eq!(sensor.kind, "other");
        }
    }
    let raw = "Disc,0Ah,ok,7.1,,7.1,System Board,Temperature,,,,0xF0,0xE0,0xD0,0x10,0x20,0x30,0x00,0xFF\n";
    assert_eq!((only(raw).value, only(raw).kind), (None, "temperature"));
}

#[test]
fn a_name_may_be_anything() {
    for (name, read, id) in [
        (&b"CPU2, Temp"[..], "CPU2, Temp", "cpu2__temp"),
        (b"q\"uo'te", "q\"uo'te", "q_uo_te"),
        (b"new\nline", "new\nline", "new_line"),
        (b"\n\n\nx", "x", "x"),
        (b"lat\xe9n", "latén", "lat_n"),
        ("utf é".as_bytes(), "utf é", "utf__"),
        (b"bell\x07\x1b[31m", "bell\u{7}\u{1b}[31m", "bell___31m"),
        (b"Ambient Temp    ", "Ambient Temp", "ambient_temp"),
        (b"", "", "sensor"),
        (b"+++", "+++", "sensor"),
        (b"a,1,Volts,ok", "a,1,Volts,ok", "a_1_volts_ok"),
        (b"a,18h,ok,1.1,", "a,18h,ok,1.1,", "a_18h_ok_1_1_"),
    ] {
        let end = row(",45,degrees C,ok", "Temperature");
        let sensor = only([name, end.as_bytes()].concat());
        assert_eq!((sensor.name.as_str(), sensor.id.as_str(), sensor.value), (read, id, Some(45.0)));
        let sensor = only([name, b",18h,ok,10.1,Failure detected\n"].concat());
        assert_eq!((sensor.name.as_str(), sensor.state.as_deref()), (read, Some("Failure detected")));
    }
}

#[test]
fn names_that_repeat_are_told_apart() {
    let names = ["Temp", "Fan", "temp", "Temp 2", "TEMP", "", "?", "Temp_2"];
    let stdout: String =
        names.iter().map(|name| row(&format!("{name},1,degrees C,ok"), "Temperature")).collect();
    let ids: Vec<_> = read(stdout.as_bytes()).unwrap().into_iter().map(|sensor| sensor.id).collect();
    assert_eq!(ids, ["temp", "fan", "temp_2", "temp_2_2", "temp_3", "sensor", "sensor_2", "temp_2_3"]);
}

#[test]
fn what_is_cut_off_or_no_list_is_no_answer() {
    let good = row("Fan 1,900,RPM,ok", "Fan");
    for bad in [
        &good[..good.len() - 1],
        &good[..good.len() - 9],
        "Fan 1,900,RPM",
        "Fan 1,900,RPM,ok\n",
        "Err in cmd get sensor sdr info\n",
        "Fan 1,900,RPM,better,7.1,System Board,Fan,,,,,,,,,,,\n",
        "Fan 1,900,RPM,ok,7,System Board,Fan,,,,,,,,,,,\n",
    ] {
        assert_eq!(read(format!("{good}{bad}").as_bytes()), None, "{bad:?}");
    }
    let noise = "x".repeat(MAX_SPLIT);
    assert_eq!(read(format!("{noise}\n{good}").as_bytes()), None);
    assert_eq!(read(b""), Some(Vec::new()));
}

#[test]
fn the_reply_has_the_members_of_the_contract() {
    let stdout = row("Fan 2,0,RPM,Lower Critical", "Fan") + "PS2,18h,ok,10.1,Failure detected\n";
    let answer = answer(&read(stdout.as_bytes()).unwrap(), Duration::from_millis(12_999));
    assert_eq!(answer.line, "sensors: 2, without a reading: 0, not ok: fan_2 (Lower Critical)");
    let sensors = json!([
        {"id": "fan_2", "name": "Fan 2", "type": "fan", "value": 0.0, "unit": "rpm", "status": "Lower Critical",
            "entity": "7.1"},
        {"id": "ps2", "name": "PS2", "type": "other", "value": null, "unit": null, "status": "ok",
            "entity": "10.1", "state": "Failure detected"},
    ]);
    assert_eq!(answer.members, [("sensors", sensors), ("age", json!(12))]);
}

#[test]
fn the_line_of_the_log_is_short_and_plain_whatever_the_names_are() {
    let line = |stdout: &str| answer(&read(stdout.as_bytes()).unwrap(), Duration::ZERO).line;
    let good = row("a\n\u{7},1,degrees C,ok", "Temperature");
    assert_eq!(line(&good), "sensors: 1, without a reading: 0, not ok: none");
    let bad = row("Fan \u{1b}[31m,1,RPM,Lower Critical", "Fan");
    let told = line(&bad.repeat(9));
    assert!(told.ends_with("fan___31m_8 (Lower Critical) and 1 more") && told.is_ascii(), "{told}");
}

/// Rows, parts of rows, and bytes that BMCs should not send.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        3 => select(&[
            ",", "\n", "ok", "ns", ",7.1", "18h", ",ok,10.1,", "Lower Critical", ",45,degrees C,ok", "No Reading",
            ",7.1,System Board,Fan,,,,,,,,,,,", ",ok,7.1,System Board,Fan,,,,1,2,3,4,5,6,0x00,0xFF\n",
        ][..]).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
        1 => "\\PC{0,5}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_bytes_give_valid_json_or_no_answer(stdout in output()) {
        let Some(sensors) = read(&stdout) else { return Ok(()) };
        let answer = answer(&sensors, Duration::ZERO);
        prop_assert!(!answer.line.contains(char::is_control));
        for (_, value) in &answer.members {
            let again: Value = serde_json::from_str(&value.to_string()).unwrap();
            prop_assert_eq!(&again, value);
        }
        let mut ids: Vec<_> = sensors.iter().map(|sensor| &sensor.id).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), sensors.len(), "an id stands for two sensors");
        let is_plain = |id: &&String| id.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit());
        prop_assert!(ids.iter().all(is_plain), "{:?}", ids);
    }

    /// A row that was read is whole: its last byte is needed.
    #[test]
    fn a_list_without_its_last_byte_is_no_answer(stdout in output()) {
        if read(&stdout).is_some_and(|sensors| !sensors.is_empty()) {
            prop_assert_eq!(read(&stdout[..stdout.len() - 1]), None);
        }
    }
}
