//! Every reply: an `Answer` or a `Problem` as a `Response`, by one table of failures.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use crate::auth::Refusal;
use crate::delivery::Skip;
use crate::http::{HeadError, Response, StatusCode};
use crate::ipmi::{Change, Command, Read};
use crate::ipmitool::{Answer, Failure};
use crate::memory::Stored;
use crate::route::{self, NoRoute};

/// Every way in which a request can fail, as the part of the house that found it says so.
#[derive(Debug)]
pub enum Problem {
    Head(HeadError),
    /// The request was not complete in time.
    Slow,
    BodyTooLarge,
    NoRoute(NoRoute),
    Refusal(Refusal),
    /// Not started, and what is in its way.
    Busy(&'static str),
    /// The delivery's id was given to this change.
    IdReused(Change),
    /// So many seconds after that change; and so many are to come.
    TooSoon {
        last: Change,
        ago: u64,
        wait: u64,
    },
    Run(Failure),
    /// It failed like this a moment ago and was not tried again; it will be after this time.
    Remembered(Failure, Duration),
    /// A defect of ours.
    Panic,
    /// Only a CGI program comes so far without a configuration.
    Misconfigured,
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

impl From<NoRoute> for Problem {
    fn from(error: NoRoute) -> Self {
        Self::NoRoute(error)
    }
}

impl From<Refusal> for Problem {
    fn from(error: Refusal) -> Self {
        Self::Refusal(error)
    }
}

/// For programs: what `code` says. In the order of `FAILURES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    BmcRefused,
    Cooldown,
    BodyTooLarge,
    DeliveryIdReused,
    HeadTooLarge,
    Internal,
    IpmitoolMissing,
    Misconfigured,
    BmcUnreachable,
    BmcBadPassword,
    BmcUnknownUser,
    BmcCipherSuite,
    BmcPrivilege,
    BmcBusy,
    BmcError,
    Busy,
    BmcTimeout,
    OutcomeUnknown,
}

#[derive(Clone, Copy)]
struct Row {
    code: Code,
    status: u16,
    name: &'static str,
    /// What happened; a detail may follow.
    what: &'static str,
    /// What to do about it.
    remedy: &'static str,
    /// Whether the same request may follow by itself, as senders of webhooks do it: nothing was sent to the BMC.
    repeatable: bool,
}

const fn row(code: Code, status: u16, name: &'static str, what: &'static str, remedy: &'static str) -> Row {
    Row { code, status, name, what, remedy, repeatable: true }
}

/// The same of a failure after which only a person should try again.
const fn once(row: Row) -> Row {
    Row { repeatable: false, ..row }
}

/// The failure table, as the README shows it.
const FAILURES: &[Row] = &[
    row(Code::BadRequest, 400, "bad_request", "Bad request", ""),
    row(Code::Unauthorized, 401, "unauthorized", "Invalid or missing API key", ""),
    row(Code::Forbidden, 403, "forbidden", "Not allowed", ""),
    row(Code::NotFound, 404, "not_found", "Endpoint not found", ""),
    row(Code::MethodNotAllowed, 405, "method_not_allowed", "Method not allowed", ""),
    row(Code::RequestTimeout, 408, "request_timeout", "The request was not complete within 5 s", ""),
    once(row(
        Code::BmcRefused,
        409,
        "bmc_refused",
        "The BMC refused the command",
        "Read the power status: a server that is off cannot be cycled or reset, and some BMCs lack a command",
    )),
    row(
        Code::Cooldown,
        409,
        "cooldown",
        "Not sent, since the server was restarted a moment ago",
        "Give it time to start; POWER_COOLDOWN sets how much",
    ),
    row(
        Code::BodyTooLarge,
        413,
        "body_too_large",
        "The body has more than 64 KiB",
        "Send a smaller one, or none",
    ),
    row(
        Code::DeliveryIdReused,
        422,
        "delivery_id_reused",
        "Not sent, since its delivery id belongs to another command",
        "Give each delivery an id of its own",
    ),
    row(
        Code::HeadTooLarge,
        431,
        "head_too_large",
        "Request line and headers have more than 8 KiB or 64 fields",
        "Send fewer headers",
    ),
    row(Code::Internal, 500, "internal", "The sidecar could not do its work", "Its log says why"),
    row(
        Code::IpmitoolMissing,
        500,
        "ipmitool_missing",
        "ipmitool could not be started",
        "Install it where the sidecar runs, or set IPMITOOL to its path",
    ),
    row(
        Code::Misconfigured,
        500,
        "misconfigured",
        "The sidecar's configuration is wrong",
        "The web server's error log names each variable and its remedy",
    ),
    row(
        Code::BmcUnreachable,
        502,
        "bmc_unreachable",
        "The BMC does not answer",
        "Check BMC_HOST and BMC_PORT, that IPMI over LAN is enabled in the BMC's settings, and that UDP port 623 of \
         the BMC is reachable from this node",
    ),
    row(
        Code::BmcBadPassword,
        502,
        "bmc_bad_password",
        "The BMC rejected the password",
        "Correct BMC_PASSWORD; some BMCs keep only the first 16 bytes of a password",
    ),
    row(
        Code::BmcUnknownUser,
        502,
        "bmc_unknown_user",
        "The BMC does not let this user in",
        "Correct BMC_USER, and allow the user IPMI over LAN at the privilege level of BMC_PRIVILEGE (ADMINISTRATOR \
         if unset)",
    ),
    row(
        Code::BmcCipherSuite,
        502,
        "bmc_cipher_suite",
        "The BMC does not accept this cipher suite",
        "Set BMC_CIPHER_SUITE to 17 for a newer BMC, to 3 for an older one, or to auto",
    ),
    row(
        Code::BmcPrivilege,
        502,
        "bmc_privilege",
        "The BMC user's privilege level does not allow this",
        "Give the user OPERATOR on the BMC, which is enough to switch power, and set BMC_PRIVILEGE to the level it has",
    ),
    row(
        Code::BmcBusy,
        502,
        "bmc_busy",
        "The BMC is busy",
        "Try again in a minute; a BMC has about four sessions, so stop what else polls it",
    ),
    row(
        Code::BmcError,
        502,
        "bmc_error",
        "The BMC or ipmitool reported an error",
        "Read the power status, then try again; the log has ipmitool's own words",
    ),
    row(Code::Busy, 503, "busy", "Not sent", "Try again in a few seconds"),
    row(
        Code::BmcTimeout,
        504,
        "bmc_timeout",
        "The BMC did not finish in time; nothing was changed",
        "Try again; a BMC that is always this slow needs a larger REQUEST_TIMEOUT",
    ),
    once(row(
        Code::OutcomeUnknown,
        504,
        "outcome_unknown",
        "The change was sent but never confirmed, so it may have happened",
        "Read the power status; do not just repeat the request",
    )),
];

/// Each code finds its row by its number.
const _: () = {
    assert!(FAILURES.len() == Code::OutcomeUnknown as usize + 1);
    let mut index = 0;
    while index < FAILURES.len() {
        assert!(FAILURES[index].code as usize == index);
        index += 1;
    }
};

impl Problem {
    const fn code(&self) -> Code {
        match self {
            Self::Head(HeadError::Malformed(_)) => Code::BadRequest,
            Self::Head(HeadError::TooLarge) => Code::HeadTooLarge,
            Self::Slow => Code::RequestTimeout,
            Self::BodyTooLarge => Code::BodyTooLarge,
            Self::NoRoute(NoRoute::UnknownPath) => Code::NotFound,
            Self::NoRoute(NoRoute::WrongMethod { .. }) => Code::MethodNotAllowed,
            Self::Refusal(Refusal::NoValidKey) => Code::Unauthorized,
            Self::Refusal(Refusal::CrossSite | Refusal::NotAllowed { .. }) => Code::Forbidden,
            Self::IdReused(_) => Code::DeliveryIdReused,
            Self::TooSoon { .. } => Code::Cooldown,
            Self::Busy(_) => Code::Busy,
            Self::Panic => Code::Internal,
            Self::Misconfigured => Code::Misconfigured,
            Self::Run(failure) | Self::Remembered(failure, _) => match failure {
                Failure::Refused(_) => Code::BmcRefused,
                Failure::Unreachable(_) => Code::BmcUnreachable,
                Failure::BadPassword => Code::BmcBadPassword,
                Failure::UnknownUser => Code::BmcUnknownUser,
                Failure::CipherSuite => Code::BmcCipherSuite,
                Failure::Privilege => Code::BmcPrivilege,
                Failure::Busy(_) => Code::BmcBusy,
                Failure::Error(_) | Failure::Reported(_) => Code::BmcError,
                Failure::TimedOut => Code::BmcTimeout,
                Failure::OutcomeUnknown => Code::OutcomeUnknown,
                Failure::Missing(_) => Code::IpmitoolMissing,
                Failure::NotStarted(_) => Code::Internal,
            },
        }
    }

    /// What is particular about this one.
    fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Head(HeadError::Malformed(detail)) | Self::Busy(detail) => Some((*detail).into()),
            Self::NoRoute(NoRoute::WrongMethod { allow }) => {
                Some(format!("use {}", allow.replace(", ", " or ")).into())
            }
            Self::Refusal(Refusal::CrossSite) => Some(
                "a web page of another site may not change power. Send the request from a program, or from a page of \
                 the same origin"
                    .into(),
            ),
            Self::Refusal(Refusal::NotAllowed { may }) => {
                let words: Vec<_> = may.iter().map(|command| route::word(*command)).collect();
                Some(format!("this key is only for {}. Use one that allows it", words.join(", ")).into())
            }
            Self::IdReused(change) => Some(Command::Change(*change).name().into()),
            Self::TooSoon { last, ago, .. } => {
                Some(format!("{} {ago} s ago", Command::Change(*last).name()).into())
            }
            Self::Run(failure) | Self::Remembered(failure, _) => failure.detail().map(Cow::Borrowed),
            _ => None,
        }
    }

    /// `code: what happened. What to do about it`, for the log and the command line.
    pub fn explain(&self) -> String {
        format!("{}: {}", FAILURES[self.code() as usize].name, self.error())
    }

    fn error(&self) -> String {
        let Row { what, remedy, .. } = FAILURES[self.code() as usize];
        let mut error = what.to_owned();
        if let Some(detail) = self.detail() {
            error = format!("{error}: {detail}");
        }
        if !remedy.is_empty() {
            error = format!("{error}. {remedy}");
        }
        error
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            // Bearer only: on a Basic challenge a browser asks for a password, keeps it, and sends it by itself.
            Self::Refusal(Refusal::NoValidKey) => {
                vec![("WWW-Authenticate", "Bearer realm=\"ipmi-sidecar\"".to_owned())]
            }
            Self::NoRoute(NoRoute::WrongMethod { allow }) => vec![("Allow", (*allow).to_owned())],
            Self::Busy(_) => vec![("Retry-After", BUSY_RETRY_SECONDS.to_string())],
            Self::TooSoon { wait, .. } => vec![("Retry-After", wait.to_string())],
            Self::Remembered(_, left) => vec![("Retry-After", (left.as_secs() + 1).to_string())],
            _ => Vec::new(),
        }
    }

    /// The reply, which names the command if one was chosen.
    pub fn reply(&self, command: Option<Command>) -> Response {
        let Row { status, name, .. } = FAILURES[self.code() as usize];
        self.reply_with(status, name, command)
    }

    /// The reply to one who sends alerts. Those repeat whatever is not answered with 2xx: so what must not be repeated
    /// is.
    pub fn reply_to_alerts(&self, command: Command) -> Response {
        let Row { status, name, .. } = FAILURES[self.code() as usize];
        self.reply_with(if self.is_repeatable() { status } else { 200 }, name, Some(command))
    }

    /// Whether the same request may follow by itself: nothing was sent to the BMC.
    pub const fn is_repeatable(&self) -> bool {
        // What a BMC reports in words of its own may have happened all the same.
        FAILURES[self.code() as usize].repeatable && !matches!(self, Self::Run(Failure::Reported(_)))
    }

    fn reply_with(&self, status: u16, name: &str, command: Option<Command>) -> Response {
        let mut members =
            vec![("success", Value::Bool(false)), ("error", self.error().into()), ("code", name.into())];
        if let Some(command) = command {
            members.push(("command", command.name().into()));
            // Home Assistant's rest sensor reads the body whatever the status.
            if command == Command::Read(Read::PowerStatus) {
                members.push(("power_state", "unknown".into()));
            }
        }
        Response { status: StatusCode(status), headers: self.headers(), body: object(&members) }
    }
}

/// A lane has moved on by then, mostly.
const BUSY_RETRY_SECONDS: u32 = 5;

/// The reply to `/health`.
pub fn health() -> Response {
    ok(&[("status", "healthy".into()), ("service", "ipmi-sidecar".into())])
}

/// The reply to a command that was carried out.
pub fn answer(answer: Answer) -> Response {
    match answer {
        Answer::Status(power) => ok(&[
            ("success", true.into()),
            ("power_state", power.name().into()),
            ("raw_output", power.status_line().into()),
        ]),
        Answer::Done(change) => ok(&[
            ("success", true.into()),
            ("output", change.success_line().into()),
            ("command", Command::Change(change).name().into()),
        ]),
    }
}

/// The reply to a change that nobody needs.
pub fn skipped(skip: Skip) -> Response {
    ok(&[("success", true.into()), ("skipped", skip.name().into())])
}

/// The reply that the same delivery had before, marked as such.
pub fn again(Stored { status, body }: Stored) -> Response {
    Response { status: StatusCode(status), headers: vec![("Idempotent-Replayed", "true".to_owned())], body }
}

fn ok(members: &[(&str, Value)]) -> Response {
    Response { status: StatusCode(200), headers: Vec::new(), body: object(members) }
}

/// A JSON object with its members in this order, the most telling one first; `serde_json`'s own would sort them.
fn object(members: &[(&str, Value)]) -> String {
    let members: Vec<_> =
        members.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipmi::{Change, Power};

    #[test]
    fn replies_are_those_of_the_contract() {
        for (response, status, body) in [
            (health(), 200, r#"{"status":"healthy","service":"ipmi-sidecar"}"#),
            (
                answer(Answer::Status(Power::On)),
                200,
                r#"{"success":true,"power_state":"on","raw_output":"Chassis Power is on"}"#,
            ),
            (
                answer(Answer::Done(Change::PowerOn)),
                200,
                r#"{"success":true,"output":"Chassis Power Control: Up/On","command":"power on"}"#,
            ),
            (
                Problem::from(Refusal::NoValidKey).reply(Some(Command::Read(Read::PowerStatus))),
                401,
                r#"{"success":false,"error":"Invalid or missing API key","code":"unauthorized","command":"power status","power_state":"unknown"}"#,
            ),
            (
                Problem::from(NoRoute::UnknownPath).reply(None),
                404,
                r#"{"success":false,"error":"Endpoint not found","code":"not_found"}"#,
            ),
        ] {
            assert_eq!((response.status.0, &response.body[..]), (status, body));
            serde_json::from_str::<Value>(&response.body).unwrap();
        }
    }

    #[test]
    fn a_detail_stands_between_what_happened_and_the_remedy() {
        let refused = Problem::Run(Failure::Refused("it is \"off\"".into()));
        assert!(
            refused.error().starts_with("The BMC refused the command: it is \"off\". Read the power status")
        );
        let body = refused.reply(Some(Command::Change(Change::PowerCycle))).body;
        let parsed: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["error"], refused.error());
    }

    #[test]
    fn the_guide_to_webhooks_shows_the_same_failures() {
        let guide = include_str!("../deploy/webhooks/README.md");
        let documented: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
        for (line, Row { status, name, repeatable, .. }) in documented.iter().zip(FAILURES) {
            let to_alerts = if *repeatable { status } else { &200 };
            assert!(line.starts_with(&format!("| `{name}` | {status} | {to_alerts} | ")), "{line}");
        }
        assert_eq!(documented.len(), FAILURES.len());
    }

    #[test]
    fn the_readme_shows_the_same_failures() {
        let documented: Vec<_> = include_str!("../README.md")
            .lines()
            .skip_while(|line| *line != "## Failures")
            .filter(|line| line.starts_with("| 4") || line.starts_with("| 5"))
            .take(FAILURES.len())
            .collect();
        for (line, Row { status, name, what, remedy, .. }) in documented.iter().zip(FAILURES) {
            let remedy = if remedy.is_empty() { "–" } else { remedy };
            assert_eq!(*line, format!("| {status} | `{name}` | {what} | {remedy} |"));
        }
        assert_eq!(documented.len(), FAILURES.len());
    }
}
