//! What `ipmitool` prints for a read, as the members of the reply. Pure.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
