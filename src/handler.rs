//! The handler, in three steps: `admit` decides by the head, `with_body` by the body, and the `Bmc` runs the command.
//! The front ends meet here.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};

use crate::auth::{Authorised, Keys};
use crate::bmc::{Bmc, Deliver, Guesses, Repeats, skipped};
use crate::command::{self, Command, MAX_SHOWN, Route};
use crate::failure::{Code, Failure};
use crate::history::alerts::is_damaged_json;
use crate::history::delivery::Delivery;
use crate::http::{Head, Response};
use crate::request::Admitted;
use crate::server::Server;
use crate::timing::LAST_SENSORS;

/// Carries out commands for clients that bring a key.
#[derive(Debug)]
pub struct Handler {
    keys: Keys,
    /// First that of the plain paths, if there is one, then those that have names.
    bmcs: Vec<Arc<Bmc>>,
    request_timeout: Duration,
    /// What the log lines about refused requests repeat.
    refusals: Mutex<Repeats>,
    guesses: Mutex<Guesses>,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Admission {
    Reply(Response),
    /// Its command may run on this BMC.
    Run(Arc<Bmc>, Admitted),
}

impl Handler {
    pub fn new(keys: Keys, bmcs: Vec<Bmc>, request_timeout: Duration) -> Self {
        let bmcs = bmcs.into_iter().map(Arc::new).collect();
        Self { keys, bmcs, request_timeout, refusals: Mutex::default(), guesses: Mutex::default() }
    }

    /// Reads what was attempted before, and makes sure that more can be noted.
    ///
    /// # Errors
    /// Why `STATE_DIR` does not serve: `WouldBlock` while another process has it.
    pub fn open_history(&self, until: Instant) -> io::Result<()> {
        self.bmcs.iter().try_for_each(|bmc| bmc.open_history(until))
    }

    /// # Errors
    /// When the system has no thread left.
    pub fn start_workers(&self, deliver: &Arc<Deliver>) -> io::Result<()> {
        self.keys.watch()?;
        self.bmcs.iter().try_for_each(|bmc| bmc.start_workers(deliver))
    }

    /// Step one, which takes microseconds.
    pub fn admit(&self, head: &Head) -> Admission {
        let admission = match command::find(&head.method, &head.path) {
            Ok(Route::Health) => Admission::Reply(health()),
            Ok(Route::Servers) => Admission::Reply(self.servers(head)),
            Ok(Route::Command(server, command)) => self.authorise(head, &server, command),
            Err(no_route) => Admission::Reply(self.refuse(head, None, &no_route.into())),
        };
        let result = match &admission {
            Admission::Reply(response) => response.status.0.to_string(),
            Admission::Run(..) => "admitted".to_owned(),
        };
        debug!("{} {:?} from {}: {result}", head.method, head.path, head.peer);
        admission
    }

    fn authorise(&self, head: &Head, server: &Server, command: Command) -> Admission {
        let admitted = self.keys.authorise(head, server, command).and_then(|authorised| {
            let bmc = self.bmc_of(server)?;
            check_encoding(head)?;
            let delivery = delivery_of(head, command)?;
            Ok(Admission::Run(bmc.clone(), self.admitted(authorised, delivery, head.peer.clone())))
        });
        admitted
            .unwrap_or_else(|failure| Admission::Reply(self.refuse(head, Some((server, command)), &failure)))
    }

    /// Only for a key that may reach every server.
    fn bmc_of(&self, server: &Server) -> Result<&Arc<Bmc>, Failure> {
        let bmc = self.bmcs.iter().find(|bmc| bmc.server() == server);
        bmc.ok_or_else(|| match server.name() {
            Some(name) => {
                Code::UnknownServer.because(name.escape_debug().take(MAX_SHOWN).collect::<String>())
            }
            None => Code::UnknownServer.because("BMC_HOST is not set, so the path must name a server"),
        })
    }

    /// The reply to `/servers`.
    fn servers(&self, head: &Head) -> Response {
        match self.keys.reached(head, self.bmcs.iter().map(|bmc| bmc.server())) {
            Ok(servers) => {
                let names: Vec<_> = servers.into_iter().filter_map(Server::name).collect();
                Response::new(200, &[("success", true.into()), ("servers", names.into())])
            }
            Err(failure) => self.refuse(head, None, &failure),
        }
    }

    /// Refusals are logged, so that the owner of a valid key finds out why: each once, then hourly. A path that does not
    /// exist is worth a line only if a valid key comes with it: anyone may ask for anything.
    fn refuse(&self, head: &Head, asked: Option<(&Server, Command)>, failure: &Failure) -> Response {
        let key = self.keys.name_of(head);
        if asked.is_some() || key.is_some() || failure.code() == Code::Unauthorized {
            let now = Instant::now();
            let mut repeats = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let level = repeats.level_of(None, failure, now);
            if level == Level::Debug && failure.code() == Code::Unauthorized {
                let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(line) = guesses.count(&head.peer, now) {
                    warn!("{line}");
                }
            }
            let what = match asked {
                // A name that no server has may be anything.
                Some((server, command)) if self.bmc_of(server).is_ok() => {
                    format!("{server}{}", command.name())
                }
                Some((_, command)) => command.name().to_owned(),
                None => head.path.escape_debug().to_string(),
            };
            let key = key.unwrap_or("no valid key");
            log!(level, "{what} ({key} from {}): {}", head.peer, failure.explain());
        }
        failure.reply(asked.map(|(_, command)| command))
    }

    fn admitted(&self, authorised: Authorised, delivery: Option<Delivery>, peer: String) -> Admitted {
        Admitted::new(authorised, delivery, peer, Instant::now(), self.request_timeout)
    }

    /// Every BMC, or that of this name alone, for the operator at the command line.
    ///
    /// # Errors
    /// That there is no such server.
    pub fn bmcs(&self, name: Option<&str>) -> Result<Vec<&Bmc>, String> {
        let is_asked = |bmc: &&Bmc| name.is_none() || bmc.server().name() == name;
        let bmcs: Vec<_> = self.bmcs.iter().map(|bmc| &**bmc).filter(is_asked).collect();
        match name {
            Some(name) if bmcs.is_empty() => {
                Err(format!("there is no server {name:?}: expected one that SERVERS names"))
            }
            _ => Ok(bmcs),
        }
    }

    /// Every read, for the operator at the command line: a line each.
    ///
    /// # Errors
    /// Which BMC does not answer, and why.
    pub fn check(&self, bmc: &Bmc) -> Result<String, String> {
        let lines = bmc.check(self.request_timeout).map_err(|why| format!("BMC {bmc}: {why}"))?;
        let named: Vec<_> = lines.iter().map(|line| format!("{}{line}", bmc.server())).collect();
        Ok(named.join("\n"))
    }

    /// See [`Bmc::ask_version`]: there is one `ipmitool` for all.
    ///
    /// # Errors
    /// For a version that cannot be trusted.
    pub fn ask_version(&self) -> Result<Option<String>, String> {
        let Some(first) = self.bmcs.first() else { return Ok(None) };
        let (version, warning) = first.ask_version()?;
        self.bmcs.iter().for_each(|bmc| bmc.trust(version));
        Ok(warning)
    }

    /// How many servers and how many keys share the places of clients that wait.
    pub const fn sharers(&self) -> (usize, usize) {
        (self.bmcs.len(), self.keys.0.len())
    }

    /// See [`Bmc::stop_sensors`].
    pub fn stop_sensors(&self) {
        self.bmcs.iter().for_each(|bmc| bmc.stop_sensors());
    }

    /// Ends what runs, and cancels what waits.
    pub fn stop_now(&self) {
        self.bmcs.iter().for_each(|bmc| bmc.stop_now());
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.bmcs.iter().all(|bmc| bmc.is_idle())
    }

    /// Waits for the workers, which end once their queues are empty. Readings of sensors end all at the same time.
    pub fn join_workers(&self) {
        self.stop_sensors();
        let until = Instant::now() + LAST_SENSORS;
        self.bmcs.iter().for_each(|bmc| bmc.join_workers(until));
    }
}

/// Each BMC, with commas between them.
impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bmcs: Vec<_> = self.bmcs.iter().map(ToString::to_string).collect();
        f.write_str(&bmcs.join(", "))
    }
}

/// Step two: the body may name the delivery, or ask for nothing.
pub fn with_body(bmc: Arc<Bmc>, mut admitted: Admitted, body: &[u8]) -> Admission {
    match admitted.read_body(body) {
        Ok(()) => {
            if is_damaged_json(body) {
                warn!("{admitted}: its body begins as JSON and is none: an alert in it was not recognised");
            }
            Admission::Run(bmc, admitted)
        }
        Err(skip) => {
            info!("{admitted} not run: {}", skip.name());
            Admission::Reply(skipped(skip))
        }
    }
}

/// A compressed body cannot be read: it may be an alert that has ended.
fn check_encoding(head: &Head) -> Result<(), Failure> {
    let is_plain = |value: &[u8]| value.is_empty() || value.eq_ignore_ascii_case(b"identity");
    if head.values("Content-Encoding").all(is_plain) { Ok(()) } else { Err(Code::UnsupportedEncoding.into()) }
}

/// A read may be repeated at any time. Only a change needs an id.
fn delivery_of(head: &Head, command: Command) -> Result<Option<Delivery>, Failure> {
    if command.is_change() { Ok(Delivery::from_head(head)?) } else { Ok(None) }
}

/// The reply to `/health`.
fn health() -> Response {
    Response::new(200, &[("status", "healthy".into()), ("service", "ipmi-sidecar".into())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::history::file::HistoryFile;
    use crate::process::Interrupt;
    use std::ffi::OsString;

    /// What a panic's message, a `dbg!` or a log line at trace may show.
    #[test]
    fn nothing_that_holds_a_secret_prints_it() {
        const SECRETS: [&str; 3] = ["k3y-qWx7Zp0vB4tLm9Rd2Ys6", "pw-Hj5Ng8Kc1Fv3", "kg-Wd6Rf2Mx9Sk4"];
        let variables = [
            ("API_KEY", SECRETS[0]),
            ("BMC_HOST", "192.0.2.1"),
            ("BMC_USER", "admin"),
            ("BMC_PASSWORD", SECRETS[1]),
            ("BMC_KG_KEY", SECRETS[2]),
            ("IPMITOOL", "/bin/sh"),
        ];
        let value =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into());
        let lookup = |name: &str| -> Option<OsString> { value(name) };
        let mut config = Config::read(&lookup, std::iter::empty()).unwrap();
        let text = format!("GET /power/status HTTP/1.0\r\nX-API-Key: {}\r\n\r\n", SECRETS[0]);
        let head = Head::parse(text.as_bytes(), String::new()).unwrap();
        let mut printed = vec![format!("{config:?}"), format!("{head:?}")];

        let authorised = config.keys.authorise(&head, &Server::PLAIN, Command::POWER_STATUS).unwrap();
        let target = config.targets.pop().unwrap();
        let invocation = target.invocation(&authorised, &target.login());
        printed.extend([format!("{invocation:?}"), invocation.pasteable(), format!("{authorised:?}")]);
        printed.push(format!("{:?}", target.login()));

        let history = HistoryFile::new(None, config.cooldown);
        let bmc = Bmc::new(target, history, Interrupt::new().unwrap());
        let handler = Handler::new(config.keys, vec![bmc], config.request_timeout);
        let admission = handler.admit(&head);
        assert!(matches!(admission, Admission::Run(..)), "the key is valid");
        printed.extend([format!("{handler:?}"), format!("{admission:?}")]);
        for text in printed {
            for secret in SECRETS {
                // As text, and as the numbers of its bytes.
                let numbers = format!("{:?}", &secret.as_bytes()[..8]);
                let numbers = numbers.trim_matches(['[', ']']);
                assert!(!text.contains(&secret[..8]) && !text.contains(numbers), "{secret} in {text}");
            }
        }
    }

    #[test]
    fn health_needs_no_key() {
        assert_eq!(health().body, r#"{"status":"healthy","service":"ipmi-sidecar"}"#);
    }
}
