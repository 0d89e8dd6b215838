//! A UDP relay in front of a simulated BMC. It acts as the network link and has the faults that a test sets.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The number of `ipmitool` runs whose replies the relay still forwards. The sidecar has two runs at a time.
const MAX_RUNS: usize = 16;

/// More bytes than any IPMI datagram has.
const MAX_DATAGRAM: usize = 1024;

/// The requests of one run, in the order in which `ipmitool` 1.8.19 sends them. The relay can tell the
/// requests after `Rakp3` apart only when the session is not encrypted, as with cipher suite 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Get Channel Authentication Capabilities.
    Capabilities,
    OpenSession,
    Rakp1,
    Rakp3,
    /// Set Session Privilege Level.
    Privilege,
    /// The first of four requests that ask what kind of BMC it is. Each of them may fail.
    Hpm,
    DeviceId,
    Picmg,
    Vso,
    /// The command itself.
    Chassis,
    CloseSession,
}

/// What the link does to the datagrams between `ipmitool` and the BMC.
#[derive(Debug, Clone)]
pub enum Link {
    Good,
    /// The link drops the reply to this request and every later reply. Requests still arrive.
    SilentFrom(Step),
    /// The link drops every reply to this request, also when the request is repeated.
    LosesReply(Step),
    /// The link delays every reply by this time.
    Late(Duration),
    /// The link delays the reply to this request.
    LateReply(Step, Duration),
    /// The BMC says that it speaks IPMI 1.5 and no more.
    OnlyIpmi15,
    /// The link may drop any datagram, in both directions.
    Lossy(Loss),
    /// This request gets a reply with this status code. Up to `Rakp3`, the relay changes the BMC's reply.
    /// After `Rakp3`, the relay replies itself and the BMC does not get the request.
    AnswersWith(Step, u8),
}

impl Link {
    fn drops_by_chance(&mut self) -> bool {
        if let Link::Lossy(loss) = self { loss.drops() } else { false }
    }
}

/// Drops this percentage of datagrams. The random numbers (xorshift) are the same in every run.
#[derive(Debug, Clone)]
pub struct Loss {
    percent: u64,
    state: u64,
}

impl Loss {
    pub fn of(percent: u64, seed: u64) -> Self {
        // The factor spreads neighbouring seeds. xorshift must not start at 0, since it would stay there.
        Loss { percent, state: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    fn drops(&mut self) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 32) % 100 < self.percent
    }
}

/// The relay and its thread, which ends when this is dropped.
pub struct Relay {
    pub address: SocketAddr,
    /// `None` tells the thread to end.
    link: Arc<Mutex<Option<Link>>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    #[track_caller]
    pub fn in_front_of(bmc: SocketAddr) -> Self {
        let front = loopback_socket();
        let address = front.local_addr().expect("an address");
        let link = Arc::new(Mutex::new(Some(Link::Good)));
        let present = Arc::clone(&link);
        let mut forwarder = Forwarder { front, bmc, runs: VecDeque::new(), late: VecDeque::new() };
        let thread = thread::spawn(move || {
            loop {
                forwarder.wait();
                match &mut *present.lock().unwrap() {
                    Some(link) => forwarder.forward(link),
                    None => return,
                }
            }
        });
        Relay { address, link, thread: Some(thread) }
    }

    pub fn set(&self, link: Link) {
        *self.link.lock().unwrap() = Some(link);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Ok(mut link) = self.link.lock() {
            *link = None;
        }
        // Any datagram wakes the thread.
        let _ = loopback_socket().send_to(&[], self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[track_caller]
fn loopback_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    socket.set_nonblocking(true).expect("a socket option");
    socket
}

struct Forwarder {
    front: UdpSocket,
    bmc: SocketAddr,
    /// The newest first.
    runs: VecDeque<Run>,
    late: VecDeque<(Instant, Vec<u8>, SocketAddr)>,
}

/// One run of `ipmitool`. Its UDP port identifies it. The relay uses one port for each run towards the BMC.
struct Run {
    address: SocketAddr,
    to_bmc: UdpSocket,
    /// The latest request.
    step: Option<Step>,
    /// The client's session ID.
    session: [u8; 4],
    silent: bool,
}

impl Forwarder {
    fn wait(&self) {
        let runs = self.runs.iter().map(|run| &run.to_bmc);
        let mut fds: Vec<_> =
            runs.chain([&self.front]).map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let due = self.late.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()));
        let _ = poll(&mut fds, due.and_then(|due| Timespec::try_from(due).ok()).as_ref());
    }

    fn forward(&mut self, link: &mut Link) {
        let mut buffer = [0; MAX_DATAGRAM];
        while let Ok((length, address)) = self.front.recv_from(&mut buffer) {
            self.forward_request(address, &buffer[..length], link);
        }
        for run in &mut self.runs {
            // An error means that the BMC has ended.
            while let Ok(length) = run.to_bmc.recv(&mut buffer) {
                let reply = &mut buffer[..length];
                match run.reply(reply, link) {
                    None => {}
                    Some(Duration::ZERO) => deliver(&self.front, reply, run.address),
                    Some(delay) => {
                        self.late.push_back((Instant::now() + delay, reply.to_vec(), run.address));
                    }
                }
            }
        }
        while self.late.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let Some((_, reply, address)) = self.late.pop_front() else { return };
            deliver(&self.front, &reply, address);
        }
    }

    fn forward_request(&mut self, address: SocketAddr, request: &[u8], link: &mut Link) {
        if !self.runs.iter().any(|run| run.address == address) {
            let to_bmc = loopback_socket();
            if to_bmc.connect(self.bmc).is_err() {
                return;
            }
            self.runs.truncate(MAX_RUNS);
            self.runs.push_front(Run { address, to_bmc, step: None, session: [0; 4], silent: false });
        }
        let Some(run) = self.runs.iter_mut().find(|run| run.address == address) else { return };
        run.step = step_of(request);
        if let (Some(Step::OpenSession), Some(session)) = (run.step, request.get(20..24)) {
            run.session.copy_from_slice(session);
        }
        if link.drops_by_chance() {
            return;
        }
        match link {
            Link::AnswersWith(step, status) if Some(*step) == run.step && message_of(request).is_some() => {
                deliver(&self.front, &run.answer(request, *status), address);
            }
            _ => {
                let _ = run.to_bmc.send(request);
            }
        }
    }
}

impl Run {
    /// The delay before the reply is delivered, or `None` when it is dropped.
    fn reply(&mut self, reply: &mut [u8], link: &mut Link) -> Option<Duration> {
        let is_at = |step: &Step| self.step == Some(*step);
        self.silent |= matches!(link, Link::SilentFrom(step) if is_at(step));
        if link.drops_by_chance() || self.silent {
            return None;
        }
        match link {
            Link::LosesReply(step) if is_at(step) => None,
            Link::AnswersWith(step, status) if is_at(step) && reply.len() > 17 => {
                reply[17] = *status; // the status code of an Open Session response and of RAKP messages
                Some(Duration::ZERO)
            }
            Link::Late(delay) => Some(*delay),
            Link::LateReply(step, delay) if is_at(step) => Some(*delay),
            // IPMI 2.0, 22.13: the bit that says that the version 2.0 capabilities follow.
            Link::OnlyIpmi15 if is_at(&Step::Capabilities) && reply.len() > 23 && reply[22] & 0x80 != 0 => {
                let last = reply.len() - 1;
                reply[22] &= 0x7f;
                reply[last] = reply[last].wrapping_add(0x80);
                Some(Duration::ZERO)
            }
            _ => Some(Duration::ZERO),
        }
    }

    /// Builds a reply that has only a completion code (IPMI 2.0, 13.6 and 13.8), for a session without
    /// integrity and encryption.
    fn answer(&self, request: &[u8], status: u8) -> Vec<u8> {
        let message = message_of(request).expect("a request within a session");
        let (to_client, net_fn) = ([message[3], message[1] | 0x04], [message[0], message[4]]);
        let rest = [net_fn[0], net_fn[1], message[5], status];
        [
            &request[..6],
            &self.session,
            &request[10..14],
            &[8, 0],
            &to_client,
            &[checksum(&to_client)],
            &rest,
            &[checksum(&rest)],
        ]
        .concat()
    }
}

fn deliver(front: &UdpSocket, reply: &[u8], address: SocketAddr) {
    // An error means that the run has ended.
    let _ = front.send_to(reply, address);
}

/// Finds the step of a request from its header (IPMI 2.0, 13.6 and 13.27) and its command.
fn step_of(request: &[u8]) -> Option<Step> {
    const IPMI_1_5: u8 = 0;
    const OPEN_SESSION: u8 = 0x10;
    const RAKP_1: u8 = 0x12;
    const RAKP_3: u8 = 0x14;
    let [_, _, _, _, format, payload, ..] = request else { return None };
    match (*format, *payload) {
        (IPMI_1_5, _) => return Some(Step::Capabilities),
        (_, OPEN_SESSION) => return Some(Step::OpenSession),
        (_, RAKP_1) => return Some(Step::Rakp1),
        (_, RAKP_3) => return Some(Step::Rakp3),
        _ => {}
    }
    let message = message_of(request)?;
    match (message[1] >> 2, message[5], message[6]) {
        (0x06, 0x3b, _) => Some(Step::Privilege),
        (0x06, 0x01, _) => Some(Step::DeviceId),
        (0x06, 0x3c, _) => Some(Step::CloseSession),
        (0x2c, 0x3e, _) => Some(Step::Hpm),
        (0x2c, 0x00, 0x00) => Some(Step::Picmg),
        (0x2c, 0x00, 0x03) => Some(Step::Vso),
        (0x00, ..) => Some(Step::Chassis),
        _ => None,
    }
}

/// The IPMI message in a datagram of a session without integrity and encryption.
fn message_of(request: &[u8]) -> Option<&[u8]> {
    const RMCP_PLUS: u8 = 6;
    const PLAIN_IPMI: u8 = 0;
    (request.get(4..6)? == [RMCP_PLUS, PLAIN_IPMI])
        .then(|| request.get(16..))?
        .filter(|message| message.len() > 6)
}

/// IPMI 2.0, 13.8: the sum of all bytes and the checksum is 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}
