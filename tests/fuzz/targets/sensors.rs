//! Any list of sensors: JSON that is valid, with ids that differ, or nothing.

#![no_main]

use std::collections::HashSet;
use std::time::Duration;

use ipmi_sidecar::sensors::{STATUSES, answer, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stdout: &[u8]| {
    let Some(sensors) = read(stdout) else { return };
    let answer = answer(&sensors, Duration::ZERO);
    assert!(!answer.line.contains(char::is_control), "{answer:?}");
    for (_, value) in &answer.members {
        // RFC 8259, 7: these must be escaped. serde_json writes the rest.
        assert!(!value.to_string().contains(|letter| letter < ' '), "{value:?}");
    }
    let ids: HashSet<_> = sensors.iter().map(|sensor| sensor.id.as_str()).collect();
    assert_eq!(ids.len(), sensors.len(), "an id stands for two sensors: {sensors:?}");
    for sensor in &sensors {
        assert!(STATUSES.contains(&sensor.status));
        assert!(sensor.value.is_none_or(f64::is_finite), "{sensor:?}");
        assert!(
            sensor.id.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
        );
    }
    // A row that was read is whole.
    assert!(sensors.is_empty() || read(&stdout[..stdout.len() - 1]).is_none());
});
