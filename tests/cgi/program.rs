//! Starts the program as a web server does, without a web server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};

use crate::support::{Running, wait_for};

/// More than the default `REQUEST_TIMEOUT` of 9 s. A test fails when a reply takes longer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// A builder of one CGI request. The program gets the environment of `sidecar`.
#[must_use]
pub struct Cgi<'a> {
    sidecar: &'a Running,
    command: Command,
    body: Vec<u8>,
    stays_open: bool,
    input: Option<Stdio>,
}

/// Sets the variables that RFC 3875 requires.
pub fn cgi<'a>(sidecar: &'a Running, method: &str, target: &str) -> Cgi<'a> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let cgi = Cgi { sidecar, command: sidecar.command(), body: Vec::new(), stays_open: false, input: None };
    cgi.variable("GATEWAY_INTERFACE", "CGI/1.1")
        .variable("REQUEST_METHOD", method)
        .variable("SCRIPT_NAME", "")
        .variable("PATH_INFO", path)
        .variable("QUERY_STRING", query)
        .variable("REMOTE_ADDR", "192.0.2.7")
        .variable("SERVER_NAME", "localhost")
        .variable("SERVER_PORT", "80")
        .variable("SERVER_PROTOCOL", "HTTP/1.1")
        .variable("SERVER_SOFTWARE", "test")
}

impl<'a> Cgi<'a> {
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Removes all other variables.
    pub fn with_only(mut self, variables: &BTreeMap<String, OsString>) -> Self {
        self.command.env_clear().envs(variables);
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        self.variable(&format!("HTTP_{}", name.to_uppercase().replace('-', "_")), value)
    }

    pub fn key(self, key: &str) -> Self {
        self.header("X-API-Key", key)
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn body(mut self, body: &str) -> Self {
        self.body = body.into();
        self.variable("CONTENT_LENGTH", body.len().to_string())
    }

    /// Standard input stays open after the body.
    pub fn stays_open(mut self) -> Self {
        self.stays_open = true;
        self
    }

    pub fn input(mut self, input: impl Into<Stdio>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Starts the program and does not wait for the reply.
    #[track_caller]
    pub fn begin(mut self) -> RunningCgi<'a> {
        let since = Instant::now();
        let input = self.input.take().unwrap_or_else(Stdio::piped);
        let mut child = self
            .command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut stdin = child.stdin.take();
        if let Some(pipe) = &mut stdin {
            // The pipe has room for the body. If it is closed, the program has already replied.
            let _ = pipe.write_all(&self.body);
        }
        let is_head = self
            .command
            .get_envs()
            .any(|(name, value)| name == "REQUEST_METHOD" && value.is_some_and(|value| value == "HEAD"));
        RunningCgi {
            sidecar: self.sidecar,
            stdout: Some(collect(child.stdout.take())),
            stderr: Some(collect(child.stderr.take())),
            child,
            _stdin: stdin.filter(|_| self.stays_open),
            is_head,
            since,
        }
    }

    #[track_caller]
    pub fn run(self) -> CgiReply {
        self.begin().reply()
    }

    #[track_caller]
    pub fn expect(self, status: u16, body: &Value) -> CgiReply {
        let reply = self.run();
        assert_eq!((reply.status, &Value::Object(reply.json.clone())), (status, body), "{reply:?}");
        reply
    }

    #[track_caller]
    pub fn expect_failure(self, status: u16, code: &str) -> CgiReply {
        self.run().expect_failure(status, code)
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut pipe = pipe.expect("a pipe");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe");
        String::from_utf8(bytes).expect("text in UTF-8")
    })
}

/// A program that runs. It is killed when it is dropped.
#[must_use]
pub struct RunningCgi<'a> {
    sidecar: &'a Running,
    child: Child,
    _stdin: Option<ChildStdin>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    is_head: bool,
    since: Instant,
}

impl RunningCgi<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program, as a web server does after its time limit.
    #[track_caller]
    pub fn kill(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).expect("our process");
        assert_eq!(self.child.wait().expect("our child").signal(), Some(Signal::KILL.as_raw()));
    }

    #[track_caller]
    pub fn reply(mut self) -> CgiReply {
        let status = wait_for(REPLY_TIMEOUT, || self.child.try_wait().expect("our child"));
        let took = self.since.elapsed();
        let status = status.unwrap_or_else(|| panic!("the program still runs after {took:?}"));
        let text = |reader: &mut Option<JoinHandle<String>>| {
            reader.take().expect("one reply").join().expect("a reader")
        };
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        self.sidecar.assert_no_secret_in("a reply", &stdout);
        self.sidecar.assert_no_secret_in("the log", &stderr);
        CgiReply::parse(&stdout, self.is_head, status, &stderr, took)
            .unwrap_or_else(|flaw| panic!("{flaw}: {stdout:?}, {status}, {stderr}"))
    }
}

impl Drop for RunningCgi<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A valid reply: exit code 0, a status, header fields and one JSON object.
#[derive(Debug)]
pub struct CgiReply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub json: Map<String, Value>,
    pub stderr: String,
    pub took: Duration,
}

impl CgiReply {
    fn parse(
        stdout: &str,
        is_head: bool,
        status: ExitStatus,
        stderr: &str,
        took: Duration,
    ) -> Result<Self, String> {
        if !status.success() {
            return Err("not exit code 0".to_owned());
        }
        let (head, body) = stdout.split_once("\r\n\r\n").ok_or("no end of the head")?;
        let mut lines = head.split("\r\n");
        let first = lines.next().and_then(|line| line.strip_prefix("Status: ")).ok_or("no status")?;
        let (status, reason) = first.split_once(' ').ok_or("no reason phrase")?;
        let mut headers = BTreeMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or("a header without a colon")?;
            if headers.insert(name.to_lowercase(), value.to_owned()).is_some() {
                return Err(format!("more than one {name}"));
            }
        }
        let of = |name: &str| headers.get(name).map(String::as_str);
        if reason.is_empty() || of("content-type") != Some("application/json") || of("connection").is_some() {
            return Err("no reason, a wrong Content-Type or a Connection field".to_owned());
        }
        let json = if is_head { "{}" } else { body };
        let reply = CgiReply {
            status: status.parse().map_err(|_| "no number")?,
            json: serde_json::from_str(json).map_err(|error| format!("not a JSON object: {error}"))?,
            stderr: stderr.to_owned(),
            took,
            headers: headers.clone(),
        };
        let length: usize = of("content-length").and_then(|text| text.parse().ok()).ok_or("no length")?;
        match is_head {
            true if !body.is_empty() => Err("a body after HEAD".to_owned()),
            false if body.len() != length => Err(format!("{} bytes, declared {length}", body.len())),
            _ => Ok(reply),
        }
    }

    #[track_caller]
    pub fn expect_failure(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, &self.json["code"]), (status, &code.into()), "{self:?}");
        assert_eq!(self.json["success"], false, "{self:?}");
        self
    }

    /// Standard error contains this text. A web server writes it to its error log.
    #[track_caller]
    pub fn logs(self, fragment: &str) -> Self {
        assert!(self.stderr.contains(fragment), "no {fragment:?} in {self:?}");
        self
    }

    #[track_caller]
    pub fn within(self, limit: Duration) -> Self {
        assert!(self.took < limit, "took {:?}, the limit is {limit:?}", self.took);
        self
    }
}
