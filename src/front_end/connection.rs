//! One connection, which carries one request: its stages, from the first byte to the last. It never blocks, and the
//! clock is a parameter.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use log::debug;
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::places::Waiter;
use crate::bmc::Bmc;
use crate::failure::{Code, Failure};
use crate::http::body::Body;
use crate::http::head::{CONTINUE, MAX_HEAD, head_end};
use crate::http::{Head, HeadError, Method, Response};
use crate::request::Admitted;
use crate::timing::{DRAIN_TIMEOUT, RECEIVE_TIMEOUT, REPLY_TIMEOUT};

/// Most clients look for a reply only when they have sent all of a body, and lose it when they cannot. A larger body is
/// no request to switch a server.
const MAX_DRAIN: usize = 16 * 1024 * 1024;

/// Chunks that are drained in one go, before other clients are served.
const DRAINED_CHUNKS: usize = 8;

#[derive(Debug)]
pub struct Connection {
    /// Shared with the change that it asked for, which looks at it again before it starts.
    stream: Arc<TcpStream>,
    stage: Stage,
    /// When the stage must be over. While its command runs, the worker sees to that.
    until: Option<Instant>,
    /// The request was HEAD: its reply has no body.
    is_head: bool,
    /// Bytes or the client's end may wait to be read: the kernel tells of each only once.
    may_read: bool,
    /// The client has ended its side.
    has_ended: bool,
}

#[derive(Debug)]
enum Stage {
    /// Sends its head.
    Head {
        bytes: Vec<u8>,
        checked: usize,
    },
    /// May run its command, once it has sent its body.
    Body {
        body: Body,
        bmc: Arc<Bmc>,
        admitted: Admitted,
    },
    /// Its command is in the queue of this BMC, or runs.
    Waiting {
        bmc: Arc<Bmc>,
        key: Arc<str>,
    },
    /// Is sent its reply.
    Reply {
        bytes: Vec<u8>,
        sent: usize,
    },
    /// Has its reply, and may send so much more before it is cut off.
    Drain {
        left: usize,
    },
    Closed,
}

/// What the listener has to do for a connection.
#[derive(Debug)]
pub enum Event {
    /// Nothing but wait.
    Wait,
    /// There is more to read, once other clients have been served.
    Again,
    /// Decide by the head. These bytes behind it are here already.
    Head(Head, Vec<u8>),
    /// Run the command of a complete request.
    Complete(Arc<Bmc>, Admitted, Vec<u8>),
    /// The client ended its side while its command waits or runs. It may still read.
    Left(Arc<Bmc>),
    /// The client is gone while its command waits or runs.
    Gone(Arc<Bmc>),
    Close,
}

impl Connection {
    pub fn new(stream: TcpStream, now: Instant) -> Self {
        let stage = Stage::Head { bytes: Vec::new(), checked: 0 };
        let until = Some(now + RECEIVE_TIMEOUT);
        Self { stream: Arc::new(stream), stage, until, is_head: false, may_read: false, has_ended: false }
    }

    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    pub fn peer(&self) -> String {
        let address = self.stream.peer_addr();
        address.map_or_else(|_| "a client that is gone".to_owned(), |address| address.to_string())
    }

    /// What the kernel is to tell of it.
    pub const fn interest(&self) -> EventFlags {
        match self.stage {
            Stage::Reply { .. } => EventFlags::OUT.union(EventFlags::ET),
            _ => EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET),
        }
    }

    /// Its request is not complete.
    pub const fn is_receiving(&self) -> bool {
        matches!(self.stage, Stage::Head { .. } | Stage::Body { .. })
    }

    /// It brought a valid key, and must still be answered.
    pub const fn is_admitted(&self) -> bool {
        matches!(self.stage, Stage::Body { .. } | Stage::Waiting { .. })
    }

    /// Its server and its key, while its command waits or runs.
    pub fn waits_as(&self) -> Option<Waiter<'_>> {
        match &self.stage {
            Stage::Waiting { bmc, key } => {
                Some(Waiter { server: bmc.server().name().unwrap_or_default(), key })
            }
            _ => None,
        }
    }

    /// It may run its command, once it has sent the rest of its body.
    pub const fn has_body_to_come(&self) -> bool {
        matches!(self.stage, Stage::Body { .. })
    }

    pub const fn is_replied_to(&self) -> bool {
        matches!(self.stage, Stage::Reply { .. })
    }

    /// Takes it as far as it goes, behind these flags of the kernel.
    pub fn advance(&mut self, flags: EventFlags, now: Instant) -> Event {
        self.has_ended |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.may_read |= self.has_ended || flags.contains(EventFlags::IN);
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Head { bytes, checked } => self.read_head(bytes, checked, now),
            Stage::Body { body, bmc, admitted } => self.read_body(body, bmc, admitted, now),
            Stage::Waiting { bmc, .. } if flags.intersects(EventFlags::HUP | EventFlags::ERR) => {
                Event::Gone(bmc)
            }
            Stage::Waiting { bmc, key } => {
                self.stage = Stage::Waiting { bmc: bmc.clone(), key };
                if self.has_ended { Event::Left(bmc) } else { Event::Wait }
            }
            Stage::Reply { bytes, sent } => self.write(bytes, sent, now),
            Stage::Drain { left } => self.drain(left),
            Stage::Closed => Event::Close,
        }
    }

    /// Reads into `bytes`. `None`: nothing is there at the moment. `Some(0)`: the client has ended its side.
    fn read(&mut self, bytes: &mut Vec<u8>, most: usize) -> io::Result<Option<usize>> {
        let mut chunk = [0; MAX_HEAD];
        let room = most.min(chunk.len());
        if !self.may_read {
            return Ok(None);
        }
        match (&*self.stream).read(&mut chunk[..room]) {
            Ok(length) => {
                // The kernel gave all it had, unless the client's end is still to come.
                self.may_read = length == room || self.has_ended;
                bytes.extend_from_slice(&chunk[..length]);
                Ok(Some(length))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.read(bytes, most),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.may_read = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn read_head(&mut self, mut bytes: Vec<u8>, mut checked: usize, now: Instant) -> Event {
        loop {
            match self.read(&mut bytes, MAX_HEAD - checked) {
                Ok(Some(0)) if bytes.is_empty() => return Event::Close,
                Ok(Some(0)) => return self.refuse(&HeadError::CUT_SHORT.into(), now),
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.stage = Stage::Head { bytes, checked };
                    return Event::Wait;
                }
                Err(_) => return Event::Close,
            }
            match head_end(&bytes, checked) {
                Ok(Some(end)) => {
                    let rest = bytes.split_off(end);
                    return match Head::parse(&bytes, self.peer()) {
                        Ok(head) => {
                            self.is_head = head.method == Method::Head;
                            Event::Head(head, rest)
                        }
                        Err(error) => self.refuse(&error.into(), now),
                    };
                }
                Ok(None) if bytes.len() == MAX_HEAD => {
                    return self.refuse(&HeadError::TooLarge.into(), now);
                }
                Ok(None) => checked = bytes.len(),
                Err(error) => return self.refuse(&error.into(), now),
            }
        }
    }

    /// Waits for the body of a request that may run its command. `rest` is here already.
    pub fn receive_body(
        &mut self,
        head: &Head,
        rest: &[u8],
        bmc: Arc<Bmc>,
        admitted: Admitted,
        now: Instant,
    ) -> Event {
        let taken = Body::new(head.framing).and_then(|mut body| body.take(rest).map(|()| body));
        let body = match taken {
            Ok(body) => body,
            Err(error) => return self.refuse_admitted(&bmc, &admitted, &error.into(), now),
        };
        // They are the first bytes to this client: there is room for them.
        let asks = head.expects_continue && rest.is_empty();
        if asks && (&*self.stream).write_all(CONTINUE).is_err() {
            return Event::Close;
        }
        self.read_body(body, bmc, admitted, now)
    }

    fn read_body(&mut self, mut body: Body, bmc: Arc<Bmc>, admitted: Admitted, now: Instant) -> Event {
        while !body.is_complete() {
            let mut bytes = Vec::new();
            let failure = match self.read(&mut bytes, MAX_HEAD) {
                Ok(Some(0)) => Some(HeadError::CUT_SHORT.into()),
                Ok(Some(_)) => body.take(&bytes).err().map(Failure::from),
                Ok(None) => {
                    self.stage = Stage::Body { body, bmc, admitted };
                    return Event::Wait;
                }
                Err(_) => return Event::Close,
            };
            if let Some(failure) = failure {
                return self.refuse_admitted(&bmc, &admitted, &failure, now);
            }
        }
        Event::Complete(bmc, admitted, body.into_bytes())
    }

    /// Looks whether the client has ended its side by now, whatever the kernel has told so far.
    pub fn has_left(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let stream = self.stream.clone();
        move || {
            let mut fds = [PollFd::new(&*stream, PollFlags::RDHUP)];
            poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 1)
        }
    }

    /// Its command is in the queue, at most until then.
    pub fn wait_for_command(&mut self, bmc: Arc<Bmc>, key: Arc<str>, until: Instant) -> Event {
        self.until = Some(until);
        self.stage = Stage::Waiting { bmc, key };
        Event::Wait
    }

    /// Its command has started: the worker sees to its deadline.
    pub fn wait_for_answer(&mut self) -> Event {
        self.until = None;
        Event::Wait
    }

    /// Ends a stage that has taken too long. Gives back the BMC whose command it waits for.
    pub fn expire(&mut self, now: Instant) -> (Event, Option<Arc<Bmc>>) {
        let event = match &self.stage {
            Stage::Head { bytes, .. } if bytes.is_empty() => Event::Close,
            Stage::Head { .. } => self.refuse(&Code::RequestTimeout.into(), now),
            Stage::Body { .. } => self.refuse_body(&Code::RequestTimeout.into(), now),
            Stage::Waiting { bmc, .. } => return (Event::Wait, Some(bmc.clone())),
            Stage::Reply { .. } | Stage::Drain { .. } | Stage::Closed => Event::Close,
        };
        (event, None)
    }

    /// Answers a request whose body is not awaited any longer.
    pub fn refuse_body(&mut self, failure: &Failure, now: Instant) -> Event {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Body { bmc, admitted, .. } => self.refuse_admitted(&bmc, &admitted, failure, now),
            _ => Event::Close,
        }
    }

    /// Answers a request with a valid key that is not run.
    pub fn refuse_admitted(
        &mut self,
        bmc: &Bmc,
        admitted: &Admitted,
        failure: &Failure,
        now: Instant,
    ) -> Event {
        self.reply(&bmc.refuse(admitted, failure), now)
    }

    /// Answers what is no request.
    fn refuse(&mut self, failure: &Failure, now: Instant) -> Event {
        debug!("request from {}: {}", self.peer(), failure.explain());
        self.reply(&failure.reply(None), now)
    }

    pub fn reply(&mut self, response: &Response, now: Instant) -> Event {
        self.until = Some(now + REPLY_TIMEOUT);
        self.write(response.to_http(self.is_head), 0, now)
    }

    fn write(&mut self, bytes: Vec<u8>, mut sent: usize, now: Instant) -> Event {
        match (&*self.stream).write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Event::Close,
        }
        if sent < bytes.len() {
            self.stage = Stage::Reply { bytes, sent };
            return Event::Wait;
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return Event::Close;
        }
        self.until = Some(now + DRAIN_TIMEOUT);
        self.drain(MAX_DRAIN)
    }

    fn drain(&mut self, mut left: usize) -> Event {
        let mut thrown_away = Vec::new();
        for _ in 0..DRAINED_CHUNKS {
            thrown_away.clear();
            match self.read(&mut thrown_away, MAX_HEAD) {
                Ok(Some(length)) if length > 0 && length < left => left -= length,
                Ok(None) => {
                    self.stage = Stage::Drain { left };
                    return Event::Wait;
                }
                Ok(Some(_)) | Err(_) => return Event::Close,
            }
        }
        self.stage = Stage::Drain { left };
        Event::Again
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
