//! Thousands of hostile clients in one thread.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The time between two turns of a client. In this time, the sidecar replies and closes the connection, if it
/// does.
const PAUSE: Duration = Duration::from_secs(1);

/// `PAUSE` has this many parts. The turns of the clients are spread over them, as those of independent
/// clients are.
const PARTS: u32 = 20;

/// Enough descriptors for 4,000 clients and all other files of this process.
const DESCRIPTORS: u64 = 4_600;

/// The time-out of a write to a sidecar that no longer reads.
const STUCK: Duration = Duration::from_secs(5);

/// The send buffer on our side, for bytes that the sidecar has not taken yet.
const SEND_BUFFER: usize = 16 * 1024;

/// Clients that all do the same. Each has one connection, and opens a new one when it is closed.
pub struct ManyClients {
    address: SocketAddr,
    first: Vec<u8>,
    repeated: Vec<u8>,
    clients: Vec<Client>,
    pub connections: usize,
}

#[derive(Default)]
struct Client {
    socket: Option<OwnedFd>,
    has_sent_first: bool,
}

impl ManyClients {
    /// Each client connects and sends `first`, then `repeated` once a second. It never reads.
    pub fn new(
        size: usize,
        address: SocketAddr,
        first: impl Into<Vec<u8>>,
        repeated: impl Into<Vec<u8>>,
    ) -> Self {
        allow_descriptors();
        let clients = (0..size).map(|_| Client::default()).collect();
        ManyClients { address, first: first.into(), repeated: repeated.into(), clients, connections: 0 }
    }

    /// Connects all clients at once and gives them turns for this time.
    pub fn run_for(mut self, time: Duration) -> Self {
        let until = Instant::now() + time;
        self.take_turns(0..self.clients.len());
        let part = self.clients.len().div_ceil(PARTS as usize);
        while Instant::now() < until {
            for first in (0..self.clients.len()).step_by(part) {
                let next = Instant::now() + PAUSE / PARTS;
                self.drop_closed();
                self.take_turns(first..(first + part).min(self.clients.len()));
                sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        self
    }

    fn take_turns(&mut self, range: std::ops::Range<usize>) {
        for client in &mut self.clients[range] {
            let Some(socket) = &client.socket else {
                client.socket = Some(connect(self.address));
                client.has_sent_first = false;
                self.connections += 1;
                client.send_first(&self.first);
                continue;
            };
            if client.has_sent_first {
                // An error is ignored: `poll` shows a closed connection.
                let _ = net::send(socket, &self.repeated, SendFlags::NOSIGNAL);
            } else {
                client.send_first(&self.first);
            }
        }
    }

    fn drop_closed(&mut self) {
        let sockets = self.clients.iter().filter_map(|client| client.socket.as_ref());
        let mut fds: Vec<_> = sockets.map(|socket| PollFd::new(socket, PollFlags::RDHUP)).collect();
        poll(&mut fds, Some(&Timespec::default())).expect("poll");
        let closed: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let connected = self.clients.iter_mut().filter(|client| client.socket.is_some());
        for (client, _) in connected.zip(closed).filter(|(_, is_closed)| *is_closed) {
            client.socket = None;
        }
    }
}

impl Client {
    /// Sends `first`. When the connection is not established yet, the next turn sends it.
    fn send_first(&mut self, first: &[u8]) {
        let Some(socket) = &self.socket else { return };
        let sent = first.is_empty() || net::send(socket, first, SendFlags::NOSIGNAL).is_ok();
        self.has_sent_first = sent;
    }
}

/// Starts a connection. Closing it resets it, so it leaves nothing behind in the kernel.
fn connect(address: SocketAddr) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("a socket option");
    match net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => socket,
        Err(error) => panic!("connecting: {error}"),
    }
}

/// Connects this often, as fast as possible, and sends nothing. The last `held` connections stay open.
pub fn flood(address: SocketAddr, connections: usize, held: usize) -> usize {
    allow_descriptors();
    let mut ring: Vec<Option<OwnedFd>> = (0..held).map(|_| None).collect();
    for number in 0..connections {
        ring[number % held] = None; // frees the port before the next connection
        ring[number % held] = Some(connect(address));
    }
    connections
}

/// Sends `first` and then `chunk` repeatedly, without reading, up to `limit` bytes or until the connection is
/// closed. Returns the number of bytes that were taken.
pub fn send_endlessly(address: SocketAddr, first: &[u8], chunk: &[u8], limit: usize) -> usize {
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_write_timeout(Some(STUCK)).expect("a time-out");
    // Otherwise our own kernel would buffer megabytes.
    sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER).expect("a socket option");
    let mut taken = 0;
    while taken < limit {
        let piece = if taken < first.len() { &first[taken..] } else { chunk };
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
