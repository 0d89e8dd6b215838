//! Speaks `ipmitool`: a `Bmc` and an `Authorised` command make an `Invocation`, and its `Outcome` is read into an
//! `Answer` or a `Failure`.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use crate::auth::Authorised;
use crate::exec::{End, Invocation, Outcome, Output};
use crate::ipmi::{Change, Command, Power, Read};
use crate::secret::{Credential, Secret};

/// How to reach one BMC.
#[derive(Debug)]
pub struct Bmc {
    pub program: PathBuf,
    pub host: String,
    pub port: u16,
    pub user: Credential,
    pub password: Credential,
    pub cipher_suite: CipherSuite,
    pub privilege: Privilege,
    pub extra: ExtraArguments,
}

/// `192.0.2.1:623 as admin`: how the log names it.
impl fmt::Display for Bmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} as {}", self.host, self.port, self.user.current().expose())
    }
}

/// User and password as of one moment.
#[derive(Debug, Clone)]
pub struct Login {
    user: Secret,
    password: Secret,
}

impl Login {
    pub fn is(&self, other: &Self) -> bool {
        let same = |own: &Secret, other: &Secret| own.matches(other.expose().as_bytes());
        same(&self.user, &other.user) && same(&self.password, &other.password)
    }
}

/// The algorithms of a session (IPMI 2.0, 22.15.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    Number(u8),
    /// `ipmitool` asks the BMC for its best; one that ignores the question costs 10 s.
    Auto,
}

impl CipherSuite {
    /// No authentication at all.
    pub const NONE: Self = Self::Number(0);

    /// The last suite that IPMI 2.0 defines.
    const LAST: u8 = 17;

    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let number = text.parse().ok().filter(|number| *number <= Self::LAST);
        number.map(Self::Number).ok_or_else(|| "expected a number such as 3 or 17, or auto".to_owned())
    }
}

/// The session's privilege level (IPMI 2.0, 22.18); by default `ipmitool` asks for ADMINISTRATOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privilege(Option<&'static str>);

impl Privilege {
    const LEVELS: [&str; 4] = ["CALLBACK", "USER", "OPERATOR", "ADMINISTRATOR"];

    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let level = Self::LEVELS.into_iter().find(|level| text.eq_ignore_ascii_case(level));
        level
            .map(|level| Self(Some(level)))
            .ok_or_else(|| format!("expected one of {}", Self::LEVELS.join(", ")))
    }
}

/// Arguments that the operator adds, none of which can change what a run does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraArguments(Vec<String>);

/// What may stand behind an option.
#[derive(Clone, Copy)]
enum Value {
    OneOf(&'static [&'static str]),
    /// 0 to 255, decimal or as 0x20. `ipmitool` takes a leading zero for octal, and does nothing at 08.
    Byte,
}

impl Value {
    fn fits(self, text: &str) -> bool {
        match (self, text.strip_prefix("0x")) {
            (Self::OneOf(words), _) => words.contains(&text),
            (Self::Byte, Some(digits)) => !digits.starts_with('+') && u8::from_str_radix(digits, 16).is_ok(),
            (Self::Byte, None) => text.parse::<u8>().is_ok_and(|byte| byte.to_string() == text),
        }
    }
}

impl ExtraArguments {
    /// Options for BMCs that need them. Values are narrow because `ipmitool` ends with exit code 0 and does nothing on
    /// `-o list` or a bad `-l`, takes `-A NONE` as "no password", and under `-o i82571spt` or with `-m` leaves out the
    /// lines that tell whether a change may have been sent.
    const OPTIONS: &[(&str, Value)] = &[
        ("-o", Value::OneOf(&["intelplus", "icts", "supermicro", "intelwv2", "kontron", "quanta"])),
        ("-A", Value::OneOf(&["MD2", "MD5", "PASSWORD", "OEM", "RMCP+"])),
        ("-l", Value::Byte),
        ("-t", Value::Byte),
        ("-b", Value::Byte),
        ("-T", Value::Byte),
        ("-B", Value::Byte),
    ];

    /// What sets the option that does not belong here.
    const INSTEAD: &[(char, &str)] = &[
        ('H', "BMC_HOST"),
        ('p', "BMC_PORT"),
        ('U', "BMC_USER"),
        ('P', "BMC_PASSWORD"),
        ('f', "BMC_PASSWORD_FILE"),
        ('C', "BMC_CIPHER_SUITE"),
        ('L', "BMC_PRIVILEGE"),
        ('N', "REQUEST_TIMEOUT"),
        ('v', "RUST_LOG=debug"),
    ];

    /// Splits as a shell does. A free argument could repeat a change (`-R`), print the password (`-vvv`) or be a
    /// command of its own, so only the options above pass, each with a value that fits.
    ///
    /// # Errors
    /// What is not allowed, and what to use instead. Of the text only an option's letter is repeated: the rest may
    /// be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = shell_words::split(text).map_err(|_| "expected every quote to be closed".to_owned())?;
        for pair in words.chunks(2) {
            let Some((option, value)) = Self::OPTIONS.iter().find(|(option, _)| *option == pair[0]) else {
                return Err(Self::rejection(&pair[0]));
            };
            if !pair.get(1).is_some_and(|text| value.fits(text)) {
                return Err(match value {
                    Value::Byte => format!("{option} needs a number from 0 to 255, such as {option} 0x20"),
                    Value::OneOf(words) => format!("{option} needs one of {}", words.join(", ")),
                });
            }
        }
        let last = |option: &str| words.chunks(2).rev().find(|pair| pair[0] == option).map(|pair| &pair[1]);
        let is_zero = |byte: &String| byte.trim_start_matches("0x").bytes().all(|digit| digit == b'0');
        if last("-T").is_some() && last("-t").is_none_or(is_zero) {
            return Err("-T needs -t as well, and not 0: the controller behind the transit one".to_owned());
        }
        Ok(Self(words))
    }

    fn rejection(word: &str) -> String {
        let options: Vec<_> = Self::OPTIONS.iter().map(|(option, _)| *option).collect();
        let expected = format!("expected {}, each with its value", options.join(" "));
        let Some(letter) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) else {
            return format!("a word without an option is not allowed: {expected}");
        };
        match Self::INSTEAD.iter().find(|(wrong, _)| *wrong == letter) {
            Some((_, variable)) => format!("-{letter} is not for here: use {variable}"),
            None => format!("-{} is not allowed like this: {expected}", letter.escape_debug()),
        }
    }
}

/// Seconds to wait for a reply, and one try: a slow BMC takes 3 s a command, and on a second try a change that was not
/// acknowledged would be sent again.
const CHANGE_PATIENCE: [&str; 4] = ["-N", "4", "-R", "1"];

/// A read may be sent again, so that no single lost datagram fails it; the second wait is a second longer, and long
/// enough for that slow BMC.
const READ_PATIENCE: [&str; 4] = ["-N", "2", "-R", "2"];

impl Bmc {
    pub fn login(&self) -> Login {
        Login { user: self.user.current(), password: self.password.current() }
    }

    /// The one command line for this command. Nothing in it comes from a request.
    pub fn invocation(&self, authorised: &Authorised, login: &Login) -> Invocation {
        // Without -v a wrong password and a dead host fail with the same words.
        let mut arguments: Vec<String> = ["-I", "lanplus", "-v"].map(str::to_owned).into();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(match authorised.command() {
            Command::Change(_) => &CHANGE_PATIENCE,
            Command::Read(_) => &READ_PATIENCE,
        });
        add(&["-H", &self.host, "-p", &self.port.to_string()]);
        add(&["-U", login.user.expose(), "-E"]); // the password comes by the environment
        if let CipherSuite::Number(number) = self.cipher_suite {
            add(&["-C", &number.to_string()]);
        }
        if let Privilege(Some(level)) = self.privilege {
            add(&["-L", level]);
        }
        arguments.extend(self.extra.0.iter().cloned());
        arguments.extend(authorised.command().words().map(str::to_owned));
        Invocation {
            program: self.program.clone(),
            arguments,
            secret: ("IPMITOOL_PASSWORD", login.password.clone()),
        }
    }
}

/// What the BMC confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(Power),
    Done(Change),
}

impl Answer {
    pub const fn line(self) -> &'static str {
        match self {
            Self::Status(power) => power.status_line(),
            Self::Done(change) => change.success_line(),
        }
    }
}

/// What is particular about a failure, in the words of the BMC, of `ipmitool` or of the system.
type Said = Cow<'static, str>;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The BMC understood and declined.
    Refused(Said),
    Unreachable(Said),
    BadPassword,
    UnknownUser,
    CipherSuite,
    Privilege,
    Busy(Said),
    /// Before anything was sent.
    Error(Said),
    /// The BMC's own, in answer to the command.
    Reported(Said),
    /// Nothing was sent, or it was a read.
    TimedOut,
    /// A change was sent, or may have been, and was not confirmed.
    OutcomeUnknown,
    /// There is no `ipmitool` any more.
    Missing(Said),
    /// The system did not let it start.
    NotStarted(Said),
}

impl Failure {
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Refused(said)
            | Self::Unreachable(said)
            | Self::Busy(said)
            | Self::Error(said)
            | Self::Reported(said)
            | Self::Missing(said)
            | Self::NotStarted(said) => Some(said),
            Self::BadPassword
            | Self::UnknownUser
            | Self::CipherSuite
            | Self::Privilege
            | Self::TimedOut
            | Self::OutcomeUnknown => None,
        }
    }
}

/// Lines on standard error that `-v` brings only once a session is up: before them no command was sent. The second
/// comes always, at the last moment before the command.
const SESSION_IS_UP: [&str; 2] = ["Running Get VSO Capabilities", "Discovered IPMB address"];

const fn unreachable(said: &'static str) -> Failure {
    Failure::Unreachable(Cow::Borrowed(said))
}

const fn busy(said: &'static str) -> Failure {
    Failure::Busy(Cow::Borrowed(said))
}

const fn error(said: &'static str) -> Failure {
    Failure::Error(Cow::Borrowed(said))
}

/// Why no session came up: the first row counts of which one line on standard error has all the parts.
const NO_SESSION: &[(&[&str], Failure)] = &[
    (&["Address lookup for ", " failed"], unreachable("its name cannot be resolved")),
    (&["Could not open socket"], unreachable("there is no way to its address")),
    (&["Get Auth Capabilities error: "], error("it does not say how to log in")),
    (&["Get Auth Capabilities error"], unreachable("no reply from its address")),
    // With one try, ipmitool also says so when the first reply was lost: it then asks in the older way.
    (&["does not support IPMI v2"], unreachable("its first reply was lost, or it speaks no IPMI 2.0")),
    (&["Unsupported cipher suite ID"], Failure::CipherSuite),
    (&[" : no matching "], Failure::CipherSuite),
    (&[" : invalid ", " algorithm"], Failure::CipherSuite),
    (&[" algorithm 0x", " is not what we requested 0x"], Failure::CipherSuite),
    (&["no support for authentication algorithm"], Failure::CipherSuite),
    (&[" : insufficient resources for "], busy("it has no free session")),
    (&[" : unauthorized name"], Failure::UnknownUser),
    (&[" : invalid name length"], Failure::UnknownUser),
    (&["> RAKP 2 HMAC is invalid"], Failure::BadPassword),
    (&[" : unauthorized role requested"], Failure::Privilege),
    (&[" : invalid role"], Failure::Privilege),
    (&["RAKP 4 message "], error("the login failed at its last step; some BMCs need -o in IPMITOOL_ARGS")),
    (&["Set Session Privilege Level to ", " failed: "], Failure::Privilege),
    // A reply was lost within the handshake: 1.8.19 goes on all the same, and fails here for want of a session.
    (&["Set Session Privilege Level to ", " failed"], unreachable("it fell silent during the login")),
    (&["> Error: no response from RAKP "], unreachable("it fell silent during the login")),
];

/// The one line that `-v` always brings first, also from a BMC that never answers.
const REGISTRY: &str = "IANA PEN";

/// What a completion code (IPMI 2.0, 5.2) says of the command that was sent.
#[derive(Clone, Copy)]
enum Verdict {
    Declined,
    NotNow,
    NoPrivilege,
    /// It reached the BMC, which does not know what became of it.
    Unconfirmed,
}

/// Completion codes by `ipmitool`'s words for them. All others are errors.
const VERDICTS: &[(&str, Verdict)] = &[
    ("Invalid command", Verdict::Declined),
    ("Invalid command on LUN", Verdict::Declined),
    ("Request data truncated", Verdict::Declined),
    ("Request data length invalid", Verdict::Declined),
    ("Request data field length limit exceeded", Verdict::Declined),
    ("Parameter out of range", Verdict::Declined),
    ("Cannot return number of requested data bytes", Verdict::Declined),
    ("Requested sensor, data, or record not found", Verdict::Declined),
    ("Invalid data field in request", Verdict::Declined),
    ("Command illegal for specified sensor or record type", Verdict::Declined),
    ("Command not supported in present state", Verdict::Declined),
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

/// What a run says of its command.
///
/// # Errors
/// `OutcomeUnknown` for a change unless it is certain that it was not sent, or that the BMC turned it down.
pub fn read_outcome(command: Command, outcome: &Outcome) -> Result<Answer, Failure> {
    // Whatever the exit code says: a signal, or a session that did not close, comes after the answer.
    if let Some(answer) = answer(command, &outcome.stdout) {
        return Ok(answer);
    }
    if let End::NotStarted(error) = &outcome.end {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        let said = error.to_string().into();
        let is_missing = matches!(error.kind(), NotFound | PermissionDenied);
        return Err(if is_missing { Failure::Missing(said) } else { Failure::NotStarted(said) });
    }
    let said = outcome.stderr.text();
    if let Some(reason) = said.lines().find_map(completion) {
        return Err(declined(command, reason));
    }
    let may_be_sent = outcome.stderr.truncated || SESSION_IS_UP.iter().any(|sign| said.contains(sign));
    if !may_be_sent {
        let has = |parts: &[&str]| said.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        if let Some((_, failure)) = NO_SESSION.iter().find(|(parts, _)| has(parts)) {
            return Err(failure.clone());
        }
    }
    // Where its first line did not come, a script around it keeps its words to itself.
    let is_hidden = !said.contains(REGISTRY);
    Err(match (command, &outcome.end) {
        (Command::Change(_), _) if may_be_sent || is_hidden => Failure::OutcomeUnknown,
        (_, End::Stopped) if has_heard_nothing(&said) => unreachable("no session came up in time"),
        (_, End::Stopped) => Failure::TimedOut,
        (Command::Read(_), _) if said.contains("Unable to get Chassis Power Status") => Failure::TimedOut,
        // It claims to have done it, in words that we do not know.
        (Command::Change(_), End::Exited(status)) if status.success() => Failure::OutcomeUnknown,
        (_, end) => Failure::Error(last_words(&said, end)),
    })
}

/// It was at work, and nothing ever came back to it.
fn has_heard_nothing(said: &str) -> bool {
    said.contains(REGISTRY) && said.lines().all(|line| line.is_empty() || line.contains(REGISTRY))
}

/// A whole line that is the command's own success line.
fn answer(command: Command, stdout: &Output) -> Option<Answer> {
    let candidates = match command {
        Command::Read(Read::PowerStatus) => Power::ALL.map(Answer::Status).to_vec(),
        Command::Change(change) => vec![Answer::Done(change)],
    };
    let text = stdout.text();
    // Where it was cut off, what looks like a line may be the beginning of one.
    let whole = if stdout.truncated { &text[..text.rfind('\n').map_or(0, |end| end + 1)] } else { &text };
    candidates.into_iter().find(|answer| whole.lines().any(|line| line == answer.line()))
}

/// The BMC's reason, if the line says that it turned the command itself down.
fn completion(line: &str) -> Option<&str> {
    let starts = ["Set Chassis Power Control to ", "Get Chassis Power Status"];
    let (action, reason) = line.split_once(" failed: ")?;
    starts.iter().any(|start| action.starts_with(start)).then_some(reason.trim_end())
}

fn declined(command: Command, reason: &str) -> Failure {
    let verdict = VERDICTS.iter().find(|(words, _)| *words == reason).map(|(_, verdict)| *verdict);
    match (verdict, command) {
        (Some(Verdict::Declined), _) => Failure::Refused(shortened(reason)),
        (Some(Verdict::NotNow), _) => Failure::Busy(shortened(reason)),
        (Some(Verdict::NoPrivilege), _) => Failure::Privilege,
        (Some(Verdict::Unconfirmed), Command::Change(_)) => Failure::OutcomeUnknown,
        (Some(Verdict::Unconfirmed), Command::Read(_)) => Failure::TimedOut,
        (None, _) => Failure::Reported(shortened(reason)),
    }
}

/// A reply has room for a sentence, not for a program's whole output.
const MAX_SAID: usize = 200;

fn shortened(said: &str) -> Said {
    said.chars().filter(|character| !character.is_control()).take(MAX_SAID).collect::<String>().into()
}

/// The last line that it wrote, or how it ended.
fn last_words(said: &str, end: &End) -> Said {
    match said.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => shortened(line.trim()),
        None => match end {
            End::Exited(status) => format!("ipmitool gave no answer ({status})").into(),
            End::Stopped | End::NotStarted(_) => "ipmitool gave no answer".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, Keys};
    use crate::http::Head;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const ON: Command = Command::Change(Change::PowerOn);
    const STATUS: Command = Command::Read(Read::PowerStatus);

    fn read(command: Command, stdout: &str, stderr: &str, exit: i32) -> Result<Answer, Failure> {
        let output = |text: &str| Output { bytes: text.into(), truncated: false };
        let end = End::Exited(ExitStatus::from_raw(exit << 8));
        read_outcome(command, &Outcome { stdout: output(stdout), stderr: output(stderr), end })
    }

    fn stopped(command: Command, stderr: &str, truncated: bool) -> Failure {
        let stderr = Output { bytes: stderr.into(), truncated };
        read_outcome(command, &Outcome { stdout: Output::default(), stderr, end: End::Stopped }).unwrap_err()
    }

    #[test]
    fn a_whole_success_line_decides_whatever_the_exit_code() {
        for exit in [0, 1, 255] {
            assert_eq!(read(STATUS, "Chassis Power is on\n", "", exit), Ok(Answer::Status(Power::On)));
            assert_eq!(
                read(STATUS, "noise\nChassis Power is off\n", "", exit),
                Ok(Answer::Status(Power::Off))
            );
            let lines =
                "Chassis Power Control: Up/On\nSIGN INT: Close Interface IPMI v2.0 RMCP+ LAN Interface\n";
            assert_eq!(
                read(ON, lines, "Close Session command failed", exit),
                Ok(Answer::Done(Change::PowerOn))
            );
        }
    }

    #[test]
    fn a_part_of_a_line_or_another_command_s_line_is_no_success() {
        for (command, stdout) in [
            (STATUS, "Chassis Power is on fire"),
            (STATUS, " Chassis Power is on"),
            (STATUS, "Chassis Power Control: Up/On"),
            (ON, "Chassis Power is on"),
            (ON, "Chassis Power Control: Down/Off"),
            (ON, "Chassis Power Control: Up"),
            (ON, ""),
        ] {
            assert!(read(command, stdout, "", 0).is_err(), "{stdout:?}");
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_no_success() {
        let told = |text: &str| {
            let stdout = Output { bytes: text.into(), truncated: true };
            read_outcome(STATUS, &Outcome { stdout, stderr: Output::default(), end: End::Stopped })
        };
        assert_eq!(told("Chassis Power is on\nChassis Power"), Ok(Answer::Status(Power::On)));
        assert_eq!(told("Chassis Power is on"), Err(Failure::TimedOut));
    }

    #[test]
    fn the_reason_is_found_in_the_words_of_ipmitool() {
        let established = "Error: Unable to establish IPMI v2 / RMCP+ session\n";
        for (said, failure) in [
            ("> RAKP 2 HMAC is invalid\n", Failure::BadPassword),
            ("RAKP 2 message indicates an error : unauthorized name\n", Failure::UnknownUser),
            ("RAKP 2 message indicates an error : unauthorized role requested\n", Failure::Privilege),
            ("Error in open session response message : no matching cipher suite\n", Failure::CipherSuite),
            (
                "Error in open session response message : invalid authentication algorithm\n",
                Failure::CipherSuite,
            ),
            ("Authentication algorithm 0x01 is not what we requested 0x03\n", Failure::CipherSuite),
            (
                "Error in open session response message : insufficient resources for session\n",
                busy("it has no free session"),
            ),
            ("Get Auth Capabilities error: Node busy\n", error("it does not say how to log in")),
            ("Set Session Privilege Level to OPERATOR failed: Unknown (0x81)\n", Failure::Privilege),
            (
                "Set Session Privilege Level to ADMINISTRATOR failed\n",
                unreachable("it fell silent during the login"),
            ),
            ("Get Auth Capabilities error\n", unreachable("no reply from its address")),
            ("Address lookup for nowhere failed\n", unreachable("its name cannot be resolved")),
        ] {
            for command in [ON, STATUS] {
                assert_eq!(
                    read(command, "", &format!("{said}{established}"), 1),
                    Err(failure.clone()),
                    "{said}"
                );
            }
        }
    }

    #[test]
    fn a_completion_code_is_declined_busy_denied_unknown_or_an_error() {
        for (reason, failure) in [
            (
                "Command not supported in present state",
                Failure::Refused("Command not supported in present state".into()),
            ),
            ("Invalid data field in request", Failure::Refused("Invalid data field in request".into())),
            ("Node busy", Failure::Busy("Node busy".into())),
            ("Insufficient privilege level", Failure::Privilege),
            ("Unspecified error", Failure::Reported("Unspecified error".into())),
            ("Unknown (0x80)", Failure::Reported("Unknown (0x80)".into())),
            ("Timeout", Failure::OutcomeUnknown),
        ] {
            let said = format!(
                "Running Get VSO Capabilities my_addr 0x20\nSet Chassis Power Control to Up/On failed: {reason}\n"
            );
            assert_eq!(read(ON, "", &said, 1), Err(failure), "{reason}");
        }
        assert_eq!(read(STATUS, "", "Get Chassis Power Status failed: Timeout\n", 1), Err(Failure::TimedOut));
    }

    #[test]
    fn a_change_that_may_have_been_sent_is_never_called_unsent() {
        let up = "Discovered IPMB address 0x0\n";
        assert_eq!(
            read(ON, "", &format!("{up}Unable to set Chassis Power Control to Up/On\n"), 1),
            Err(Failure::OutcomeUnknown)
        );
        assert_eq!(read(ON, "", &format!("{up}> RAKP 2 HMAC is invalid\n"), 1), Err(Failure::OutcomeUnknown));
        assert_eq!(read(ON, "gibberish\n", "", 0), Err(Failure::OutcomeUnknown));
        assert_eq!(stopped(ON, up, false), Failure::OutcomeUnknown);
        assert_eq!(stopped(ON, "", true), Failure::OutcomeUnknown);
        assert_eq!(stopped(ON, "", false), Failure::OutcomeUnknown);
        assert_eq!(read(ON, "", "", 1), Err(Failure::OutcomeUnknown));
        assert_eq!(stopped(STATUS, up, false), Failure::TimedOut);
        assert_eq!(
            stopped(ON, "Loading IANA PEN Registry...\n", false),
            unreachable("no session came up in time")
        );
    }

    #[test]
    fn last_words_are_kept_short_and_plain() {
        let long = format!("a\u{1b}[31m{}", "b".repeat(500));
        let Err(Failure::Error(said)) = read(STATUS, "", &long, 1) else { panic!("expected an error") };
        assert!(said.len() == MAX_SAID && !said.contains('\u{1b}'), "{said}");
        let Err(Failure::Error(said)) = read(STATUS, "", "", 3) else { panic!("expected an error") };
        assert_eq!(said, "ipmitool gave no answer (exit status: 3)");
    }

    #[test]
    fn extra_arguments_are_few_and_plain() {
        for good in ["", "-o supermicro", "-t 0x20 -b 6", "-l '0'", "-t 0x72 -T 0x82 -B 0", "-A RMCP+"] {
            assert!(ExtraArguments::parse(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("-R 4", "-R is not allowed"),
            ("-vvv", "use RUST_LOG=debug"),
            ("-P secret", "use BMC_PASSWORD"),
            ("-Psecret", "use BMC_PASSWORD"),
            ("-N 1", "use REQUEST_TIMEOUT"),
            ("-L USER", "use BMC_PRIVILEGE"),
            ("power off", "a word without an option"),
            ("-t 0x20 power off", "a word without an option"),
            ("-t", "-t needs a number"),
            ("-t ''", "-t needs a number"),
            ("-t 256", "-t needs a number"),
            ("-t +1", "-t needs a number"),
            ("-o -R", "-o needs one of"),
            ("-o list", "-o needs one of"),
            ("-A NONE", "-A needs one of"),
            ("-m 0x20", "-m is not allowed"),
            ("-T 0x82", "-T needs -t"),
            ("-t0x20", "-t is not allowed like this"),
            ("-", "a word without an option"),
            ("-o 'a", "every quote"),
        ] {
            let error = ExtraArguments::parse(bad).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn cipher_suites_and_privileges_are_those_of_the_standard() {
        for good in ["0", "3", "17", "auto", "AUTO"] {
            assert!(CipherSuite::parse(good).is_ok(), "{good}");
        }
        for bad in ["three", "18", "-1", "3 ", "0x3", "256"] {
            assert!(CipherSuite::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Privilege::parse("operator"), Ok(Privilege(Some("OPERATOR"))));
        assert!(Privilege::parse("KING").is_err());
    }

    const ALL: [Command; 6] = [
        STATUS,
        ON,
        Command::Change(Change::PowerSoft),
        Command::Change(Change::PowerOff),
        Command::Change(Change::PowerCycle),
        Command::Change(Change::PowerReset),
    ];

    /// Pieces of what `ipmitool` prints, and of what it never should: noise alone would hardly meet a known line.
    const SAID: &[&str] = &[
        "Chassis Power is on",
        "Chassis Power is off",
        "Chassis Power Control: Up/On",
        "Chassis Power Control: Down/Off",
        "Chassis Power Control: Soft",
        "Chassis Power Control: Cycle",
        "Chassis Power Control: Reset",
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
        let piece = prop_oneof![
            3 => select(SAID).prop_map(|piece| piece.as_bytes().to_vec()),
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
        (output(), output(), end).prop_map(|(stdout, stderr, end)| Outcome { stdout, stderr, end })
    }

    /// Whether a line of the output is this one, byte for byte.
    fn has_line(output: &Output, line: &str) -> bool {
        let mut lines: Vec<_> = output.bytes.split(|byte| *byte == b'\n').collect();
        // Behind the last line feed: perhaps no whole line, and a CR there ends nothing.
        let rest = lines.pop().filter(|_| !output.truncated);
        let whole = lines.into_iter().map(|own| own.strip_suffix(b"\r").unwrap_or(own));
        whole.chain(rest).any(|own| own == line.as_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

        #[test]
        fn only_the_commands_own_line_is_its_success(command in select(&ALL[..]), outcome in outcome()) {
            let said = |line| has_line(&outcome.stdout, line);
            match (command, read_outcome(command, &outcome)) {
                (Command::Read(_), Ok(Answer::Status(power))) => prop_assert!(said(power.status_line())),
                (Command::Change(own), Ok(Answer::Done(done))) => {
                    prop_assert!(own == done && said(own.success_line()));
                }
                (_, Ok(answer)) => prop_assert!(false, "{command:?} gave {answer:?}"),
                (Command::Read(_), Err(failure)) => {
                    prop_assert!(!Power::ALL.iter().any(|power| said(power.status_line())));
                    prop_assert_ne!(failure, Failure::OutcomeUnknown);
                }
                (Command::Change(own), Err(_)) => prop_assert!(!said(own.success_line())),
            }
        }

        /// Behind those two lines the command follows: unless the BMC itself answered it, nobody knows.
        #[test]
        fn what_may_have_been_sent_is_never_called_unsent(
            command in select(&ALL[1..]),
            mut outcome in outcome(),
            sign in select(&SESSION_IS_UP[..]),
        ) {
            outcome.stderr.bytes.splice(0..0, format!("{sign}\n").into_bytes());
            let said = outcome.stderr.text().into_owned();
            let result = read_outcome(command, &outcome);
            let is_answered = said.contains(" failed: ") || matches!(outcome.end, End::NotStarted(_));
            prop_assert!(result.is_ok() || is_answered || result == Err(Failure::OutcomeUnknown), "{result:?}");
        }

        #[test]
        fn what_a_reply_quotes_is_short_and_plain(command in select(&ALL[..]), outcome in outcome()) {
            if let Err(failure) = read_outcome(command, &outcome) {
                let said = failure.detail().unwrap_or_default();
                prop_assert!(said.chars().count() <= MAX_SAID && !said.contains(char::is_control), "{said:?}");
            }
        }

        #[test]
        fn no_extra_argument_is_a_command_or_overrides_the_fixed_part(
            words in arguments(),
            command in select(&ALL[..]),
            user in "[ -~]{1,16}",
        ) {
            let Ok(extra) = ExtraArguments::parse(&words) else { return Ok(()) };
            let fixed = |value: &str| Credential::fixed("X", value, |_| Ok(())).unwrap();
            let bmc = Bmc {
                program: "/usr/bin/ipmitool".into(),
                host: "192.0.2.1".to_owned(),
                port: 623,
                user: fixed(&user),
                password: fixed("s3cret-n0where-else"),
                cipher_suite: CipherSuite::Number(3),
                privilege: Privilege(Some("OPERATOR")),
                extra,
            };
            let head = Head::parse(b"GET / HTTP/1.0\r\nX-API-Key: k\r\n\r\n", String::new()).unwrap();
            let authorised = Keys(vec![Key { name: "k".into(), credential: fixed("k"), allows: vec![command] }]).authorise(&head, command).unwrap();
            let arguments = bmc.invocation(&authorised, &bmc.login()).arguments;
            let (options, free) = as_ipmitool_reads(&arguments);
            prop_assert_eq!(free.join(" "), command.name());
            let (seconds, tries) = if command == STATUS { ("2", "2") } else { ("4", "1") };
            for (option, value) in [
                ('I', "lanplus"),
                ('v', ""),
                ('N', seconds),
                ('R', tries),
                ('H', "192.0.2.1"),
                ('p', "623"),
                ('U', &user),
                ('E', ""),
                ('C', "3"),
                ('L', "OPERATOR"),
            ] {
                let values: Vec<_> = options.iter().filter(|(own, _)| *own == option).collect();
                prop_assert_eq!(values, [&(option, value)]);
            }
            let others = options.iter().filter(|(option, _)| !"IvNRHpUECL".contains(*option));
            for (option, value) in others {
                prop_assert!("oAltbTB".contains(*option) && !value.is_empty(), "-{} {}", option, value);
            }
            prop_assert!(!arguments.iter().any(|argument| argument.contains("s3cret")));
        }

        /// It may be a password that stands in the wrong variable.
        #[test]
        fn a_rejected_argument_is_not_repeated(before in arguments(), after in arguments(), option in OPTION) {
            for secret in ["hunter2hunter2", "-phunter2hunter2", "'hunter2hunter2", "$hunter2hunter2"] {
                for between in ["", " "] {
                    let text = format!("{before} {option}{between}{secret} {after}");
                    let error = ExtraArguments::parse(&text).err().unwrap_or_default();
                    prop_assert!(!error.contains("hunter2"), "{}", error);
                }
            }
        }

        /// Each problem at the start is one line.
        #[test]
        fn an_error_is_one_plain_line(words in arguments()) {
            if let Err(error) = ExtraArguments::parse(&words) {
                prop_assert!(!error.contains(char::is_control), "{error:?}");
            }
        }
    }

    const OPTION: &str = "-[a-zA-Z0-9]";

    /// Text of options that pass, options that must not, commands, quotes and noise.
    fn arguments() -> impl Strategy<Value = String> {
        let good = select(
            &[
                "-o supermicro",
                "-A MD5",
                "-l 0",
                "-t 0x20",
                "-b 6",
                "-T 0x82",
                "-B 0",
                "-t '32'",
                "'-o' \"icts\"",
            ][..],
        );
        let bad = select(
            &[
                "-o",
                "-R",
                "-N",
                "-v",
                "-vvv",
                "-P",
                "-f",
                "-I",
                "power",
                "off",
                "power off",
                "--",
                "-",
                "'",
                "\\",
            ][..],
        );
        let word = prop_oneof![
            6 => good.prop_map(str::to_owned),
            1 => bad.prop_map(str::to_owned),
            1 => OPTION,
            2 => select(
                &[
                    "-I lan", "-H other", "-p 624", "-U root", "-E", "-C 17", "-L USER", "-N 9", "-R 4", "-v", "-P x",
                    "-f 1", "-k 0", "-y 0",
                ][..],
            )
            .prop_map(str::to_owned),
            1 => "-[a-zA-Z] ?(0|4|0x20|MD5|supermicro|USER)",
            1 => "\\PC{0,6}",
            1 => any::<String>(),
            1 => any::<char>().prop_map(|letter| format!("'-{letter}'")),
        ];
        prop::collection::vec(word, 0..5).prop_map(|words| words.join(" "))
    }

    /// Options with their values, and the free words: as getopt(3) splits them by `ipmitool` 1.8.19's own list.
    fn as_ipmitool_reads(arguments: &[String]) -> (Vec<(char, &str)>, Vec<&str>) {
        const WITH_VALUE: &str = "IHdPfUpCLAtTmzSlbBeokyORND";
        let (mut options, mut free) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                free.push(word);
                continue;
            };
            for (at, letter) in letters.char_indices() {
                if !WITH_VALUE.contains(letter) {
                    options.push((letter, ""));
                    continue;
                }
                let attached = &letters[at + letter.len_utf8()..];
                let value = if attached.is_empty() { rest.next().unwrap_or_default() } else { attached };
                options.push((letter, value));
                break;
            }
        }
        (options, free)
    }
}
