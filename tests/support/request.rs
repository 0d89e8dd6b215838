//! A small HTTP/1.1 client. It checks in every reply what all replies must have.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use ipmi_sidecar::command::{Route, SERVERS, find};
use ipmi_sidecar::http::Method;
use rustix::net::sockopt::set_socket_linger;
use serde_json::{Map, Value};

use super::sidecar::Running;

/// More than the default `REQUEST_TIMEOUT` of 9 s. A test fails when a reply takes longer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// A builder of one request.
#[must_use]
pub struct Request<'a> {
    sidecar: &'a Running,
    method: String,
    target: String,
    headers: String,
    body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub(super) fn new(sidecar: &'a Running, method: &str, target: &str) -> Self {
        Request {
            sidecar,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: String::new(),
            body: Vec::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.extend([name, ": ", value, "\r\n"]);
        self
    }

    pub fn key(self, key: &str) -> Self {
        self.sidecar.record_secret(key);
        self.header("X-API-Key", key)
    }

    pub fn bearer(self, key: &str) -> Self {
        self.sidecar.record_secret(key);
        self.header("Authorization", &format!("Bearer {key}"))
    }

    pub fn basic(self, user: &str, key: &str) -> Self {
        let credentials = base64(format!("{user}:{key}").as_bytes());
        self.sidecar.record_secret(&credentials);
        self.header("Authorization", &format!("Basic {credentials}"))
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let Request { method, target, headers, body, sidecar } = self;
        let length = match (method.as_str(), body.len()) {
            ("GET" | "HEAD", 0) => String::new(),
            (_, length) => format!("Content-Length: {length}\r\n"),
        };
        let host = sidecar.address;
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n");
        [head.as_bytes(), body].concat()
    }

    /// Sends the request and does not wait for the reply.
    #[track_caller]
    pub fn begin(self) -> Connection<'a> {
        self.sidecar.connect().write(&self.bytes())
    }

    #[track_caller]
    pub fn send(self) -> Reply<'a> {
        self.begin().reply()
    }

    #[track_caller]
    pub fn expect(self, status: u16, body: Value) -> Reply<'a> {
        self.send().expect(status, body)
    }

    #[track_caller]
    pub fn expect_failure(self, status: u16, code: &str) -> Reply<'a> {
        self.send().expect_failure(status, code)
    }
}

/// A connection. It carries one request.
#[must_use]
pub struct Connection<'a> {
    sidecar: &'a Running,
    stream: TcpStream,
    sent: Vec<u8>,
    begun: Instant,
}

impl<'a> Connection<'a> {
    #[track_caller]
    pub(super) fn open(sidecar: &'a Running) -> Self {
        let stream = TcpStream::connect(sidecar.address).expect("a listener");
        stream.set_nodelay(true).expect("a socket option");
        Connection { sidecar, stream, sent: Vec::new(), begun: Instant::now() }
    }

    #[track_caller]
    pub fn write(mut self, bytes: &[u8]) -> Self {
        self.sent.extend_from_slice(bytes);
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            // The sidecar has already replied and closed the connection. The reply says why.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// Closes the sending side. The reply can still be read.
    #[track_caller]
    pub fn half_close(self) -> Self {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
        self
    }

    /// Resets the connection, as a client that crashes does.
    #[track_caller]
    pub fn reset(self) {
        set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("a socket option");
    }

    /// Reads the `100 Continue` that asks for the body.
    #[track_caller]
    pub fn expect_continue(mut self) -> Self {
        const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
        let mut interim = [0; CONTINUE.len()];
        self.stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("a time-out");
        self.stream.read_exact(&mut interim).expect("an interim reply");
        assert_eq!(String::from_utf8_lossy(&interim), CONTINUE);
        self
    }

    #[track_caller]
    pub fn reply(mut self) -> Reply<'a> {
        let received = self.read_to_end();
        self.sidecar.record_exchange(&self.sent, &received);
        let reply = Reply::parse(self.sidecar, &self.sent, &received, self.begun.elapsed());
        reply.unwrap_or_else(|flaw| {
            panic!("{flaw}: {}", String::from_utf8_lossy(&received));
        })
    }

    /// Waits until the sidecar has closed the connection. Ignores the reply.
    #[track_caller]
    pub fn wait_for_close(mut self) {
        self.read_to_end();
    }

    #[track_caller]
    fn read_to_end(&mut self) -> Vec<u8> {
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let left = REPLY_TIMEOUT.saturating_sub(self.begun.elapsed());
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("a time-out");
            match self.stream.read(&mut buffer) {
                Ok(0) => return received,
                Ok(length) => received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {} // the machine was suspended
                Err(error) => {
                    self.sidecar.record_exchange(&self.sent, &received);
                    panic!("no complete reply: {error}");
                }
            }
        }
    }
}

/// A well-formed reply.
pub struct Reply<'a> {
    sidecar: &'a Running,
    path: String,
    /// True when the whole head of the request was sent.
    head_was_complete: bool,
    pub status: u16,
    headers: Vec<(String, String)>,
    pub json: Map<String, Value>,
    pub took: Duration,
}

impl<'a> Reply<'a> {
    fn parse(sidecar: &'a Running, sent: &[u8], received: &[u8], took: Duration) -> Result<Self, String> {
        let text = str::from_utf8(received).map_err(|_| "not UTF-8")?;
        sidecar.assert_no_secret_in("a reply", text);
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no end of the head")?;
        let mut lines = head.split("\r\n");

        let status_line = lines.next().unwrap_or_default();
        let rest = status_line.strip_prefix("HTTP/1.1 ").ok_or("not HTTP/1.1")?;
        let (status, reason) = rest.split_once(' ').ok_or("no reason phrase")?;
        if status.len() != 3 || reason.is_empty() {
            return Err(format!("the status line {status_line:?}"));
        }
        let status = status.parse().map_err(|_| "no status")?;

        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or("a header without a colon")?;
            headers.push((name.to_lowercase(), value.to_owned()));
        }

        let sent = String::from_utf8_lossy(sent);
        let head_was_complete = sent.contains("\r\n\r\n");
        let mut request_line = sent.split_whitespace();
        let is_head = request_line.next() == Some("HEAD");
        let target = request_line.next().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let json = if is_head {
            if !body.is_empty() {
                return Err("a body after HEAD".to_owned());
            }
            Map::new()
        } else {
            serde_json::from_str(body).map_err(|error| format!("not a JSON object: {error}"))?
        };

        let reply = Reply { sidecar, path, head_was_complete, status, headers, json, took };
        let length: usize = reply.only("content-length")?.parse().map_err(|_| "a length")?;
        if length != body.len() && !is_head {
            return Err(format!("{} bytes, declared {length}", body.len()));
        }
        for (name, value) in [("connection", "close"), ("content-type", "application/json")] {
            if reply.only(name)? != value {
                return Err(format!("{name} is not {value}"));
            }
        }
        Ok(reply)
    }

    fn only(&self, name: &str) -> Result<&str, String> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(value),
            (None, _) => Err(format!("no {name}")),
            _ => Err(format!("more than one {name}")),
        }
    }

    /// The reply has this status and exactly this body.
    #[track_caller]
    pub fn expect(self, status: u16, body: Value) -> Self {
        assert_eq!((self.status, Value::Object(self.json.clone())), (status, body));
        self
    }

    /// The reply has this status and code, and all other members of a failure.
    #[track_caller]
    pub fn expect_failure(self, status: u16, code: &str) -> Self {
        let json = &self.json;
        let body = Value::Object(json.clone());
        assert_eq!((self.status, &body["code"]), (status, &code.into()), "{body}");
        assert_eq!(body["success"], false, "{body}");
        assert!(!self.error().is_empty(), "{body}");
        // With these statuses the path has chosen a command, and the reply names it. Home Assistant's sensor
        // reads the body of a power status with any status.
        let chosen = [401, 403, 409, 413, 422, 500, 501, 502, 503, 504].contains(&status)
            && self.path != SERVERS
            || (status == 408 && self.head_was_complete)
            || code == "unknown_server";
        let command = chosen.then(|| command_of(&self.path));
        let power_state = command.filter(|command| *command == "power status").map(|_| "unknown");
        assert_eq!(
            (&body["command"], &body["power_state"]),
            (&command.into(), &power_state.into()),
            "{body}"
        );
        let known = ["success", "error", "code", "command", "power_state"];
        assert!(json.keys().all(|key| known.contains(&key.as_str())), "{body}");
        self
    }

    /// The code, for programs.
    pub fn code(&self) -> &str {
        self.json.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// The error text, for people.
    pub fn error(&self) -> &str {
        self.json.get("error").and_then(Value::as_str).unwrap_or_default()
    }

    #[track_caller]
    pub fn error_contains(self, fragment: &str) -> Self {
        let error = self.error();
        assert!(error.contains(fragment), "no {fragment:?} in {error:?}");
        self
    }

    /// The value of a header that must occur exactly once.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.only(name).unwrap_or_else(|flaw| panic!("{flaw}"))
    }

    pub fn has_header(&self, name: &str) -> bool {
        self.only(name).is_ok()
    }

    #[track_caller]
    pub fn header_contains(self, name: &str, fragment: &str) -> Self {
        let value = self.header(name);
        assert!(value.contains(fragment), "no {fragment:?} in {name}: {value}");
        self
    }

    #[track_caller]
    pub fn within(self, limit: Duration) -> Self {
        assert!(self.took < limit, "took {:?}, the limit is {limit:?}", self.took);
        self
    }

    /// See [`Running::bmc_was_asked`].
    #[track_caller]
    pub fn bmc_was_asked<const N: usize>(self, expected: [&str; N]) -> Self {
        self.sidecar.bmc_was_asked(expected);
        self
    }

    /// See [`Running::bmc_was_never_asked`].
    #[track_caller]
    pub fn bmc_was_never_asked(self) -> Self {
        self.sidecar.bmc_was_never_asked();
        self
    }
}

/// The name of the command. README.md holds the table to the contract.
fn command_of(path: &str) -> &'static str {
    let routes = [Method::Get, Method::Post].map(|method| find(&method, path));
    let command = routes.into_iter().find_map(|route| match route {
        Ok(Route::Command(_, command)) => Some(command),
        _ => None,
    });
    command.unwrap_or_else(|| panic!("no command at {path}")).name()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) as usize & 63;
            let used = place <= chunk.len();
            text.push(if used { ALPHABET[index].into() } else { '=' });
        }
    }
    text
}
