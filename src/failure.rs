//! THE TABLE of failures: every way in which a request can fail, with its status, its code and its remedy.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Command, NoRoute};
use crate::http::body::BodyError;
use crate::http::{HeadError, Response};
use crate::timing::BUSY_RETRY;

/// What is particular about one failure: a constant, or words of the BMC, of `ipmitool` or of the system.
pub type Detail = Cow<'static, str>;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: Code,
    detail: Option<Detail>,
    headers: Vec<(&'static str, String)>,
    is_repeatable: bool,
    /// Instead of its row's.
    what: Option<&'static str>,
    remedy: Option<&'static str>,
    /// `ipmitool`'s own words, in one line, for the log.
    words: String,
}

#[derive(Clone, Copy)]
struct Row {
    status: u16,
    name: &'static str,
    /// Whether the same request may follow by itself: nothing was sent to the BMC.
    repeat: Repeat,
    /// What happened; a detail may follow.
    what: &'static str,
    /// What to do about it.
    remedy: &'static str,
}

/// Senders of webhooks repeat a request by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Safe,
    /// Only a person should try again.
    Unsafe,
}

/// Makes `Code` and the table of the same rows, so that each code has one row.
macro_rules! failures {
    ($($code:ident: $status:literal, $name:literal, $repeat:ident, $what:literal, $remedy:literal;)*) => {
        /// What failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($code),* }

        const FAILURES: &[Row] =
            &[$(Row { status: $status, name: $name, repeat: Repeat::$repeat, what: $what, remedy: $remedy }),*];
    };
}

failures! {
    BadRequest: 400, "bad_request", Safe, "Bad request", "";
    Unauthorized: 401, "unauthorized", Safe, "Invalid or missing API key", "";
    Forbidden: 403, "forbidden", Safe, "Not allowed", "";
    NotFound: 404, "not_found", Safe, "Endpoint not found", "";
    UnknownServer: 404, "unknown_server", Safe, "There is no such server", "GET /servers lists the servers of a key";
    MethodNotAllowed: 405, "method_not_allowed", Safe, "Method not allowed", "";
    RequestTimeout: 408, "request_timeout", Safe, "The request was not complete within 5 s", "";
    BmcRefused: 409, "bmc_refused", Unsafe, "The BMC refused the command",
        "Read the power status: a server that is off cannot be cycled or reset, and some BMCs lack a command";
    Cooldown: 409, "cooldown", Safe, "Not sent, since the server was restarted a moment ago",
        "Give it time to start; POWER_COOLDOWN sets how much";
    BodyTooLarge: 413, "body_too_large", Safe, "The body has more than 64 KiB", "Send a smaller one, or none";
    UnsupportedEncoding: 415, "unsupported_encoding", Safe, "The body is compressed", "Send it without Content-Encoding";
    DeliveryIdReused: 422, "delivery_id_reused", Safe, "Not sent, since its delivery id belongs to another command",
        "Give each delivery an id of its own";
    HeadTooLarge: 431, "head_too_large", Safe, "Request line and headers have more than 8 KiB or 64 fields",
        "Send fewer headers";
    Internal: 500, "internal", Safe, "The sidecar could not do its work", "Its log says why";
    IpmitoolMissing: 500, "ipmitool_missing", Safe, "ipmitool could not be started",
        "Install it where the sidecar runs, or set IPMITOOL to its path";
    Misconfigured: 500, "misconfigured", Safe, "The sidecar's configuration is wrong",
        "The web server's error log names each variable and its remedy";
    BmcUnsupported: 501, "bmc_unsupported", Unsafe, "The BMC lacks this command, or what it needs",
        "Do not repeat it; switching power works all the same";
    BmcUnreachable: 502, "bmc_unreachable", Safe, "The BMC does not answer",
        "Check BMC_HOST and BMC_PORT, that IPMI over LAN is enabled in the BMC's settings, and that UDP port 623 of the BMC is reachable from this node";
    BmcBadPassword: 502, "bmc_bad_password", Safe, "The BMC rejected the password",
        "Correct BMC_PASSWORD; some BMCs keep only the first 16 bytes of a password";
    BmcBadKgKey: 502, "bmc_bad_kg_key", Safe, "The login failed at its last step, as it does with a wrong KG key",
        "Set BMC_KG_KEY to the key of the BMC, or unset it if the BMC has none; some BMCs need -o in IPMITOOL_ARGS instead";
    BmcUnknownUser: 502, "bmc_unknown_user", Safe, "The BMC does not let this user in",
        "Correct BMC_USER, and allow the user IPMI over LAN at the privilege level of BMC_PRIVILEGE (ADMINISTRATOR if unset)";
    BmcCipherSuite: 502, "bmc_cipher_suite", Safe, "The BMC does not accept this cipher suite",
        "Set BMC_CIPHER_SUITE to 17 for a newer BMC, to 3 for an older one, or to auto";
    BmcPrivilege: 502, "bmc_privilege", Safe, "The BMC user's privilege level does not allow this",
        "Give the user OPERATOR on the BMC, which is enough to switch power, and set BMC_PRIVILEGE to the level it has";
    BmcBusy: 502, "bmc_busy", Safe, "The BMC is busy",
        "Try again in a minute; a BMC has about four sessions, so stop what else polls it";
    BmcError: 502, "bmc_error", Safe, "The BMC or ipmitool reported an error",
        "Read the power status, then try again; the log has ipmitool's own words";
    Busy: 503, "busy", Safe, "Not sent", "Try again in a few seconds";
    BmcTimeout: 504, "bmc_timeout", Safe, "The BMC did not finish in time; nothing was changed",
        "Try again; a BMC that is always this slow needs a larger REQUEST_TIMEOUT";
    OutcomeUnknown: 504, "outcome_unknown", Unsafe,
        "The change was sent but never confirmed, so it may have happened",
        "Read the power status; do not just repeat the request";
}

impl Code {
    /// With what is particular about this one.
    pub fn because(self, detail: impl Into<Detail>) -> Failure {
        Failure { detail: Some(detail.into()), ..self.into() }
    }

    /// Whether the BMC would say the same to each further try with this login.
    pub const fn rejects_login(self) -> bool {
        matches!(self, Self::BmcBadPassword | Self::BmcBadKgKey | Self::BmcUnknownUser)
    }

    const fn row(self) -> Row {
        FAILURES[self as usize]
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        let headers = match code {
            // Bearer only: on a Basic challenge a browser asks for a password, keeps it, and sends it by itself.
            Code::Unauthorized => vec![("WWW-Authenticate", "Bearer realm=\"ipmi-sidecar\"".to_owned())],
            Code::Busy => vec![("Retry-After", BUSY_RETRY.as_secs().to_string())],
            _ => Vec::new(),
        };
        Self {
            code,
            detail: None,
            headers,
            is_repeatable: code.row().repeat == Repeat::Safe,
            what: None,
            remedy: None,
            words: String::new(),
        }
    }
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(detail) => Code::BadRequest.because(detail),
            HeadError::TooLarge => Code::HeadTooLarge.into(),
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Malformed(detail) => Code::BadRequest.because(detail),
            BodyError::TooLarge => Code::BodyTooLarge.into(),
        }
    }
}

impl From<NoRoute> for Failure {
    fn from(error: NoRoute) -> Self {
        match error {
            NoRoute::UnknownPath(path) => Code::NotFound.because(format!("there is no {path}")),
            NoRoute::WrongMethod { allow } => {
                let failure = Code::MethodNotAllowed.because(format!("use {}", allow.replace(", ", " or ")));
                Self { headers: vec![("Allow", allow.to_owned())], ..failure }
            }
        }
    }
}

impl Failure {
    /// The change that ran out of time waiting for others.
    pub fn too_late() -> Self {
        Code::Busy.because("earlier commands took the time it had")
    }

    /// The caller whose time was over while the sensors were being read.
    pub fn still_reading() -> Self {
        let failure = Code::Busy.because("it takes longer than this request may take");
        Self { what: Some("The BMC is still reading its sensors"), ..failure }
    }

    /// The caller of a reading that ends with the program.
    pub fn stopping() -> Self {
        Code::Busy.because("the sidecar is stopping")
    }

    /// The request whose own body came too late.
    pub fn body_too_late() -> Self {
        Code::Busy.because("its body took the time it had")
    }

    /// A repeat of a delivery that waits or runs, of which too many wait already.
    pub fn under_way() -> Self {
        let failure = Code::Busy.because("too many requests of this key wait for its answer");
        Self { what: Some("This delivery is being carried out"), ..failure }
    }

    /// The change whose client has ended its side of the connection: it may have given up.
    pub fn client_left() -> Self {
        Code::Busy.because("not run: the client ended its side of the connection")
    }

    pub const fn code(&self) -> Code {
        self.code
    }

    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The same, with the time after which a retry makes sense. It is rounded up to whole seconds.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.headers = vec![("Retry-After", wait.as_millis().div_ceil(1000).to_string())];
        self
    }

    /// The same, where the BMC may have done it.
    #[must_use]
    pub fn not_repeatable(self) -> Self {
        Self { is_repeatable: false, ..self }
    }

    /// The same, with another remedy than its row's.
    #[must_use]
    pub fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// The same, with `ipmitool`'s words for the log.
    #[must_use]
    pub fn with_words(self, words: String) -> Self {
        Self { words, ..self }
    }

    /// Whether the same request may follow by itself: nothing was sent to the BMC.
    pub const fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// `code: what happened. What to do about it`, for the log and the command line.
    pub fn explain(&self) -> String {
        format!("{}: {}", self.code.row().name, self.error())
    }

    /// The same, with `ipmitool`'s words: for the log.
    pub fn explain_with_words(&self) -> String {
        if self.words.is_empty() {
            return self.explain();
        }
        format!("{} (ipmitool said: {})", self.explain(), self.words)
    }

    fn error(&self) -> String {
        let Row { what, remedy, .. } = self.code.row();
        let (what, remedy) = (self.what.unwrap_or(what), self.remedy.unwrap_or(remedy));
        let detail = self.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
        let remedy = if remedy.is_empty() { String::new() } else { format!(". {remedy}") };
        format!("{what}{detail}{remedy}")
    }

    /// The reply, which names the command if one was chosen.
    pub fn reply(&self, command: Option<Command>) -> Response {
        self.reply_with(self.code.row().status, command)
    }

    /// The reply to a sender of alerts. Senders retry every reply that is not 2xx. It is 200 where a retry is unsafe.
    pub fn reply_to_alerts(&self, command: Command) -> Response {
        self.reply_with(if self.is_repeatable { self.code.row().status } else { 200 }, Some(command))
    }

    fn reply_with(&self, status: u16, command: Option<Command>) -> Response {
        let mut members: Vec<(&str, Value)> = vec![
            ("success", false.into()),
            ("error", self.error().into()),
            ("code", self.code.row().name.into()),
        ];
        if let Some(command) = command {
            members.push(("command", command.name().into()));
            members.extend(command.when_failed().map(|(name, value)| (name, value.into())));
        }
        Response { headers: self.headers.clone(), ..Response::new(status, &members) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;

    fn command(path: &str) -> Command {
        Command::all().find(|command| command.path() == path).unwrap()
    }

    #[test]
    fn replies_are_those_of_the_contract() {
        for (response, status, body) in [
            (
                Failure::from(Code::Unauthorized).reply(Some(command("/power/status"))),
                401,
                r#"{"success":false,"error":"Invalid or missing API key","code":"unauthorized","command":"power status","power_state":"unknown"}"#,
            ),
            (
                Failure::from(NoRoute::UnknownPath("//power/on".to_owned())).reply(None),
                404,
                r#"{"success":false,"error":"Endpoint not found: there is no //power/on","code":"not_found"}"#,
            ),
            (
                Failure::from(Code::OutcomeUnknown).reply_to_alerts(command("/power/on")),
                200,
                r#"{"success":false,"error":"The change was sent but never confirmed, so it may have happened. Read the power status; do not just repeat the request","code":"outcome_unknown","command":"power on"}"#,
            ),
        ] {
            assert_eq!((response.status.0, &response.body[..]), (status, body));
            serde_json::from_str::<Value>(&response.body).unwrap();
        }
    }

    #[test]
    fn a_detail_stands_between_what_happened_and_the_remedy() {
        let refused = Code::BmcRefused.because("it is \"off\"");
        assert!(
            refused.error().starts_with("The BMC refused the command: it is \"off\". Read the power status")
        );
        let body = refused.reply(Some(command("/power/cycle"))).body;
        let parsed: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["error"], refused.error());
    }

    #[test]
    fn headers_tell_when_and_how_to_try_again() {
        let wrong = crate::command::find(&Method::Get, "/power/on").unwrap_err();
        for (failure, header) in [
            (Failure::too_late(), ("Retry-After", "5")),
            (Code::Cooldown.because("x").retry_after(Duration::from_millis(1_001)), ("Retry-After", "2")),
            (wrong.into(), ("Allow", "POST")),
            (Code::Unauthorized.into(), ("WWW-Authenticate", "Bearer realm=\"ipmi-sidecar\"")),
        ] {
            assert_eq!(failure.headers, [(header.0, header.1.to_owned())], "{failure:?}");
        }
    }

    #[test]
    fn the_guide_to_webhooks_shows_the_same_failures() {
        let guide = include_str!("../deploy/webhooks/README.md");
        let documented: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
        for (line, Row { status, name, repeat, .. }) in documented.iter().zip(FAILURES) {
            let to_alerts = if *repeat == Repeat::Safe { status } else { &200 };
            assert!(line.starts_with(&format!("| `{name}` | {status} | {to_alerts} | ")), "{line}");
        }
        assert_eq!(documented.len(), FAILURES.len());
    }

    #[test]
    fn the_openapi_document_shows_the_same_failures() {
        let document = include_str!("../deploy/openapi.yaml");
        let version = concat!("\n  version: ", env!("CARGO_PKG_VERSION"), "\n");
        assert!(document.contains(version), "expected {version:?}");
        let responses =
            document.split("\n  responses:\n").nth(1).unwrap().split("\n  schemas:\n").next().unwrap();
        let mut documented = Vec::new();
        let mut status = "";
        for line in responses.lines() {
            if let Some(key) = line.strip_prefix("    \"") {
                status = key.trim_end_matches("\":");
            }
            if let Some(codes) = line.trim_start().strip_prefix("code: {enum: [") {
                let codes = codes.trim_end_matches("]}").split(", ");
                documented.extend(codes.map(|code| format!("{status} {code}")));
            }
        }
        let expected: Vec<_> =
            FAILURES.iter().map(|Row { status, name, .. }| format!("{status} {name}")).collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn the_guide_to_failures_shows_the_same_table() {
        let guide = include_str!("../deploy/failures.md");
        let documented: Vec<_> =
            guide.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5")).collect();
        for (line, Row { status, name, what, remedy, .. }) in documented.iter().zip(FAILURES) {
            let remedy = if remedy.is_empty() { "–" } else { remedy };
            assert_eq!(*line, format!("| {status} | `{name}` | {what} | {remedy} |"));
        }
        assert_eq!(documented.len(), FAILURES.len());
    }
}
