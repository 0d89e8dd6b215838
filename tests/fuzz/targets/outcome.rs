//! Any output of `ipmitool`: only a whole line or a whole table is a success, and a read never reports a change.

#![no_main]

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use ipmi_sidecar::bmc::outcome::read_outcome;
use ipmi_sidecar::bmc::version::Version;
use ipmi_sidecar::command::Command;
use ipmi_sidecar::failure::Code;
use ipmi_sidecar::process::{End, Outcome, Output};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, i32, &[u8], &[u8])| {
    let (choice, truncated, status, stdout, stderr) = input;
    let commands: Vec<_> = Command::all().collect();
    let command = commands[usize::from(choice) % commands.len()];
    let end = if choice < 128 { End::Exited(ExitStatus::from_raw(status)) } else { End::Stopped };
    let outcome = Outcome {
        stdout: Output { bytes: stdout.to_vec(), truncated },
        stderr: Output { bytes: stderr.to_vec(), truncated },
        end,
        took: Duration::from_secs(5),
    };
    let version = if truncated { Version::Quiet } else { Version::Telling };
    match read_outcome(command, &outcome, version) {
        Ok(answer) => {
            let text = String::from_utf8_lossy(stdout);
            let is_table = !command.is_change() && command != Command::POWER_STATUS;
            assert!(is_table || text.lines().any(|line| line == answer.line), "{command:?}: {answer:?}");
            assert!(!answer.line.chars().any(char::is_control), "{command:?}: {answer:?}");
        }
        Err(failure) => {
            assert!(command.is_change() || failure.code() != Code::OutcomeUnknown, "{failure:?}");
            assert!(failure.detail().is_none_or(|detail| !detail.chars().any(char::is_control)));
        }
    }
});
