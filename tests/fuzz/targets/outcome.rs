//! What an `ipmitool` may print: success only by a whole line, and a read never reports a change.

#![no_main]
#![allow(dead_code, unused_imports, reason = "a target uses a part of each file")]

#[path = "../../../src/secret.rs"]
mod secret;
#[path = "../../../src/http.rs"]
mod http;
#[path = "../../../src/ipmi.rs"]
mod ipmi;
#[path = "../../../src/exec.rs"]
mod exec;
#[path = "../../../src/auth.rs"]
mod auth;
#[path = "../../../src/ipmitool.rs"]
mod ipmitool;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use exec::{End, Outcome, Output};
use ipmi::{Change, Command, Read};
use ipmitool::{Answer, Failure, read_outcome};
use libfuzzer_sys::fuzz_target;

const COMMANDS: [Command; 6] = [
    Command::Read(Read::PowerStatus),
    Command::Change(Change::PowerOn),
    Command::Change(Change::PowerSoft),
    Command::Change(Change::PowerOff),
    Command::Change(Change::PowerCycle),
    Command::Change(Change::PowerReset),
];

fuzz_target!(|input: (u8, bool, i32, &[u8], &[u8])| {
    let (choice, truncated, status, stdout, stderr) = input;
    let command = COMMANDS[usize::from(choice) % COMMANDS.len()];
    let end = if choice < 128 { End::Exited(ExitStatus::from_raw(status)) } else { End::Stopped };
    let outcome = Outcome {
        stdout: Output { bytes: stdout.to_vec(), truncated },
        stderr: Output { bytes: stderr.to_vec(), truncated },
        end,
    };
    let result = read_outcome(command, &outcome);
    match (command, &result) {
        (Command::Read(_), Ok(answer @ Answer::Status(_))) | (Command::Change(_), Ok(answer @ Answer::Done(_))) => {
            let text = String::from_utf8_lossy(stdout);
            assert!(text.lines().any(|line| line == answer.line()));
        }
        (_, Ok(answer)) => panic!("{command:?} cannot have {answer:?}"),
        (Command::Read(_), Err(failure)) => assert_ne!(*failure, Failure::OutcomeUnknown),
        (Command::Change(_), Err(_)) => {}
    }
    if let Err(failure) = result {
        assert!(failure.detail().is_none_or(|said| !said.chars().any(char::is_control)));
    }
});
