//! What `ipmitool` printed, as an `Answer` or a `Failure`. Pure.

use std::time::Duration;

use super::version::Version;
use crate::command::Command;
use crate::failure::{Code, Failure};
use crate::process::{End, Outcome, Output};
use crate::readings::Answer;
use crate::timing::FIRST_WAIT;

/// Lines on standard error that `-v` prints only once a session is up. Before them no command was sent. The second one
/// always comes, at the last moment before the command.
const SESSION_IS_UP: [&str; 2] = ["Running Get VSO Capabilities", "Discovered IPMB address"];

/// What a line on standard error proves. `ipmitool` repeats a login by itself, with a new random number. The late answer
/// to the first try then fails its check, so that a right password looks wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    Always,
    /// Only if no reply of the login was lost before.
    CompleteLogin,
}

use Proof::{Always, CompleteLogin};

/// A reply of the login was lost.
const LOST_REPLY: &str = "> Error: no response from RAKP ";

/// Why no session came up. The first row counts of which one line on standard error has all the parts. A row has no
/// detail where its code says all.
#[rustfmt::skip] // a table
const NO_SESSION: &[(&[&str], Proof, Code, &str)] = &[
    (&["Address lookup for ", " failed"], Always, Code::BmcUnreachable, "its name cannot be resolved"),
    (&["Could not open socket"], Always, Code::BmcUnreachable, "there is no way to its address"),
    (&["Get Auth Capabilities error: "], Always, Code::BmcError, "it does not say how to log in"),
    (&["Get Auth Capabilities error"], Always, Code::BmcUnreachable, "no reply from its address"),
    // With one try, ipmitool also says so when the first reply was lost: it then asks in the older way.
    (&["does not support IPMI v2"], Always, Code::BmcUnreachable, FIRST_REPLY_LOST),
    (&["Unsupported cipher suite ID"], Always, Code::BmcCipherSuite, ""),
    (&[" : no matching "], Always, Code::BmcCipherSuite, ""),
    (&[" : invalid ", " algorithm"], Always, Code::BmcCipherSuite, ""),
    (&[" algorithm 0x", " is not what we requested 0x"], Always, Code::BmcCipherSuite, ""),
    (&["no support for authentication algorithm"], Always, Code::BmcCipherSuite, ""),
    (&[" : insufficient resources for "], Always, Code::BmcBusy, "it has no free session"),
    (&[" : unauthorized name"], Always, Code::BmcUnknownUser, ""),
    (&[" : invalid name length"], Always, Code::BmcUnknownUser, ""),
    (&["> RAKP 2 HMAC is invalid"], CompleteLogin, Code::BmcBadPassword, ""),
    (&[" : unauthorized role requested"], Always, Code::BmcPrivilege, ""),
    (&[" : invalid role"], Always, Code::BmcPrivilege, ""),
    // The password was right: its check is in RAKP 2.
    (&["> RAKP 4 message has invalid integrity check value"], CompleteLogin, Code::BmcBadKgKey, ""),
    (&["RAKP 4 message "], CompleteLogin, Code::BmcError, "the login failed at its last step; some BMCs need -o in IPMITOOL_ARGS"),
    // IPMI 2.0, 22.18: the completion codes of Set Session Privilege Level, and the general one.
    (&["Set Session Privilege Level to ", " failed: Unknown (0x80)"], CompleteLogin, Code::BmcPrivilege, ""),
    (&["Set Session Privilege Level to ", " failed: Unknown (0x81)"], CompleteLogin, Code::BmcPrivilege, ""),
    (&["Set Session Privilege Level to ", " failed: Insufficient privilege level"], CompleteLogin, Code::BmcPrivilege, ""),
    (&[LOST_REPLY, "1 message"], Always, Code::BmcUnreachable, "it fell silent during the login. Some BMCs do so for an unknown user (BMC_USER), and a slow one needs a larger REQUEST_TIMEOUT"),
    (&[LOST_REPLY], Always, Code::BmcUnreachable, SILENT_LOGIN),
    (&["Set Session Privilege Level to ", " failed: "], Always, Code::BmcError, "it does not grant the privilege level"),
    // A reply was lost within the handshake: 1.8.19 goes on all the same, and fails here for want of a session.
    (&["Set Session Privilege Level to ", " failed"], Always, Code::BmcUnreachable, SILENT_LOGIN),
];

const FIRST_REPLY_LOST: &str = "its first reply was lost, or it speaks no IPMI 2.0";

const SILENT_LOGIN: &str =
    "it fell silent during the login. A BMC that is always this slow needs a larger REQUEST_TIMEOUT";

/// The line of an `ipmitool` that cannot work.
const BROKEN_INSTALLATION: &str = "Failed to initialize the OEM info dictionary";

/// The last line of every run that no session came up for.
const NO_SESSION_AT_ALL: &str = "Unable to establish IPMI v2 / RMCP+ session";

/// How libc reports that `ipmitool` found a defect of its own.
const ASSERTION: &str = "Assertion `";

/// A read that was sent, and that the BMC did not answer.
const NO_REPLY: &[&str] = &[
    "Unable to get Chassis Power Status",
    "Error sending Chassis Status command",
    "Unable to get DCMI information",
    "Get SDR Repository Info command failed",
    "Get Device ID command failed",
];

/// Lines that tell nothing of the cause: the end of every failed login, and those that also stand beside a success.
const GENERAL: &[&str] = &[
    NO_SESSION_AT_ALL,
    "Close Session command failed",
    "Get HPM.x Capabilities request failed",
    "Unable to get Chassis Power Status",
    REGISTRY,
];

/// A change that was sent, and that the BMC did not acknowledge.
const NOT_ACKNOWLEDGED: &str = "Unable to set Chassis Power Control";

/// The line that `-v` prints first, even if the BMC never answers. Older versions lack it.
const REGISTRY: &str = "IANA PEN";

/// What a completion code (IPMI 2.0, 5.2) says of the command that was sent.
#[derive(Clone, Copy)]
enum Verdict {
    Declined,
    /// The BMC has no such command (c1), or not what it needs (cc, d5). A BMC that declines to switch power says so too.
    Lacked,
    NotNow,
    NoPrivilege,
    /// The command reached the BMC, which does not tell what became of it.
    Unconfirmed,
}

/// Completion codes by `ipmitool`'s words for them. All others are errors.
const VERDICTS: &[(&str, Verdict)] = &[
    ("Invalid command", Verdict::Lacked),
    ("Invalid command on LUN", Verdict::Declined),
    ("Request data truncated", Verdict::Declined),
    ("Request data length invalid", Verdict::Declined),
    ("Request data field length limit exceeded", Verdict::Declined),
    ("Parameter out of range", Verdict::Declined),
    ("Cannot return number of requested data bytes", Verdict::Declined),
    ("Requested sensor, data, or record not found", Verdict::Declined),
    ("Invalid data field in request", Verdict::Lacked),
    ("Command illegal for specified sensor or record type", Verdict::Declined),
    ("Command not supported in present state", Verdict::Lacked),
    // Those of Set System Boot Options (28.12). 1.8.18 names them by their numbers alone.
    ("Unsupported parameter", Verdict::Lacked),
    ("Parameter is read-only", Verdict::Lacked),
    ("Cannot execute command, command disabled", Verdict::Declined),
    ("Node busy", Verdict::NotNow),
    ("Out of space", Verdict::NotNow),
    ("SDR Repository in update mode", Verdict::NotNow),
    ("Device firmeware in update mode", Verdict::NotNow),
    ("BMC initialization in progress", Verdict::NotNow),
    ("Insufficient privilege level", Verdict::NoPrivilege),
    ("Timeout", Verdict::Unconfirmed),
    ("Command response could not be provided", Verdict::Unconfirmed),
    ("Cannot execute duplicated request", Verdict::Unconfirmed),
];

/// What a run tells about its command.
///
/// # Errors
/// `OutcomeUnknown` for a change, unless it is certain that it was not sent or that the BMC declined it.
pub fn read_outcome(command: Command, outcome: &Outcome, version: Version) -> Result<Answer, Failure> {
    // Whatever the exit code says: a signal, or a session that did not close, comes after the answer.
    if let Some(answer) = command.answer(whole_lines(&outcome.stdout, &outcome.stdout.text())) {
        return Ok(answer);
    }
    Err(explain(command, outcome, version))
}

/// Why a run gave no answer.
pub fn explain(command: Command, outcome: &Outcome, version: Version) -> Failure {
    let stderr = outcome.stderr.text();
    failure(command, outcome, &stderr, version).with_words(words(&stderr))
}

fn failure(command: Command, outcome: &Outcome, stderr: &str, version: Version) -> Failure {
    if let End::NotStarted(error) = &outcome.end {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        let is_missing = matches!(error.kind(), NotFound | PermissionDenied);
        let code = if is_missing { Code::IpmitoolMissing } else { Code::Internal };
        return code.because(error.to_string());
    }
    if let Some(reason) = stderr.lines().find_map(completion) {
        return declined(command, reason);
    }
    let may_be_sent = outcome.stderr.truncated || SESSION_IS_UP.iter().any(|sign| stderr.contains(sign));
    if !may_be_sent && let Some(failure) = no_session(stderr, outcome.took) {
        return failure;
    }
    // A line that always comes is missing: a script around ipmitool keeps its words to itself.
    let is_hidden = match (version, &outcome.end) {
        (Version::Telling, _) => !stderr.contains(REGISTRY),
        (Version::Quiet, End::Exited(_)) => {
            ![NO_SESSION_AT_ALL, ASSERTION].iter().any(|line| stderr.contains(line))
        }
        (Version::Quiet, _) => false,
    };
    match &outcome.end {
        _ if command.is_change() && (may_be_sent || is_hidden || stderr.contains(NOT_ACKNOWLEDGED)) => {
            Code::OutcomeUnknown.into()
        }
        End::Stopped if !is_hidden && has_heard_nothing(stderr) => {
            Code::BmcUnreachable.because("no session came up in time").with_remedy(HEARD_NOTHING)
        }
        End::Stopped => Code::BmcTimeout.into(),
        _ if !command.is_change() && NO_REPLY.iter().any(|line| stderr.contains(line)) => {
            Code::BmcTimeout.into()
        }
        // It claims to have done it, in words that this program does not know.
        End::Exited(status) if command.is_change() && status.success() => Code::OutcomeUnknown.into(),
        end => {
            let failure = Code::BmcError.because(last_words(stderr, end));
            // It is the power status itself that failed.
            if command.is_change() {
                failure
            } else {
                failure.with_remedy("Try again; the log has ipmitool's own words")
            }
        }
    }
}

/// Why no session came up, if a line says so. A completion code in that line decides before its beginning does.
fn no_session(stderr: &str, took: Duration) -> Option<Failure> {
    if stderr.contains(BROKEN_INSTALLATION) {
        let cause = "its own list of manufacturers, enterprise-numbers.txt, is empty or damaged";
        return Some(Code::IpmitoolMissing.because(cause));
    }
    let is_complete = !stderr.contains(LOST_REPLY);
    let line_of = |parts: &[&str]| stderr.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    let mut rows = NO_SESSION.iter().filter(|(_, proof, ..)| *proof == Always || is_complete);
    let (line, code, detail) =
        rows.find_map(|(parts, _, code, detail)| Some((line_of(parts)?, code, *detail)))?;
    let reason = line.rsplit_once(": ").map(|(_, reason)| reason.trim_end());
    if let Some(reason) = reason.filter(|reason| matches!(verdict(reason), Some(Verdict::NotNow))) {
        return Some(Code::BmcBusy.because(shortened(reason)));
    }
    Some(match detail {
        "" => (*code).into(),
        FIRST_REPLY_LOST if took < FIRST_WAIT => Code::BmcUnreachable.because("it speaks no IPMI 2.0"),
        _ => code.because(detail),
    })
}

/// It was at work, and nothing ever came back to it.
fn has_heard_nothing(stderr: &str) -> bool {
    stderr.lines().all(|line| line.is_empty() || line.contains(REGISTRY))
}

/// Where the output was cut off, what looks like a line may be the beginning of one.
fn whole_lines<'a>(output: &Output, text: &'a str) -> &'a str {
    if output.truncated { &text[..text.rfind('\n').map_or(0, |end| end + 1)] } else { text }
}

/// The lines by which `ipmitool` reports the BMC's answer to the command itself: their start, and what stands before the
/// reason.
const COMPLETIONS: &[(&str, &str)] = &[
    ("Set Chassis Power Control to ", " failed: "),
    ("Get Chassis Power Status", " failed: "),
    ("Set Chassis Identify", " failed: "),
    // The device. A failure of parameter 4 says nothing: 1.8.19 goes on behind it.
    ("Set Chassis Boot Parameter 5", " failed: "),
    ("DCMI request failed because", ": "),
    ("Error sending Chassis Status command", ": "),
    ("Error obtaining SDR info", ": "),
    ("Get SDR Repository Info command failed", ": "),
    ("Get Device ID command failed", ": "),
];

/// The BMC's reason, if the line says that the BMC declined the command itself.
fn completion(line: &str) -> Option<&str> {
    let line = line.trim();
    let (_, before) = COMPLETIONS.iter().find(|(start, _)| line.starts_with(start))?;
    let reason = line.split_once(before)?.1;
    // DCMI's line repeats the completion code as a number, such as `Invalid command (c1)`. The words tell as much.
    let number = reason.rsplit_once(" (").filter(|(_, code)| code.len() == 3 && code.ends_with(')'));
    Some(number.map_or(reason, |(words, _)| words))
}

fn verdict(reason: &str) -> Option<Verdict> {
    VERDICTS.iter().find(|(words, _)| *words == reason).map(|(_, verdict)| *verdict)
}

fn declined(command: Command, reason: &str) -> Failure {
    match verdict(reason) {
        Some(Verdict::Lacked) if command.may_be_lacked() => Code::BmcUnsupported.because(shortened(reason)),
        // Some BMCs answer so to what is done already (d5).
        Some(Verdict::Lacked) if command.is_change() && !command.restarts() => Code::BmcRefused
            .because(shortened(reason))
            .with_remedy("Read the power status: it may be so already"),
        Some(Verdict::Declined | Verdict::Lacked) => Code::BmcRefused.because(shortened(reason)),
        Some(Verdict::NotNow) => Code::BmcBusy.because(shortened(reason)),
        Some(Verdict::NoPrivilege) => Code::BmcPrivilege.into(),
        Some(Verdict::Unconfirmed) if command.is_change() => Code::OutcomeUnknown.into(),
        Some(Verdict::Unconfirmed) => Code::BmcTimeout.into(),
        // The BMC reports an error of its own, and may have done it all the same.
        None => Code::BmcError.because(shortened(reason)).not_repeatable(),
    }
}

/// It may be dead, or so slow that no reply came in time.
const HEARD_NOTHING: &str = "Check BMC_HOST and BMC_PORT, that IPMI over LAN is enabled in the BMC's settings, and that \
    UDP port 623 of the BMC is reachable from this node. A BMC that is only slow needs a larger REQUEST_TIMEOUT";

/// A reply has room for a sentence, not for a program's whole output.
const MAX_DETAIL: usize = 200;

fn shortened(words: &str) -> String {
    words.chars().filter(|character| !character.is_control()).take(MAX_DETAIL).collect()
}

/// The last line that tells something of the cause, or how it ended.
fn last_words(stderr: &str, end: &End) -> String {
    let lines = || stderr.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let tells = |line: &&str| !GENERAL.iter().any(|general| line.contains(general));
    match lines().find(tells).or_else(|| lines().next()) {
        Some(line) => shortened(line),
        None => match end {
            End::Exited(status) => format!("ipmitool gave no answer ({status})"),
            End::Stopped | End::NotStarted(_) => "ipmitool gave no answer".to_owned(),
        },
    }
}

/// The log has room for more, in one line.
const MAX_WORDS: usize = 1000;

fn words(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains(REGISTRY));
    let line = lines.collect::<Vec<_>>().join(" | ");
    line.chars().filter(|character| !character.is_control()).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const STATUS: Command = Command::POWER_STATUS;

    /// Long enough for a repeated question.
    const SLOW: Duration = Duration::from_secs(5);

    fn on() -> Command {
        Command::all().find(|command| command.name() == "power on").unwrap()
    }

    /// The line that the answer stands in.
    fn line(result: Result<Answer, Failure>) -> Result<String, Failure> {
        result.map(|answer| answer.line)
    }

    /// Without what the log has of it.
    fn told(result: Result<Answer, Failure>) -> Result<Answer, Failure> {
        result.map_err(|failure| failure.with_words(String::new()))
    }

    fn read(command: Command, stdout: &str, stderr: &str, exit: i32) -> Result<Answer, Failure> {
        let output = |text: &str| Output { bytes: text.into(), truncated: false };
        let end = End::Exited(ExitStatus::from_raw(exit << 8));
        told(read_outcome(
            command,
            &Outcome { stdout: output(stdout), stderr: output(stderr), end, took: SLOW },
            Version::Telling,
        ))
    }

    fn stopped(command: Command, stderr: &str, truncated: bool) -> Failure {
        stopped_by(Version::Telling, command, stderr, truncated)
    }

    fn stopped_by(version: Version, command: Command, stderr: &str, truncated: bool) -> Failure {
        let stderr = Output { bytes: stderr.into(), truncated };
        let outcome = Outcome { stdout: Output::default(), stderr, end: End::Stopped, took: SLOW };
        told(read_outcome(command, &outcome, version)).unwrap_err()
    }

    #[test]
    fn a_whole_success_line_decides_whatever_the_exit_code() {
        for exit in [0, 1, 255] {
            for (command, stdout, expected) in [
                (STATUS, "Chassis Power is on\n", "Chassis Power is on"),
                (STATUS, "noise\nChassis Power is off\n", "Chassis Power is off"),
                (
                    on(),
                    "Chassis Power Control: Up/On\nSIGN INT: Close Interface IPMI v2.0 RMCP+ LAN Interface\n",
                    "Chassis Power Control: Up/On",
                ),
            ] {
                let answer = line(read(command, stdout, "Close Session command failed", exit));
                assert_eq!(answer, Ok(expected.to_owned()));
            }
        }
    }

    #[test]
    fn a_part_of_a_line_or_another_command_s_line_is_no_success() {
        for (command, stdout) in [
            (STATUS, "Chassis Power is on fire"),
            (STATUS, " Chassis Power is on"),
            (STATUS, "Chassis Power Control: Up/On"),
            (on(), "Chassis Power is on"),
            (on(), "Chassis Power Control: Down/Off"),
            (on(), "Chassis Power Control: Up"),
            (on(), ""),
        ] {
            assert!(read(command, stdout, "", 0).is_err(), "{stdout:?}");
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_no_success() {
        let cut = |text: &str| {
            let stdout = Output { bytes: text.into(), truncated: true };
            line(read_outcome(
                STATUS,
                &Outcome { stdout, stderr: Output::default(), end: End::Stopped, took: SLOW },
                Version::Telling,
            ))
        };
        assert_eq!(cut("Chassis Power is on\nChassis Power"), Ok("Chassis Power is on".to_owned()));
        assert_eq!(cut("Chassis Power is on"), Err(Code::BmcTimeout.into()));
    }

    #[test]
    fn the_reason_is_found_in_the_words_of_ipmitool() {
        let established = "Error: Unable to establish IPMI v2 / RMCP+ session\n";
        for (said, code, detail) in [
            ("> RAKP 2 HMAC is invalid\n", Code::BmcBadPassword, None),
            ("> RAKP 4 message has invalid integrity check value\n", Code::BmcBadKgKey, None),
            ("RAKP 2 message indicates an error : unauthorized name\n", Code::BmcUnknownUser, None),
            ("RAKP 2 message indicates an error : unauthorized role requested\n", Code::BmcPrivilege, None),
            (
                "Error in open session response message : no matching cipher suite\n",
                Code::BmcCipherSuite,
                None,
            ),
            (
                "Error in open session response message : invalid authentication algorithm\n",
                Code::BmcCipherSuite,
                None,
            ),
            ("Authentication algorithm 0x01 is not what we requested 0x03\n", Code::BmcCipherSuite, None),
            (
                "Error in open session response message : insufficient resources for session\n",
                Code::BmcBusy,
                Some("it has no free session"),
            ),
            ("Get Auth Capabilities error: Node busy\n", Code::BmcBusy, Some("Node busy")),
            ("Set Session Privilege Level to OPERATOR failed: Unknown (0x81)\n", Code::BmcPrivilege, None),
            (
                "Set Session Privilege Level to ADMINISTRATOR failed\n",
                Code::BmcUnreachable,
                Some(SILENT_LOGIN),
            ),
            ("Get Auth Capabilities error\n", Code::BmcUnreachable, Some("no reply from its address")),
            (
                "Address lookup for nowhere failed\n",
                Code::BmcUnreachable,
                Some("its name cannot be resolved"),
            ),
        ] {
            for command in [on(), STATUS] {
                let failure = read(command, "", &format!("{said}{established}"), 1).unwrap_err();
                assert_eq!((failure.code(), failure.detail()), (code, detail), "{said}");
            }
        }
    }

    #[test]
    fn a_completion_code_is_declined_busy_denied_unknown_or_an_error() {
        for (reason, code, is_repeatable) in [
            ("Command not supported in present state", Code::BmcRefused, false),
            ("Invalid data field in request", Code::BmcRefused, false),
            ("Node busy", Code::BmcBusy, true),
            ("Insufficient privilege level", Code::BmcPrivilege, true),
            ("Unspecified error", Code::BmcError, false),
            ("Unknown (0x80)", Code::BmcError, false),
            ("Timeout", Code::OutcomeUnknown, false),
        ] {
            let said = format!(
                "Running Get VSO Capabilities my_addr 0x20\nSet Chassis Power Control to Up/On failed: {reason}\n"
            );
            let failure = read(on(), "", &said, 1).unwrap_err();
            assert_eq!((failure.code(), failure.is_repeatable()), (code, is_repeatable), "{reason}");
            assert!(failure.detail().is_none_or(|detail| detail == reason), "{failure:?}");
        }
        let timeout = read(STATUS, "", "Get Chassis Power Status failed: Timeout\n", 1);
        assert_eq!(timeout, Err(Code::BmcTimeout.into()));
    }

    #[test]
    fn a_reading_that_the_bmc_declines_or_does_not_answer_says_so() {
        let command = |name: &str| Command::all().find(|command| command.name() == name).unwrap();
        let (reading, chassis) = (command("dcmi power reading"), command("chassis status"));
        for (command, stderr, code, detail) in [
            (
                reading,
                "\n    DCMI request failed because: Invalid command (c1)\n",
                Code::BmcUnsupported,
                "Invalid command",
            ),
            (reading, "\n    DCMI request failed because: Node busy (c0)\n", Code::BmcBusy, "Node busy"),
            (
                reading,
                "\n    DCMI request failed because: Unknown (0x80) (80)\n",
                Code::BmcError,
                "Unknown (0x80)",
            ),
            (chassis, "Error sending Chassis Status command: Node busy\n", Code::BmcBusy, "Node busy"),
        ] {
            let failure = read(command, "\n", stderr, 1).unwrap_err();
            assert_eq!((failure.code(), failure.detail()), (code, Some(detail)), "{stderr}");
        }
        let privilege = "\n    DCMI request failed because: Insufficient privilege level (d4)\n";
        assert_eq!(read(reading, "\n", privilege, 1), Err(Code::BmcPrivilege.into()));
        for (command, stderr) in [
            (reading, "\n    Unable to get DCMI information\n"),
            (chassis, "Error sending Chassis Status command\n"),
        ] {
            assert_eq!(read(command, "\n", stderr, 1), Err(Code::BmcTimeout.into()), "{stderr}");
        }
    }

    /// Such an answer to a power command means its present state.
    #[test]
    fn a_command_that_the_bmc_lacks_is_unsupported_unless_it_switches_power() {
        let identify = Command::all().find(|command| command.name() == "chassis identify force").unwrap();
        for reason in
            ["Invalid command", "Invalid data field in request", "Command not supported in present state"]
        {
            for (command, line, code) in [
                (on(), "Set Chassis Power Control to Up/On failed", Code::BmcRefused),
                (STATUS, "Get Chassis Power Status failed", Code::BmcRefused),
                (identify, "Set Chassis Identify failed", Code::BmcUnsupported),
                (identify, "Error obtaining SDR info", Code::BmcUnsupported),
            ] {
                let failure = read(command, "", &format!("{line}: {reason}\n"), 1).unwrap_err();
                assert_eq!((failure.code(), failure.detail()), (code, Some(reason)), "{line}");
            }
        }
        let busy = read(identify, "", "Set Chassis Identify failed: Node busy\n", 1).unwrap_err();
        assert_eq!(busy.code(), Code::BmcBusy);
    }

    /// 1.8.19 goes on behind a failure of parameter 4.
    #[test]
    fn the_device_alone_decides_about_a_boot() {
        let boot = Command::all().find(|command| command.name() == "chassis bootdev pxe").unwrap();
        let up = "Discovered IPMB address 0x0\nSet Chassis Boot Parameter 4 failed: Node busy\n";
        for (line, code) in [
            ("Set Chassis Boot Parameter 5 failed: Unsupported parameter", Code::BmcUnsupported),
            ("Set Chassis Boot Parameter 5 failed: Invalid command", Code::BmcUnsupported),
            ("Set Chassis Boot Parameter 5 failed: Insufficient privilege level", Code::BmcPrivilege),
            ("Set Chassis Boot Parameter 5 failed: Unknown (0x80)", Code::BmcError),
            ("Error setting Chassis Boot Parameter 5", Code::OutcomeUnknown),
            ("", Code::OutcomeUnknown),
        ] {
            for exit in [0, 1] {
                let failure = read(boot, "", &format!("{up}{line}\n"), exit).unwrap_err();
                assert_eq!(failure.code(), code, "{line}");
            }
        }
        let done = line(read(boot, "Set Boot Device to pxe\n", up, 0));
        assert_eq!(done, Ok("Set Boot Device to pxe".to_owned()));
    }

    #[test]
    fn a_change_that_may_have_been_sent_is_never_called_unsent() {
        let up = "Discovered IPMB address 0x0\n";
        let unknown = || Failure::from(Code::OutcomeUnknown);
        for (stdout, stderr, exit) in [
            ("", format!("{up}Unable to set Chassis Power Control to Up/On\n"), 1),
            ("", format!("{up}> RAKP 2 HMAC is invalid\n"), 1),
            ("gibberish\n", String::new(), 0),
            ("", String::new(), 1),
        ] {
            assert_eq!(read(on(), stdout, &stderr, exit), Err(unknown()), "{stderr}");
        }
        for (stderr, truncated) in [(up, false), ("", true), ("", false)] {
            assert_eq!(stopped(on(), stderr, truncated), unknown(), "{stderr:?} {truncated}");
        }
        assert_eq!(stopped(STATUS, up, false), Code::BmcTimeout.into());
        let silent = stopped(on(), "Loading IANA PEN Registry...\n", false);
        assert_eq!(
            silent,
            Code::BmcUnreachable.because("no session came up in time").with_remedy(HEARD_NOTHING)
        );
    }

    const GENERAL_END: &str = "Error: Unable to establish IPMI v2 / RMCP+ session\n";

    /// `ipmitool` repeats the login by itself, and the late reply then fails its check.
    #[test]
    fn a_login_of_which_a_reply_was_lost_proves_nothing() {
        for line in [
            "> RAKP 2 HMAC is invalid",
            "> RAKP 4 message has invalid integrity check value",
            "Set Session Privilege Level to ADMINISTRATOR failed: Insufficient privilege level",
            "Set Session Privilege Level to ADMINISTRATOR failed: Unknown (0x81)",
        ] {
            for lost in ["1", "3"] {
                let stderr = format!("> Error: no response from RAKP {lost} message\n{line}\n{GENERAL_END}");
                let failure = read(STATUS, "", &stderr, 1).unwrap_err();
                assert_eq!(failure.code(), Code::BmcUnreachable, "{stderr}");
                let names_user = failure.detail().unwrap_or_default().contains("BMC_USER");
                assert_eq!(names_user, lost == "1", "{failure:?}");
            }
        }
    }

    #[test]
    fn the_reason_of_a_line_decides_before_its_beginning() {
        for (reason, code) in [
            ("Node busy", Code::BmcBusy),
            ("BMC initialization in progress", Code::BmcBusy),
            ("Out of space", Code::BmcBusy),
            ("Insufficient privilege level", Code::BmcPrivilege),
            ("Unknown (0x80)", Code::BmcPrivilege),
            ("Unknown (0x81)", Code::BmcPrivilege),
            ("Unspecified error", Code::BmcError),
        ] {
            let stderr = format!("Set Session Privilege Level to OPERATOR failed: {reason}\n{GENERAL_END}");
            assert_eq!(read(on(), "", &stderr, 1).unwrap_err().code(), code, "{reason}");
        }
    }

    #[test]
    fn the_detail_is_the_last_line_that_tells_something() {
        let known = "Loading IANA PEN Registry...\n";
        for line in ["RAKP 2 message indicates an error : inactive session ID", "something new"] {
            let failure = read(STATUS, "", &format!("{known}{line}\n{GENERAL_END}"), 1).unwrap_err();
            assert_eq!((failure.code(), failure.detail()), (Code::BmcError, Some(line)));
            assert!(!failure.explain().contains("Read the power status"), "that is what failed");
        }
        let nothing_else = read(STATUS, "", &format!("{known}{GENERAL_END}"), 1).unwrap_err();
        assert_eq!(nothing_else.detail(), Some(GENERAL_END.trim()));
    }

    #[test]
    fn the_words_of_ipmitool_are_one_line_of_the_log() {
        let stderr = "Loading IANA PEN Registry...\n\none\u{1b}[31m\ntwo\n";
        let outcome = Outcome {
            stdout: Output::default(),
            stderr: Output { bytes: stderr.into(), truncated: false },
            end: End::Exited(ExitStatus::from_raw(256)),
            took: SLOW,
        };
        let failure = read_outcome(STATUS, &outcome, Version::Telling).unwrap_err();
        assert!(failure.explain_with_words().ends_with(" (ipmitool said: one[31m | two)"), "{failure:?}");
        assert!(!failure.explain().contains("ipmitool said"));
    }

    /// 1.8.16 to 1.8.18 print nothing before a session is up.
    #[test]
    fn the_silence_of_an_older_ipmitool_proves_nothing() {
        let failure = stopped_by(Version::Quiet, on(), "", false);
        assert_eq!((failure.code(), failure.is_repeatable()), (Code::BmcUnreachable, true));
        for stderr in ["Discovered IPMB address 0x0\n", "Unable to set Chassis Power Control to Cycle\n"] {
            assert_eq!(
                stopped_by(Version::Quiet, on(), stderr, false).code(),
                Code::OutcomeUnknown,
                "{stderr}"
            );
        }
        let exited = Outcome {
            stdout: Output::default(),
            stderr: Output { bytes: GENERAL_END.into(), truncated: false },
            end: End::Exited(ExitStatus::from_raw(256)),
            took: SLOW,
        };
        assert_eq!(read_outcome(on(), &exited, Version::Quiet).unwrap_err().code(), Code::BmcError);
        let hidden = Outcome { stderr: Output::default(), ..exited };
        assert_eq!(read_outcome(on(), &hidden, Version::Quiet).unwrap_err().code(), Code::OutcomeUnknown);
    }

    #[test]
    fn a_reply_that_came_at_once_was_not_lost() {
        for (took, detail) in [(0, "it speaks no IPMI 2.0"), (5, FIRST_REPLY_LOST)] {
            let outcome = Outcome {
                stdout: Output::default(),
                stderr: Output {
                    bytes: b"This BMC does not support IPMI v2 / RMCP+\n".to_vec(),
                    truncated: false,
                },
                end: End::Exited(ExitStatus::from_raw(256)),
                took: Duration::from_secs(took),
            };
            let failure = read_outcome(STATUS, &outcome, Version::Telling).unwrap_err();
            assert_eq!((failure.code(), failure.detail()), (Code::BmcUnreachable, Some(detail)));
        }
    }

    #[test]
    fn a_damaged_list_of_manufacturers_is_the_installation_s() {
        let stderr = "Loading IANA PEN Registry...\nFailed to initialize the OEM info dictionary\n";
        let failure = read(STATUS, "", stderr, 1).unwrap_err();
        assert_eq!(failure.code(), Code::IpmitoolMissing);
        assert!(failure.explain().contains("enterprise-numbers.txt"), "{}", failure.explain());
    }

    /// Dell's answer to off while off.
    #[test]
    fn what_may_be_so_already_is_told_as_such() {
        let stderr = "Set Chassis Power Control to X failed: Command not supported in present state\n";
        for (name, is_restart) in
            [("power on", false), ("power off", false), ("power cycle", true), ("power reset", true)]
        {
            let command = Command::all().find(|command| command.name() == name).unwrap();
            let explained = read(command, "", stderr, 1).unwrap_err().explain();
            assert!(explained.starts_with("bmc_refused: "), "{explained}");
            assert_eq!(explained.contains("cannot be cycled"), is_restart, "{explained}");
            assert_eq!(explained.contains("may be so already"), !is_restart, "{explained}");
        }
    }

    #[test]
    fn last_words_are_kept_short_and_plain() {
        let long = format!("a\u{1b}[31m{}", "b".repeat(500));
        let failure = read(STATUS, "", &long, 1).unwrap_err();
        let said = failure.detail().unwrap();
        assert!(said.len() == MAX_DETAIL && !said.contains('\u{1b}'), "{said}");
        let failure = read(STATUS, "", "", 3).unwrap_err();
        assert_eq!(failure.detail(), Some("ipmitool gave no answer (exit status: 3)"));
    }

    fn command() -> impl Strategy<Value = Command> {
        select(Command::all().collect::<Vec<_>>())
    }

    /// Pieces of what `ipmitool` prints, and of what it should never print. Noise alone would hardly meet a known line.
    const SAID: &[&str] = &[
        "Chassis Power is on",
        "Chassis Power is off",
        "Set Chassis Power Control to Up/On failed: ",
        "Get Chassis Power Status failed: ",
        "Unable to set Chassis Power Control to Reset",
        "Unable to get Chassis Power Status",
        "Command not supported in present state",
        "Node busy",
        "Timeout",
        "> RAKP 2 HMAC is invalid",
        "RAKP 2 message indicates an error : unauthorized name",
        "Get Auth Capabilities error",
        "Running Get VSO Capabilities my_addr 0x20",
        "Discovered IPMB address 0x0",
        "Loading IANA PEN Registry...",
        " ",
        "\r",
        "\0",
        "\u{1b}[2J",
        "\n",
        "\n",
        "\n",
    ];

    fn output() -> impl Strategy<Value = Output> {
        let pieces: Vec<_> =
            SAID.iter().copied().chain(Command::all().filter_map(Command::success_line)).collect();
        let piece = prop_oneof![
            3 => select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ];
        let bytes = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        (bytes, any::<bool>()).prop_map(|(bytes, truncated)| Output { bytes, truncated })
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        use std::io::{Error, ErrorKind};
        let end = prop_oneof![
            any::<i32>().prop_map(|raw| End::Exited(ExitStatus::from_raw(raw))),
            Just(0).prop_map(|raw| End::Exited(ExitStatus::from_raw(raw))),
            Just(()).prop_map(|()| End::Stopped),
            select(&[ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::WouldBlock][..])
                .prop_map(|kind| End::NotStarted(Error::from(kind))),
        ];
        (output(), output(), end).prop_map(|(stdout, stderr, end)| Outcome {
            stdout,
            stderr,
            end,
            took: SLOW,
        })
    }

    /// Whether a line of the output is this one, byte for byte.
    fn has_line(output: &Output, line: &str) -> bool {
        let mut lines: Vec<_> = output.bytes.split(|byte| *byte == b'\n').collect();
        // Behind the last line feed there may be no whole line, and a CR there ends nothing.
        let rest = lines.pop().filter(|_| !output.truncated);
        let whole = lines.into_iter().map(|own| own.strip_suffix(b"\r").unwrap_or(own));
        whole.chain(rest).any(|own| own == line.as_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

        #[test]
        fn only_the_commands_own_line_is_its_success(command in command(), outcome in outcome()) {
            let states = ["Chassis Power is on", "Chassis Power is off"];
            let own = match command.success_line() {
                Some(line) => vec![line],
                None if command == STATUS => states.to_vec(),
                // These lines are no part of a table.
                None => Vec::new(),
            };
            match read_outcome(command, &outcome, Version::Telling) {
                Ok(answer) => {
                    prop_assert!(own.contains(&&*answer.line) && has_line(&outcome.stdout, &answer.line));
                }
                Err(failure) => {
                    prop_assert!(!own.iter().any(|line| has_line(&outcome.stdout, line)));
                    prop_assert!(command.is_change() || failure.code() != Code::OutcomeUnknown);
                }
            }
        }

        /// The command follows those two lines. Unless the BMC itself answered it, its outcome is unknown.
        #[test]
        fn what_may_have_been_sent_is_never_called_unsent(
            command in command().prop_filter("a change", |command| command.is_change()),
            mut outcome in outcome(),
            sign in select(&SESSION_IS_UP[..]),
        ) {
            outcome.stderr.bytes.splice(0..0, format!("{sign}\n").into_bytes());
            let said = outcome.stderr.text().into_owned();
            let result = read_outcome(command, &outcome, Version::Telling);
            let is_answered = said.contains(" failed: ") || matches!(outcome.end, End::NotStarted(_));
            let is_unknown = result.as_ref().is_err_and(|failure| failure.code() == Code::OutcomeUnknown);
            prop_assert!(result.is_ok() || is_answered || is_unknown, "{result:?}");
        }

        #[test]
        fn what_a_reply_quotes_is_short_and_plain(command in command(), outcome in outcome()) {
            if let Err(failure) = read_outcome(command, &outcome, Version::Telling) {
                let said = failure.detail().unwrap_or_default();
                prop_assert!(said.chars().count() <= MAX_DETAIL && !said.contains(char::is_control), "{said:?}");
            }
        }
    }
}
