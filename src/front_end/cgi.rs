//! The second front end: CGI variables in, `Status:` lines out (RFC 3875). One process is one request.
//!
//! Processes know nothing of each other. With `STATE_DIR`, changes, reads and readings of sensors each have a locked file
//! there, so that changes stay in order and the BMC sees at most three sessions.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use log::info;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, read};
use rustix::stdio::stdin;

use super::signals::Signals;
use crate::failure::{Code, Failure};
use crate::handler::{Admission, Handler, with_body};
use crate::http::body::{Framing, MAX_BODY};
use crate::http::head::parse_length;
use crate::http::{Head, HeadError, Method, Response};
use crate::queue::Kind;
use crate::request::Admitted;
use crate::timing::{CGI_DRAIN_TIMEOUT, RECEIVE_TIMEOUT};

/// The request that CGI variables describe (RFC 3875, 4.1). The path is `PATH_INFO`: what follows the program's own.
///
/// # Errors
/// `Malformed` for variables that are missing or contradict each other.
pub fn head(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Head, HeadError> {
    let variables: Vec<_> = variables.collect();
    let get = |name: &str| variables.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_os_str());
    let text = |name: &str| get(name).unwrap_or_default().to_string_lossy().into_owned();

    let is_word = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let method = Some(text("REQUEST_METHOD")).filter(is_word).and_then(|word| word.parse().ok());
    let length = match get("CONTENT_LENGTH").unwrap_or_default().as_bytes() {
        b"" => 0,
        length => parse_length(length)?,
    };
    if get("HTTP_CONTENT_LENGTH").is_some_and(|other| parse_length(other.as_bytes()) != Ok(length)) {
        return Err(HeadError::Malformed("CONTENT_LENGTH and HTTP_CONTENT_LENGTH contradict each other"));
    }
    let path = text("PATH_INFO");
    if !path.is_empty() && !path.starts_with('/') {
        return Err(HeadError::Malformed("expected a PATH_INFO that begins with /"));
    }
    Ok(Head {
        method: method.ok_or(HeadError::Malformed("expected an ASCII word in REQUEST_METHOD"))?,
        path,
        headers: variables.iter().filter_map(|(name, value)| field(name, value)).collect(),
        framing: Framing::Length(length),
        expects_continue: false, // the web server has answered that
        peer: text("REMOTE_ADDR").escape_debug().to_string(),
    })
}

/// `HTTP_X_API_KEY` as the field it was (RFC 3875, 4.1.18).
fn field(name: &OsStr, value: &OsStr) -> Option<(String, Vec<u8>)> {
    let name = name.to_str()?.strip_prefix("HTTP_")?.replace('_', "-");
    Some((name, value.to_owned().into_vec()))
}

/// Answers the one request, and writes the reply to standard output.
///
/// # Errors
/// When the web server does not take it.
pub fn answer(
    head: &Result<Head, HeadError>,
    respond: impl FnOnce(&Head, &mut Body) -> Response,
) -> io::Result<()> {
    let is_head = head.as_ref().is_ok_and(|head| head.method == Method::Head);
    let response = match head {
        Ok(head) => {
            let mut body = Body::new(head);
            let response = catch_unwind(AssertUnwindSafe(|| respond(head, &mut body)));
            body.drain(Instant::now() + CGI_DRAIN_TIMEOUT);
            response.unwrap_or_else(|_| Failure::from(Code::Internal).reply(None))
        }
        Err(error) => Failure::from(error.clone()).reply(None),
    };
    io::stdout().write_all(&response.to_cgi(is_head))
}

/// Ends the run in order when a signal comes. The reply then says what is known.
///
/// # Errors
/// When the system has no thread left.
pub fn stop_on(signals: Signals, handler: &Arc<Handler>) -> io::Result<()> {
    let handler = handler.clone();
    let wait = move || {
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        while !poll(&mut fds, None).is_ok_and(|ready| ready == 1) {}
        handler.stop_now();
    };
    thread::Builder::new().spawn(wait).map(drop)
}

/// The three steps of the handler.
pub fn respond(head: &Head, body: &mut Body, handler: &Handler) -> Response {
    let until = Instant::now() + RECEIVE_TIMEOUT;
    let (bmc, admitted) = match handler.admit(head) {
        Admission::Reply(response) => return response,
        Admission::Run(bmc, admitted) => (bmc, admitted),
    };
    let admission = match body.read(MAX_BODY, until) {
        Ok(bytes) => with_body(bmc, admitted, &bytes),
        Err(failure) => Admission::Reply(bmc.refuse(&admitted, &failure)),
    };
    let (bmc, admitted) = match admission {
        Admission::Reply(response) => return response,
        Admission::Run(bmc, admitted) => (bmc, admitted),
    };
    if let Err(error) = bmc.share_history() {
        let cause = match error.kind() {
            io::ErrorKind::WouldBlock => "a server uses STATE_DIR: expected a folder of its own".to_owned(),
            _ => format!("locking STATE_DIR: {error}"),
        };
        return bmc.give_up(&admitted, Code::Internal.because(cause));
    }
    if admitted.command().is_change() {
        info!("{admitted} accepted");
    }
    if admitted.waits_until() <= Instant::now() {
        return bmc.give_up(&admitted, Failure::body_too_late());
    }
    match wait_for_turn(&admitted, bmc.folder()) {
        Ok(None) => bmc.carry_out(&admitted, None),
        // Ours stays open beside the run's, so that the next process waits for both.
        Ok(Some(lock)) => bmc.carry_out(&admitted, lock.try_clone().ok().map(OwnedFd::from)),
        Err(failure) => bmc.give_up(&admitted, failure),
    }
}

/// The body on standard input.
pub struct Body {
    left: u64,
    /// Apache decodes a chunked body and passes it on without its length. It ends where standard input ends.
    to_end: bool,
}

impl Body {
    fn new(head: &Head) -> Self {
        let length = if let Framing::Length(length) = head.framing { length } else { 0 };
        let to_end = length == 0 && head.values("Transfer-Encoding").next().is_some();
        Self { left: if to_end { u64::MAX } else { length }, to_end }
    }

    /// The whole body, of at most so many bytes. A request that is cut short is not carried out.
    fn read(&mut self, most: u64, until: Instant) -> Result<Vec<u8>, Failure> {
        if !self.to_end && self.left > most {
            return Err(Code::BodyTooLarge.into());
        }
        let mut bytes = Vec::new();
        self.take(until, |chunk| {
            bytes.extend_from_slice(chunk);
            if bytes.len() as u64 > most { Err(Code::BodyTooLarge.into()) } else { Ok(()) }
        })?;
        Ok(bytes)
    }

    /// Reads the rest and throws it away. Errors do not change the reply.
    fn drain(&mut self, until: Instant) {
        let _ = self.take(until, |_| Ok(()));
    }

    fn take(
        &mut self,
        until: Instant,
        mut with: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut chunk = [0; 4096];
        while self.left > 0 {
            let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
            let left = until.saturating_duration_since(Instant::now());
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                // A body that never ends is always ready: the clock decides as well.
                Ok(ready) if ready == 0 || left.is_zero() => return Err(Code::RequestTimeout.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(HeadError::CUT_SHORT.into()),
            }
            let room = usize::try_from(self.left).map_or(chunk.len(), |left| left.min(chunk.len()));
            match read(stdin(), &mut chunk[..room]) {
                Ok(0) if self.to_end => self.left = 0,
                Ok(0) => return Err(HeadError::CUT_SHORT.into()),
                Ok(length) => {
                    self.left -= length as u64;
                    with(&chunk[..length])?;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return Err(HeadError::CUT_SHORT.into()),
            }
        }
        Ok(())
    }
}

/// Waits for the lock of this kind of command, at most until it is too late to start. The kernel serves processes in
/// the order in which they came.
fn wait_for_turn(admitted: &Admitted, folder: Option<&Path>) -> Result<Option<File>, Failure> {
    let Some(folder) = folder else { return Ok(None) };
    let kind = Kind::of(admitted);
    let path = folder.join(format!("{}.lock", kind.name()));
    let failed =
        |error| Code::Internal.because(format!("locking {}, as STATE_DIR says: {error}", path.display()));
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    // flock has no time-out. A thread waits for it, and ends with the process at the latest.
    let (sender, receiver) = mpsc::sync_channel(1);
    let wait = move || sender.send(flock(&file, FlockOperation::LockExclusive).map(|()| file));
    thread::Builder::new().spawn(wait).map_err(failed)?;
    // Here a reading of sensors has no more time than its caller.
    let until = if kind == Kind::Sensors { admitted.starts_until() } else { admitted.waits_until() };
    match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(locked) => locked.map(Some).map_err(|error| failed(error.into())),
        Err(_) => Err(Failure::too_late()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(variables: &[(&str, &str)]) -> Result<Head, HeadError> {
        head(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn variables_make_the_same_head_as_bytes() {
        let head = head_of(&[
            ("REQUEST_METHOD", "POST"),
            ("PATH_INFO", "/power/on"),
            ("QUERY_STRING", "x"),
            ("CONTENT_LENGTH", "4"),
            ("HTTP_X_API_KEY", "k"),
            ("HTTP_SEC_FETCH_SITE", "none"),
            ("REMOTE_ADDR", "192.0.2.1"),
        ])
        .unwrap();
        assert_eq!(
            (head.method.as_str(), &head.path[..], head.framing),
            ("POST", "/power/on", Framing::Length(4))
        );
        assert_eq!(head.values("X-API-Key").collect::<Vec<_>>(), [b"k"]);
        assert_eq!(head.values("Sec-Fetch-Site").collect::<Vec<_>>(), [b"none"]);
        assert_eq!(head.peer, "192.0.2.1");
    }

    #[test]
    fn missing_and_contradictory_variables_are_refused() {
        let good = [("REQUEST_METHOD", "GET"), ("PATH_INFO", "/health")];
        assert!(head_of(&good).is_ok());
        assert!(
            head_of(&[("REQUEST_METHOD", "GET")]).is_ok(),
            "the program's own path is a path, if an unknown one"
        );
        for bad in [
            &[("PATH_INFO", "/health")][..],
            &[("REQUEST_METHOD", ""), ("PATH_INFO", "/health")],
            &[("REQUEST_METHOD", "G\u{c9}T"), ("PATH_INFO", "/health")],
            &[("REQUEST_METHOD", "GET /"), ("PATH_INFO", "/health")],
            &[("REQUEST_METHOD", "GET"), ("PATH_INFO", "health")],
            &[("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "-1")],
            &[("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "4x")],
            &[("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "4"), ("HTTP_CONTENT_LENGTH", "5")],
            &[],
        ] {
            assert!(matches!(head_of(bad), Err(HeadError::Malformed(_))), "{bad:?}");
        }
    }
}
