//! What `ipmitool` prints for a read, as the members of the reply. Pure.
//!
//! A value that the BMC did not give is `null`: it is neither 0 nor `false`.

use serde_json::Value;

/// What a command told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The line that says so, for the log.
    pub line: String,
    /// The members of the reply behind `"success":true`, in their order.
    pub members: Vec<(&'static str, Value)>,
}

/// The answer to `power status` (Get Chassis Status; IPMI 2.0, 28.2).
#[must_use]
pub fn power_status(stdout: &str) -> Option<Answer> {
    stdout.lines().find_map(|line| {
        let state = match line {
            "Chassis Power is on" => "on",
            "Chassis Power is off" => "off",
            _ => return None,
        };
        Some(Answer {
            line: line.to_owned(),
            members: vec![("power_state", state.into()), ("raw_output", line.into())],
        })
    })
}

/// Bytes of a table. `ipmitool` prints less than 1 KiB. A larger table is not what was asked for, or was cut off.
const MAX_TABLE: usize = 4096;

/// The answer to `dcmi power reading` (Get Power Reading; DCMI 1.5, 6.6.1).
#[must_use]
pub fn power_reading(stdout: &str) -> Option<Answer> {
    let table = Table::read(stdout)?;
    let activated = match table.value("Power reading state is") {
        Some("activated") => Some(true),
        Some("deactivated") => Some(false),
        _ => None,
    };
    // A BMC without a measurement says deactivated, and 0 everywhere. Some say deactivated beside true watts.
    let watts = |name| table.watts(name).filter(|watts| *watts > 0 || activated != Some(false));
    table.watts(INSTANTANEOUS)?;
    let now = watts(INSTANTANEOUS);
    Some(Answer {
        line: now.map_or_else(|| "no watts: deactivated".to_owned(), |watts| format!("{watts} W")),
        members: vec![
            ("watts", now.into()),
            ("average_watts", watts("Average power reading over sample period").into()),
            ("minimum_watts", watts("Minimum during sampling period").into()),
            ("maximum_watts", watts("Maximum during sampling period").into()),
            ("activated", activated.into()),
            ("raw_output", table.text.into()),
        ],
    })
}

const INSTANTANEOUS: &str = "Instantaneous power reading";

/// The answer to `chassis status` (Get Chassis Status; IPMI 2.0, 28.2).
#[must_use]
pub fn chassis(stdout: &str) -> Option<Answer> {
    let table = Table::read(stdout)?;
    let state = table.value("System Power").filter(|state| ["on", "off"].contains(state))?;
    let faults: Vec<_> = FAULTS.iter().copied().filter(|name| table.flag(name) == Some(true)).collect();
    Some(Answer {
        line: if faults.is_empty() {
            "no faults reported".to_owned()
        } else {
            format!("faults: {}", faults.join(", "))
        },
        members: vec![
            ("power_state", state.into()),
            ("power_overload", table.flag(OVERLOAD).into()),
            ("power_fault", table.flag(CONTROL_FAULT).into()),
            ("main_power_fault", table.flag(MAIN_FAULT).into()),
            ("power_interlock", table.value("Power Interlock").into()),
            ("power_restore_policy", table.value("Power Restore Policy").into()),
            ("last_power_event", table.value("Last Power Event").into()),
            ("drive_fault", table.flag(DRIVE_FAULT).into()),
            ("cooling_fault", table.flag(COOLING_FAULT).into()),
            ("chassis_intrusion", table.value("Chassis Intrusion").into()),
            ("raw_output", table.text.into()),
        ],
    })
}

// What is faulty, as `ipmitool` calls it.
const OVERLOAD: &str = "Power Overload";
const CONTROL_FAULT: &str = "Power Control Fault";
const MAIN_FAULT: &str = "Main Power Fault";
const DRIVE_FAULT: &str = "Drive Fault";
const COOLING_FAULT: &str = "Cooling/Fan Fault";
const FAULTS: &[&str] = &[OVERLOAD, CONTROL_FAULT, MAIN_FAULT, DRIVE_FAULT, COOLING_FAULT];

/// Lines `NAME : VALUE`.
struct Table<'a> {
    text: &'a str,
}

impl<'a> Table<'a> {
    /// `None` if it may have been cut off.
    fn read(stdout: &'a str) -> Option<Self> {
        (stdout.len() <= MAX_TABLE).then(|| Self { text: stdout.trim() })
    }

    /// `None` if the line is missing.
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.text.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
    }

    /// `None` if it says neither.
    fn flag(&self, name: &str) -> Option<bool> {
        self.value(name)?.parse().ok()
    }

    fn watts(&self, name: &str) -> Option<u32> {
        self.value(name)?.strip_suffix(" Watts")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_power_status_is_a_whole_line() {
        for (stdout, state) in [
            ("Chassis Power is on\n", Some("on")),
            ("noise\nChassis Power is off", Some("off")),
            ("Chassis Power is on fire\n", None),
            (" Chassis Power is on\n", None),
            ("", None),
        ] {
            let answer = power_status(stdout);
            assert_eq!(
                answer.as_ref().map(|answer| answer.members[0].1.as_str().unwrap()),
                state,
                "{stdout:?}"
            );
        }
    }

    /// The members without `raw_output`.
    fn members(answer: Option<Answer>) -> Option<Value> {
        answer.map(|answer| {
            answer.members.into_iter().filter(|(name, _)| *name != "raw_output").collect::<Value>()
        })
    }

    /// The layout of 1.8.19 and newer.
    const READING: &str = "
    Instantaneous power reading:                   182 Watts
    Minimum during sampling period:                 12 Watts
    Maximum during sampling period:               1940 Watts
    Average power reading over sample period:      176 Watts
    IPMI timestamp:                           11/03/26 06:41:19 UTC    Sampling period:                          00000005 Seconds.
    Power reading state is:                   activated

";

    fn reading(watts: Option<u32>, others: [Option<u32>; 3], activated: Option<bool>) -> Value {
        let [average, minimum, maximum] = others;
        json!({"watts": watts, "average_watts": average, "minimum_watts": minimum, "maximum_watts": maximum,
            "activated": activated})
    }

    #[test]
    fn watts_are_what_the_bmc_measures() {
        let others = [Some(176), Some(12), Some(1940)];
        let two_lines = READING.replace(" UTC    Sampling", " UTC\n    Sampling");
        for (stdout, expected) in [
            (READING.to_owned(), reading(Some(182), others, Some(true))),
            (two_lines, reading(Some(182), others, Some(true))),
            (READING.replace("activated", "deactivated"), reading(Some(182), others, Some(false))),
            (READING.replace("182", "0"), reading(Some(0), others, Some(true))),
            (READING.replace("activated", "odd"), reading(Some(182), others, None)),
            (INSTANTANEOUS.to_owned() + ": 7 Watts", reading(Some(7), [None; 3], None)),
        ] {
            assert_eq!(members(power_reading(&stdout)), Some(expected), "{stdout}");
        }
    }

    #[test]
    fn a_deactivated_zero_is_no_measurement() {
        let stdout = ["182", "12", "1940", "176"]
            .iter()
            .fold(READING.replace("activated", "deactivated"), |text, watts| {
                text.replace(&format!(" {watts} Watts"), " 0 Watts")
            });
        let answer = power_reading(&stdout);
        assert_eq!(answer.as_ref().map(|answer| answer.line.as_str()), Some("no watts: deactivated"));
        assert_eq!(members(answer), Some(reading(None, [None; 3], Some(false))));
    }

    /// The layout of every version.
    const CHASSIS: &str = "System Power         : on
Power Overload       : false
Power Interlock      : inactive
Main Power Fault     : false
Power Control Fault  : true
Power Restore Policy : always-off
Last Power Event     : \nChassis Intrusion    : active
Front-Panel Lockout  : inactive
Drive Fault          : false
Cooling/Fan Fault    : true
";

    #[test]
    fn the_chassis_tells_its_faults() {
        let all = json!({"power_state": "on", "power_overload": false, "power_fault": true,
            "main_power_fault": false, "power_interlock": "inactive", "power_restore_policy": "always-off",
            "last_power_event": "", "drive_fault": false, "cooling_fault": true, "chassis_intrusion": "active"});
        let answer = chassis(CHASSIS);
        let line = answer.as_ref().map(|answer| answer.line.as_str());
        assert_eq!(line, Some("faults: Power Control Fault, Cooling/Fan Fault"));
        assert_eq!(members(answer), Some(all));
        let line = chassis(&CHASSIS.replace(": true", ": false")).map(|answer| answer.line);
        assert_eq!(line.as_deref(), Some("no faults reported"));
        let none = json!({"power_state": "off", "power_overload": null, "power_fault": null,
            "main_power_fault": null, "power_interlock": null, "power_restore_policy": null,
            "last_power_event": null, "drive_fault": null, "cooling_fault": null, "chassis_intrusion": null});
        assert_eq!(members(chassis("System Power : off\nDrive Fault : maybe\n")), Some(none));
    }

    #[test]
    fn without_its_first_value_or_whole_it_is_no_answer() {
        let long = " ".repeat(MAX_TABLE);
        for (parse, good) in [(power_reading as fn(&str) -> Option<Answer>, READING), (chassis, CHASSIS)] {
            assert!(parse(good).is_some());
            assert_eq!(parse(""), None);
            assert_eq!(parse(&format!("{good}{long}")), None);
            let bad = good
                .replace("182 Watts", "-1 Watts")
                .replace("System Power         : on", "System Power: up");
            assert_eq!(parse(&bad), None);
        }
    }

    proptest! {
        #[test]
        fn any_output_gives_an_answer_or_none(stdout in "(\\PC|[\\n\\r\\t:\\x00]|System Power : on\n|Power reading state is: ){0,60}") {
            for answer in [power_reading(&stdout), chassis(&stdout), power_status(&stdout)].into_iter().flatten() {
                prop_assert!(!answer.line.chars().any(char::is_control), "{:?}", answer.line);
            }
        }
    }
}
