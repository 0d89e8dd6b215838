//! Face one: one thread that owns every socket and waits in `poll`. It reads, admits, hands over, writes, closes, and
//! never blocks: a slow client costs one small buffer and no thread.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, getrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

use crate::http::{CONTINUE, Head, HeadError, MAX_BODY, MAX_HEAD, Method, REQUEST_TIME, Response, head_end};
use crate::ipmi::Command;
use crate::lanes::{ClientId, Lanes};
use crate::reply::Problem;
use crate::sidecar::{Admission, Admitted, Sidecar, TOO_LATE};

/// Who comes while it is full tries again a second later. One flooding program on the same machine connects some 40
/// times a millisecond: the standard library's 128 bridge 3 ms in which we are given no processor, 1,024 some 25, and
/// both were seen to be too few. Linux allows this many unasked, since 5.4 (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// What the kernel holds of a client's bytes; a head has 8 KiB.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// 256 heads of 8 KiB are 2 MiB, which a container of 16 MB has to spare.
const MAX_CLIENTS: usize = 256;

/// Kept for the outputs of two runs, the log, secrets that are read again, and what we were started with.
const OTHER_DESCRIPTORS: usize = 32;

/// Far more than one household's dashboards; they are never evicted, so strangers must find room beside them.
const MAX_ADMITTED: usize = 64;

/// Bodies that did not come with their heads: few honest ones, and slow ones must leave the places above to others.
const MAX_BODIES: usize = 8;

/// Clients that are accepted in one go, before those that are already here are served again.
const ACCEPTS: usize = 64;

/// After a failed accept, until descriptors may be free again: `poll` would report the listener at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// It can fail for hours, 20 times a second.
const COMPLAIN_AFTER: Duration = Duration::from_secs(60);

/// A reply has 1 KiB and fits into an empty socket buffer; only a client that reads nothing needs longer.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// Closing a socket with unread bytes resets the connection, and the reset can overtake the reply (RFC 9112, 9.6):
/// so what still comes is read for this long, up to `MAX_DRAIN`.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Most clients look for a reply only when they have sent all of a body, and lose it when they cannot. Beyond this one
/// is no request to switch a server.
const MAX_DRAIN: usize = 16 * 1024 * 1024;

/// For the last replies, once the commands are done.
pub const FAREWELL: Duration = REPLY_TIME.saturating_add(DRAIN_TIME);

/// Opens the listener.
///
/// # Errors
/// Why the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?; // accepted sockets inherit it
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// SIGTERM and SIGINT, as something to poll. As PID 1 of a container the program would not even notice an unhandled
/// one.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn catch() -> io::Result<Self> {
        let (pipe, write_end) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [SIGTERM, SIGINT] {
            // In this order: whoever is woken finds the number.
            flag::register_usize(signal, last.clone(), signal.unsigned_abs() as usize)?;
            pipe::register(signal, write_end.try_clone()?)?;
        }
        Ok(Self { pipe, last })
    }

    /// Whether one has come since the last look.
    pub fn have_come(&self) -> bool {
        self.take().0 > 0
    }

    /// How many have come since the last look (several of one kind may count as one), and the latest.
    fn take(&self) -> (usize, usize) {
        let count = (&self.pipe).read(&mut [0; 16]).unwrap_or(0);
        (count, self.last.load(Ordering::SeqCst))
    }
}

/// Serves until it is told to stop. Returns the number of the signal that cut the stopping itself short, if one did.
///
/// # Errors
/// When the workers cannot be started, or `poll` itself fails.
pub fn serve(listener: TcpListener, sidecar: &Arc<Sidecar>, signals: &Signals) -> io::Result<Option<usize>> {
    let lanes = Lanes::start(sidecar)?;
    // No limit at all counts as one that is large enough.
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    let for_clients = descriptors.map_or(MAX_CLIENTS, |most| most.saturating_sub(OTHER_DESCRIPTORS));
    let max_clients = for_clients.clamp(2, MAX_CLIENTS);
    let mut server = Server {
        listener: Some(listener),
        accept_again: None,
        complained: None,
        sidecar,
        lanes,
        clients: BTreeMap::new(),
        next_id: 0,
        max_clients,
        max_admitted: MAX_ADMITTED.min(max_clients / 2),
    };
    server.run(signals)
}

struct Server<'a> {
    /// `None` once it is told to stop.
    listener: Option<TcpListener>,
    accept_again: Option<Instant>,
    complained: Option<Instant>,
    sidecar: &'a Sidecar,
    lanes: Lanes,
    /// In the order of their arrival.
    clients: BTreeMap<ClientId, (Client, Stage)>,
    next_id: ClientId,
    max_clients: usize,
    max_admitted: usize,
}

/// One connection, which carries one request.
struct Client {
    stream: TcpStream,
    /// When its stage must be over; once a lane has started its command, the lane sees to that.
    until: Option<Instant>,
    /// The request was HEAD: its reply has no body.
    is_head: bool,
}

/// How far a connection has come. Each step takes a stage and gives the next one; `None` closes the connection.
enum Stage {
    /// Sends its head.
    Head { bytes: Vec<u8>, checked: usize },
    /// May run its command, once it has sent its body; so much of that is left.
    Body { bytes: Vec<u8>, left: u64, admitted: Admitted },
    /// A lane has its command. It may have ended its own side since that was started, and wait all the same.
    Waiting { half_closed: bool },
    /// Is sent its reply.
    Reply { bytes: Vec<u8>, sent: usize },
    /// Has its reply, and may send so much more before it is cut off.
    Drain { left: usize },
}

impl Stage {
    /// What to wait for. Of a client that waits, nothing but its end.
    const fn awaits(&self) -> PollFlags {
        match self {
            Self::Head { .. } | Self::Body { .. } | Self::Drain { .. } => PollFlags::IN,
            Self::Waiting { half_closed: false } => PollFlags::RDHUP,
            Self::Waiting { half_closed: true } => PollFlags::empty(), // a reset is reported all the same
            Self::Reply { .. } => PollFlags::OUT,
        }
    }

    /// Its request is not complete.
    const fn is_sending(&self) -> bool {
        matches!(self, Self::Head { .. } | Self::Body { .. })
    }

    /// It brought a valid key, and still has to be answered.
    const fn is_admitted(&self) -> bool {
        matches!(self, Self::Body { .. } | Self::Waiting { .. })
    }
}

/// What `poll` found.
struct Ready {
    signals: bool,
    listener: bool,
    clients: Vec<ClientId>,
}

impl Server<'_> {
    fn run(&mut self, signals: &Signals) -> io::Result<Option<usize>> {
        loop {
            let ready = self.wait(signals)?;
            if ready.signals
                && let Some(signal) = self.heed(signals)
            {
                return Ok(Some(signal));
            }
            for (id, response) in self.lanes.take_replies() {
                self.step(id, |_, client, _| client.reply(&response));
            }
            for id in ready.clients {
                self.step(id, |server, client, stage| server.advance(id, client, stage));
            }
            self.expire();
            if ready.listener {
                self.accept();
            }
            if self.listener.is_none() && self.clients.is_empty() && self.lanes.are_idle() {
                return Ok(None);
            }
        }
    }

    fn wait(&mut self, signals: &Signals) -> io::Result<Ready> {
        let now = Instant::now();
        self.accept_again = self.accept_again.filter(|again| *again > now);
        let listener = self.listener.as_ref().filter(|_| self.accept_again.is_none());
        let mut fds =
            vec![PollFd::new(&signals.pipe, PollFlags::IN), PollFd::new(self.lanes.wake(), PollFlags::IN)];
        let others = fds.len();
        fds.extend(self.clients.values().map(|(client, stage)| PollFd::new(&client.stream, stage.awaits())));
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));

        let until =
            self.clients.values().filter_map(|(client, _)| client.until).chain(self.accept_again).min();
        let timeout = until.and_then(|until| Timespec::try_from(until.saturating_duration_since(now)).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd| !fd.revents().is_empty();
        let clients =
            self.clients.keys().zip(&fds[others..]).filter(|(_, fd)| is_ready(fd)).map(|(id, _)| *id);
        Ok(Ready {
            signals: is_ready(&fds[0]),
            listener: listener.is_some() && fds.last().is_some_and(is_ready),
            clients: clients.collect(),
        })
    }

    /// The first signal asks to finish what was admitted, and nothing more is let in. A second one, whose number is
    /// returned, asks to stop at once.
    fn heed(&mut self, signals: &Signals) -> Option<usize> {
        let (mut count, signal) = signals.take();
        if count > 0 && self.listener.take().is_some() {
            self.clients.retain(|_, (_, stage)| !stage.is_sending());
            info!("told to stop by signal {signal}; requests to finish first: {}", self.clients.len());
            count -= 1;
        }
        if count == 0 {
            return None;
        }
        warn!("told to stop at once by signal {signal}");
        self.lanes.cancel();
        self.sidecar.interrupt();
        Some(signal)
    }

    /// Takes one client a step further.
    fn step(&mut self, id: ClientId, step: impl FnOnce(&mut Self, &mut Client, Stage) -> Option<Stage>) {
        if let Some((mut client, stage)) = self.clients.remove(&id)
            && let Some(next) = step(self, &mut client, stage)
        {
            self.clients.insert(id, (client, next));
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.listener else { return };
            match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.welcome(socket.into()),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(Errno::CONNABORTED) => {}
                Err(error) => {
                    let now = Instant::now();
                    self.accept_again = Some(now + ACCEPT_PAUSE);
                    if self.complained.is_none_or(|last| last + COMPLAIN_AFTER <= now) {
                        self.complained = Some(now);
                        warn!("accepting connections fails, and is tried again: {error}");
                    }
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream) {
        if self.clients.len() >= self.max_clients {
            // The stranger that has been sending longest makes room; there is one, since not all can be admitted.
            let strangers = || self.clients.iter().filter(|(_, (_, stage))| !stage.is_admitted());
            let oldest = strangers()
                .find(|(_, (_, stage))| !matches!(stage, Stage::Reply { .. }))
                .or_else(|| strangers().next());
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.clients.remove(&id);
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        let client = Client { stream, until: Some(Instant::now() + REQUEST_TIME), is_head: false };
        self.clients.insert(id, (client, Stage::Head { bytes: Vec::new(), checked: 0 }));
        // As a rule its request is here already.
        self.step(id, |server, client, stage| server.advance(id, client, stage));
    }

    fn advance(&mut self, id: ClientId, client: &mut Client, stage: Stage) -> Option<Stage> {
        match stage {
            Stage::Head { bytes, checked } => self.read_head(id, client, bytes, checked),
            Stage::Body { bytes, left, admitted } => self.read_body(id, client, bytes, left, admitted),
            Stage::Waiting { half_closed: false } => self.hang_up(id),
            Stage::Waiting { half_closed: true } => None,
            Stage::Reply { bytes, sent } => client.write(bytes, sent),
            Stage::Drain { left } => client.drain(left),
        }
    }

    fn read_head(
        &mut self,
        id: ClientId,
        client: &mut Client,
        mut bytes: Vec<u8>,
        checked: usize,
    ) -> Option<Stage> {
        let mut chunk = [0; MAX_HEAD];
        match client.stream.read(&mut chunk[..MAX_HEAD - bytes.len()]) {
            Ok(0) if bytes.is_empty() => return None,
            Ok(0) => {
                return client.refuse(&HeadError::CUT_SHORT.into(), None);
            }
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if is_passing(&error) => return Some(Stage::Head { bytes, checked }),
            Err(_) => return None,
        }
        match head_end(&bytes, checked) {
            Ok(Some(end)) => {
                let (head, rest) = bytes.split_at(end);
                match Head::parse(head, client.peer()) {
                    Ok(head) => self.admit(id, client, &head, rest),
                    Err(error) => client.refuse(&error.into(), None),
                }
            }
            Ok(None) if bytes.len() == MAX_HEAD => client.refuse(&HeadError::TooLarge.into(), None),
            Ok(None) => Some(Stage::Head { checked: bytes.len(), bytes }),
            Err(error) => client.refuse(&error.into(), None),
        }
    }

    /// Decides by the head; these bytes behind it are here already.
    fn admit(&mut self, id: ClientId, client: &mut Client, head: &Head, rest: &[u8]) -> Option<Stage> {
        client.is_head = head.method == Method::Head;
        // The sidecar's own locks survive a panic: they hold nothing half-done.
        let admission = catch_unwind(AssertUnwindSafe(|| self.sidecar.admit(head)));
        let admitted = match admission.unwrap_or_else(|_| Admission::Reply(Problem::Panic.reply(None))) {
            Admission::Reply(response) => return client.reply(&response),
            Admission::Command(admitted) => admitted,
        };
        let command = Some(admitted.command());
        if head.body_length > MAX_BODY {
            return client.refuse(&Problem::BodyTooLarge, command);
        }
        let places = match admitted.command() {
            Command::Read(_) => self.max_admitted,
            // A quarter more, so that a storm of reads never keeps a change out.
            Command::Change(_) => self.max_admitted + self.max_admitted / 4,
        };
        if self.clients.values().filter(|(_, stage)| stage.is_admitted()).count() >= places {
            return client.refuse(&Problem::Busy("too many requests are waiting"), command);
        }
        let mut bytes = rest.to_vec();
        bytes.truncate(usize::try_from(head.body_length).unwrap_or(usize::MAX));
        let left = head.body_length - bytes.len() as u64;
        if left == 0 {
            return self.submit(id, client, admitted, &bytes);
        }
        self.make_room_for_a_body();
        if head.expects_continue && rest.is_empty() {
            client.stream.write_all(CONTINUE).ok()?; // the first bytes to it: there is room for them
        }
        Some(Stage::Body { bytes, left, admitted })
    }

    /// The one that has been sending its body for longest makes room: a caller that sends slowly must not keep out
    /// those that do not.
    fn make_room_for_a_body(&mut self) {
        let is_body = |(_, stage): &(Client, Stage)| matches!(stage, Stage::Body { .. });
        let mut bodies = self.clients.iter().filter(|(_, client)| is_body(client)).map(|(id, _)| *id);
        let Some(oldest) = bodies.next() else { return };
        if 1 + bodies.count() < MAX_BODIES {
            return;
        }
        self.step(oldest, |_, client, stage| match stage {
            Stage::Body { admitted, .. } => {
                client.refuse(&Problem::Busy("too many bodies are on their way"), Some(admitted.command()))
            }
            other => Some(other),
        });
    }

    fn read_body(
        &mut self,
        id: ClientId,
        client: &mut Client,
        mut bytes: Vec<u8>,
        left: u64,
        admitted: Admitted,
    ) -> Option<Stage> {
        let mut chunk = [0; MAX_HEAD];
        let read = (&client.stream).take(left).read(&mut chunk);
        let left = match read {
            Ok(0) => {
                return client.refuse(&HeadError::CUT_SHORT.into(), Some(admitted.command()));
            }
            Ok(length) => {
                bytes.extend_from_slice(&chunk[..length]);
                left - length as u64
            }
            Err(error) if is_passing(&error) => left,
            Err(_) => return None,
        };
        if left == 0 {
            return self.submit(id, client, admitted, &bytes);
        }
        Some(Stage::Body { bytes, left, admitted })
    }

    /// Hands the command to its lane, if the body leaves one to run.
    fn submit(
        &mut self,
        id: ClientId,
        client: &mut Client,
        admitted: Admitted,
        body: &[u8],
    ) -> Option<Stage> {
        let command = admitted.command();
        let admitted = match admitted.with_body(body) {
            Admission::Reply(response) => return client.reply(&response),
            Admission::Command(admitted) => admitted,
        };
        let waits_until = admitted.waits_until();
        match self.lanes.submit(id, admitted) {
            Ok(()) => {
                client.until = Some(waits_until);
                Some(Stage::Waiting { half_closed: false })
            }
            Err(problem) => client.refuse(&problem, Some(command)),
        }
    }

    /// The client has ended its own side: it has changed its mind, unless its command has started.
    fn hang_up(&self, id: ClientId) -> Option<Stage> {
        let Some((admitted, is_shared)) = self.lanes.withdraw(id) else {
            return Some(Stage::Waiting { half_closed: true });
        };
        if !is_shared {
            // A dashboard that hangs up on a slow BMC, poll after poll, must not fill a disk.
            let level =
                if matches!(admitted.command(), Command::Read(_)) { Level::Debug } else { Level::Info };
            log!(level, "{admitted} not run: the client hung up before it started");
        }
        None
    }

    /// Ends every stage that has taken too long.
    fn expire(&mut self) {
        let now = Instant::now();
        let is_late = |client: &Client| client.until.is_some_and(|until| until <= now);
        let late = self.clients.iter().filter(|(_, (client, _))| is_late(client)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            self.step(id, |server, client, stage| match stage {
                Stage::Head { bytes, .. } if bytes.is_empty() => None,
                Stage::Head { .. } => client.refuse(&Problem::Slow, None),
                Stage::Body { admitted, .. } => client.refuse(&Problem::Slow, Some(admitted.command())),
                Stage::Waiting { .. } => {
                    client.until = None;
                    match server.lanes.withdraw(id) {
                        Some((admitted, _)) => client.reply(&server.sidecar.give_up(&admitted, TOO_LATE)),
                        None => Some(stage),
                    }
                }
                Stage::Reply { .. } | Stage::Drain { .. } => None,
            });
        }
    }
}

impl Client {
    fn peer(&self) -> String {
        self.stream
            .peer_addr()
            .map_or_else(|_| "a client that is gone".to_owned(), |address| address.to_string())
    }

    /// Answers a request that is not run.
    fn refuse(&mut self, problem: &Problem, command: Option<Command>) -> Option<Stage> {
        debug!("request from {}: {}", self.peer(), problem.explain());
        self.reply(&problem.reply(command))
    }

    fn reply(&mut self, response: &Response) -> Option<Stage> {
        self.until = Some(Instant::now() + REPLY_TIME);
        self.write(response.to_http(self.is_head), 0)
    }

    fn write(&mut self, bytes: Vec<u8>, mut sent: usize) -> Option<Stage> {
        match self.stream.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if is_passing(&error) => {}
            Err(_) => return None,
        }
        if sent < bytes.len() {
            return Some(Stage::Reply { bytes, sent });
        }
        self.stream.shutdown(Shutdown::Write).ok()?;
        self.until = Some(Instant::now() + DRAIN_TIME);
        Some(Stage::Drain { left: MAX_DRAIN })
    }

    fn drain(&mut self, left: usize) -> Option<Stage> {
        match self.stream.read(&mut [0; MAX_HEAD]) {
            Ok(length) if length > 0 && length < left => Some(Stage::Drain { left: left - length }),
            Err(error) if is_passing(&error) => Some(Stage::Drain { left }),
            Ok(_) | Err(_) => None,
        }
    }
}

/// Nothing is wrong: there is nothing to read, or no room to write, at the moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
