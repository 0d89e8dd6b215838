//! Attackers, thousands of them in one thread.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Between two turns of an attacker: its reply has been read and its connection closed by then, if ever.
const PAUSE: Duration = Duration::from_secs(1);

/// The turns of a crowd are spread over this many parts of `PAUSE`, as strangers' would be.
const PARTS: u32 = 20;

/// For 4,000 attackers and all else that this process has open.
const DESCRIPTORS: u64 = 4_600;

/// A write to someone who takes nothing more ends after this.
const STUCK: Duration = Duration::from_secs(5);

/// What our side holds of bytes that the other one does not take.
const SEND_BUFFER: usize = 16 * 1024;

/// Strangers who all behave alike, each with one connection, and with a new one a turn after it was closed.
pub struct ManyClients {
    address: SocketAddr,
    opening: Vec<u8>,
    drip: Vec<u8>,
    attackers: Vec<Client>,
    pub connections: usize,
}

#[derive(Default)]
struct Client {
    socket: Option<OwnedFd>,
    has_opened: bool,
}

impl ManyClients {
    /// Each connects and sends `opening`, then `drip` once a second, and never reads.
    pub fn new(
        size: usize,
        address: SocketAddr,
        opening: impl Into<Vec<u8>>,
        drip: impl Into<Vec<u8>>,
    ) -> Self {
        allow_descriptors();
        let attackers = (0..size).map(|_| Client::default()).collect();
        ManyClients { address, opening: opening.into(), drip: drip.into(), attackers, connections: 0 }
    }

    /// All come at once, and keep at it for so long.
    pub fn besiege(mut self, time: Duration) -> Self {
        let until = Instant::now() + time;
        self.take_turns(0..self.attackers.len());
        let part = self.attackers.len().div_ceil(PARTS as usize);
        while Instant::now() < until {
            for first in (0..self.attackers.len()).step_by(part) {
                let next = Instant::now() + PAUSE / PARTS;
                self.drop_closed();
                self.take_turns(first..(first + part).min(self.attackers.len()));
                sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        self
    }

    fn take_turns(&mut self, who: std::ops::Range<usize>) {
        for attacker in &mut self.attackers[who] {
            let Some(socket) = &attacker.socket else {
                attacker.socket = Some(connect(self.address));
                attacker.has_opened = false;
                self.connections += 1;
                attacker.open(&self.opening);
                continue;
            };
            if attacker.has_opened {
                let _ = net::send(socket, &self.drip, SendFlags::NOSIGNAL); // an end shows in `poll`
            } else {
                attacker.open(&self.opening);
            }
        }
    }

    fn drop_closed(&mut self) {
        let sockets = self.attackers.iter().filter_map(|attacker| attacker.socket.as_ref());
        let mut fds: Vec<_> = sockets.map(|socket| PollFd::new(socket, PollFlags::RDHUP)).collect();
        poll(&mut fds, Some(&Timespec::default())).expect("poll");
        let closed: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let connected = self.attackers.iter_mut().filter(|attacker| attacker.socket.is_some());
        for (attacker, _) in connected.zip(closed).filter(|(_, is_closed)| *is_closed) {
            attacker.socket = None;
        }
    }
}

impl Client {
    /// What does not go out now goes out next time: a connection may need a moment to be made.
    fn open(&mut self, opening: &[u8]) {
        let Some(socket) = &self.socket else { return };
        let sent = opening.is_empty() || net::send(socket, opening, SendFlags::NOSIGNAL).is_ok();
        self.has_opened = sent;
    }
}

/// A connection on its way, which will leave nothing behind in the kernel when it is closed.
fn connect(address: SocketAddr) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("a socket option");
    match net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => socket,
        Err(error) => panic!("connecting: {error}"),
    }
}

/// Connects this often, as fast as it goes, says nothing, and keeps the last `held` connections open.
pub fn flood(address: SocketAddr, connections: usize, held: usize) -> usize {
    allow_descriptors();
    let mut ring: Vec<Option<OwnedFd>> = (0..held).map(|_| None).collect();
    for number in 0..connections {
        ring[number % held] = None; // frees the port before the next one is taken
        ring[number % held] = Some(connect(address));
    }
    connections
}

/// Sends `opening` and then `chunk` again and again, without reading, until `limit` bytes or the end. Returns how
/// many bytes were taken.
pub fn send_endlessly(address: SocketAddr, opening: &[u8], chunk: &[u8], limit: usize) -> usize {
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_write_timeout(Some(STUCK)).expect("a time-out");
    // Or our own kernel would take megabytes before the first one goes out.
    sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER).expect("a socket option");
    let mut taken = 0;
    while taken < limit {
        let piece = if taken < opening.len() { &opening[taken..] } else { chunk };
        match stream.write(piece) {
            Ok(length) => taken += length,
            Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {
                break;
            }
            Err(error) => panic!("after {taken} bytes: {error}"),
        }
    }
    taken
}

/// Sends a request and resets the connection at once.
pub fn send_and_reset(address: SocketAddr, request: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("a listener");
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket option");
    let _ = stream.write_all(request);
}

fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= DESCRIPTORS) {
        return;
    }
    assert!(
        maximum.is_none_or(|maximum| maximum >= DESCRIPTORS),
        "4,000 clients need {DESCRIPTORS} descriptors: as root, run: prlimit --pid $$ --nofile={DESCRIPTORS}"
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum })
        .expect("below the hard limit");
}
