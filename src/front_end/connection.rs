//! One connection, which carries one request: its stages, from the first byte to the last. It never blocks, and the
//! clock is a parameter.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use log::debug;
use rustix::event::epoll::EventFlags;

use crate::bmc::Bmc;
use crate::command::Command;
use crate::failure::{Code, Failure};
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
    stream: TcpStream,
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
    /// May run its command, once it has sent its body. So much of the body is left.
    Body {
        bytes: Vec<u8>,
        left: u64,
        bmc: Arc<Bmc>,
        admitted: Admitted,
    },
    /// Its command is in the queue of this BMC. `is_settled`: the command has started, and the client is answered even
    /// if it has ended its side.
    Waiting {
        bmc: Arc<Bmc>,
        is_settled: bool,
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
    /// The client ended its side while its command waits.
    Left(Arc<Bmc>),
    Close,
}

impl Connection {
    pub fn new(stream: TcpStream, now: Instant) -> Self {
        let stage = Stage::Head { bytes: Vec::new(), checked: 0 };
        let until = Some(now + RECEIVE_TIMEOUT);
        Self { stream, stage, until, is_head: false, may_read: false, has_ended: false }
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
            Stage::Body { bytes, left, bmc, admitted } => self.read_body(bytes, left, bmc, admitted, now),
            Stage::Waiting { bmc, is_settled: false } if self.has_ended => {
                self.stage = Stage::Waiting { bmc: bmc.clone(), is_settled: false };
                Event::Left(bmc)
            }
            // A client that ended its side may still read. A reset connection is over.
            Stage::Waiting { .. } if flags.intersects(EventFlags::HUP | EventFlags::ERR) => Event::Close,
            stage @ Stage::Waiting { .. } => {
                self.stage = stage;
                Event::Wait
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
        match self.stream.read(&mut chunk[..room]) {
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
                Ok(Some(0)) => return self.refuse(&HeadError::CUT_SHORT.into(), None, now),
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
                        Err(error) => self.refuse(&error.into(), None, now),
                    };
                }
                Ok(None) if bytes.len() == MAX_HEAD => {
                    return self.refuse(&HeadError::TooLarge.into(), None, now);
                }
                Ok(None) => checked = bytes.len(),
                Err(error) => return self.refuse(&error.into(), None, now),
            }
        }
    }

    /// Waits for the body of a request that may run its command. `rest` is here already.
    pub fn receive_body(
        &mut self,
        head: &Head,
        mut rest: Vec<u8>,
        bmc: Arc<Bmc>,
        admitted: Admitted,
        now: Instant,
    ) -> Event {
        let is_first = rest.is_empty();
        rest.truncate(usize::try_from(head.body_length).unwrap_or(usize::MAX));
        let left = head.body_length - rest.len() as u64;
        // They are the first bytes to this client: there is room for them.
        if left > 0 && head.expects_continue && is_first && self.stream.write_all(CONTINUE).is_err() {
            return Event::Close;
        }
        self.read_body(rest, left, bmc, admitted, now)
    }

    fn read_body(
        &mut self,
        mut bytes: Vec<u8>,
        mut left: u64,
        bmc: Arc<Bmc>,
        admitted: Admitted,
        now: Instant,
    ) -> Event {
        while left > 0 {
            match self.read(&mut bytes, usize::try_from(left).unwrap_or(usize::MAX)) {
                Ok(Some(0)) => {
                    return self.refuse(&HeadError::CUT_SHORT.into(), Some(admitted.command()), now);
                }
                Ok(Some(length)) => left -= length as u64,
                Ok(None) => {
                    self.stage = Stage::Body { bytes, left, bmc, admitted };
                    return Event::Wait;
                }
                Err(_) => return Event::Close,
            }
        }
        Event::Complete(bmc, admitted, bytes)
    }

    /// Its command is in the queue, at most until then.
    pub fn wait_for_command(&mut self, bmc: Arc<Bmc>, until: Instant) -> Event {
        self.until = Some(until);
        self.stage = Stage::Waiting { bmc: bmc.clone(), is_settled: false };
        if self.has_ended { Event::Left(bmc) } else { Event::Wait }
    }

    /// Its command has started: from now on it is answered in any case.
    pub fn settle(&mut self) -> Event {
        if let Stage::Waiting { is_settled, .. } = &mut self.stage {
            *is_settled = true;
            self.until = None;
        }
        Event::Wait
    }

    /// Ends a stage that has taken too long. Gives back the BMC whose command it waits for.
    pub fn expire(&mut self, now: Instant) -> (Event, Option<Arc<Bmc>>) {
        let event = match &self.stage {
            Stage::Head { bytes, .. } if bytes.is_empty() => Event::Close,
            Stage::Head { .. } => self.refuse(&Code::RequestTimeout.into(), None, now),
            Stage::Body { .. } => self.refuse_body(&Code::RequestTimeout.into(), now),
            Stage::Waiting { bmc, .. } => return (Event::Wait, Some(bmc.clone())),
            Stage::Reply { .. } | Stage::Drain { .. } | Stage::Closed => Event::Close,
        };
        (event, None)
    }

    /// Answers a request whose body is not awaited any longer.
    pub fn refuse_body(&mut self, failure: &Failure, now: Instant) -> Event {
        let command = match &self.stage {
            Stage::Body { admitted, .. } => Some(admitted.command()),
            _ => None,
        };
        self.refuse(failure, command, now)
    }

    /// Answers a request that is not run.
    pub fn refuse(&mut self, failure: &Failure, command: Option<Command>, now: Instant) -> Event {
        debug!("request from {}: {}", self.peer(), failure.explain());
        self.reply(&failure.reply(command), now)
    }

    pub fn reply(&mut self, response: &Response, now: Instant) -> Event {
        self.until = Some(now + REPLY_TIMEOUT);
        self.write(response.to_http(self.is_head), 0, now)
    }

    fn write(&mut self, bytes: Vec<u8>, mut sent: usize, now: Instant) -> Event {
        match self.stream.write(&bytes[sent..]) {
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
