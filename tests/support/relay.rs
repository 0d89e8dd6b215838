//! A UDP relay before a simulated BMC: the line between the two, with the faults that a test gives it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Runs whose replies may still come; two lanes have two.
const MAX_RUNS: usize = 16;

/// More than any datagram of IPMI.
const MAX_DATAGRAM: usize = 1024;

/// The questions of one run in their order, as `ipmitool` 1.8.19 asks them. Those behind `Rakp3` can be told apart
/// only where the session is not encrypted, as with cipher suite 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Get Channel Authentication Capabilities.
    Capabilities,
    OpenSession,
    Rakp1,
    Rakp3,
    /// Set Session Privilege Level.
    Privilege,
    /// What kind of BMC it is: four more questions, all of which may fail.
    Hpm,
    DeviceId,
    Picmg,
    Vso,
    /// The command itself.
    Chassis,
    CloseSession,
}

/// What the line does to the datagrams between `ipmitool` and the BMC.
#[derive(Debug, Clone)]
pub enum Line {
    Good,
    /// From the reply to this question on nothing comes back; whatever is asked still arrives.
    SilentFrom(Step),
    /// The reply to this question is lost, however often it is asked.
    Loses(Step),
    /// Every reply comes this much later.
    Late(Duration),
    /// Each datagram of either direction may be lost.
    Lossy(Loss),
    /// This question is answered with a status code of the test's choice: up to `Rakp3` by a change to the BMC's
    /// reply, behind it in place of the BMC, which is not asked.
    Says(Step, u8),
}

impl Line {
    fn loses_by_chance(&mut self) -> bool {
        if let Line::Lossy(loss) = self { loss.strikes() } else { false }
    }
}

/// So many in a hundred, by dice that fall alike in every run (xorshift).
#[derive(Debug, Clone)]
pub struct Loss {
    percent: u64,
    dice: u64,
}

impl Loss {
    pub fn of(percent: u64, seed: u64) -> Self {
        // Multiplied, so that neighbouring seeds have nothing in common; xorshift never leaves 0.
        Loss { percent, dice: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    fn strikes(&mut self) -> bool {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 32) % 100 < self.percent
    }
}

/// Ends with its owner.
pub struct Relay {
    pub address: SocketAddr,
    /// `None` for a relay that is to end.
    line: Arc<Mutex<Option<Line>>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    #[track_caller]
    pub fn before(bmc: SocketAddr) -> Self {
        let front = loopback_socket();
        let address = front.local_addr().expect("an address");
        let line = Arc::new(Mutex::new(Some(Line::Good)));
        let present = Arc::clone(&line);
        let mut traffic = Traffic { front, bmc, runs: VecDeque::new(), late: VecDeque::new() };
        let thread = thread::spawn(move || {
            loop {
                traffic.wait();
                match &mut *present.lock().unwrap() {
                    Some(line) => traffic.carry(line),
                    None => return,
                }
            }
        });
        Relay { address, line, thread: Some(thread) }
    }

    pub fn set(&self, line: Line) {
        *self.line.lock().unwrap() = Some(line);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Ok(mut line) = self.line.lock() {
            *line = None;
        }
        // Anything wakes it.
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

struct Traffic {
    front: UdpSocket,
    bmc: SocketAddr,
    /// The newest first.
    runs: VecDeque<Run>,
    late: VecDeque<(Instant, Vec<u8>, SocketAddr)>,
}

/// One run of `ipmitool`, by its port, with a port of its own towards the BMC.
struct Run {
    address: SocketAddr,
    to_bmc: UdpSocket,
    /// Its last question.
    step: Option<Step>,
    /// Its own number for the session.
    session: [u8; 4],
    silent: bool,
}

impl Traffic {
    fn wait(&self) {
        let runs = self.runs.iter().map(|run| &run.to_bmc);
        let mut fds: Vec<_> =
            runs.chain([&self.front]).map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let due = self.late.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()));
        let _ = poll(&mut fds, due.and_then(|due| Timespec::try_from(due).ok()).as_ref());
    }

    fn carry(&mut self, line: &mut Line) {
        let mut buffer = [0; MAX_DATAGRAM];
        while let Ok((length, address)) = self.front.recv_from(&mut buffer) {
            self.question(address, &buffer[..length], line);
        }
        for run in &mut self.runs {
            // An error is a BMC that has ended.
            while let Ok(length) = run.to_bmc.recv(&mut buffer) {
                let reply = &mut buffer[..length];
                match run.reply(reply, line) {
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

    fn question(&mut self, address: SocketAddr, question: &[u8], line: &mut Line) {
        if !self.runs.iter().any(|run| run.address == address) {
            let to_bmc = loopback_socket();
            if to_bmc.connect(self.bmc).is_err() {
                return;
            }
            self.runs.truncate(MAX_RUNS);
            self.runs.push_front(Run { address, to_bmc, step: None, session: [0; 4], silent: false });
        }
        let Some(run) = self.runs.iter_mut().find(|run| run.address == address) else { return };
        run.step = step_of(question);
        if let (Some(Step::OpenSession), Some(session)) = (run.step, question.get(20..24)) {
            run.session.copy_from_slice(session);
        }
        if line.loses_by_chance() {
            return;
        }
        match line {
            Line::Says(step, status) if Some(*step) == run.step && message_of(question).is_some() => {
                deliver(&self.front, &run.answer(question, *status), address);
            }
            _ => {
                let _ = run.to_bmc.send(question);
            }
        }
    }
}

impl Run {
    /// How much later the reply is to be delivered, if at all.
    fn reply(&mut self, reply: &mut [u8], line: &mut Line) -> Option<Duration> {
        let is_at = |step: &Step| self.step == Some(*step);
        self.silent |= matches!(line, Line::SilentFrom(step) if is_at(step));
        if line.loses_by_chance() || self.silent {
            return None;
        }
        match line {
            Line::Loses(step) if is_at(step) => None,
            Line::Says(step, status) if is_at(step) && reply.len() > 17 => {
                reply[17] = *status; // of an open session response and of the RAKP messages
                Some(Duration::ZERO)
            }
            Line::Late(delay) => Some(*delay),
            _ => Some(Duration::ZERO),
        }
    }

    /// The reply to this question with nothing but a completion code (IPMI 2.0, 13.6 and 13.8), in a session without
    /// integrity and encryption.
    fn answer(&self, question: &[u8], status: u8) -> Vec<u8> {
        let message = message_of(question).expect("a question within a session");
        let (to_client, net_fn) = ([message[3], message[1] | 0x04], [message[0], message[4]]);
        let rest = [net_fn[0], net_fn[1], message[5], status];
        [
            &question[..6],
            &self.session,
            &question[10..14],
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
    // A run that has ended does not mind.
    let _ = front.send_to(reply, address);
}

/// Which question it is, by its header (IPMI 2.0, 13.6 and 13.27) and its command.
fn step_of(question: &[u8]) -> Option<Step> {
    const IPMI_1_5: u8 = 0;
    const OPEN_SESSION: u8 = 0x10;
    const RAKP_1: u8 = 0x12;
    const RAKP_3: u8 = 0x14;
    let [_, _, _, _, format, payload, ..] = question else { return None };
    match (*format, *payload) {
        (IPMI_1_5, _) => return Some(Step::Capabilities),
        (_, OPEN_SESSION) => return Some(Step::OpenSession),
        (_, RAKP_1) => return Some(Step::Rakp1),
        (_, RAKP_3) => return Some(Step::Rakp3),
        _ => {}
    }
    let message = message_of(question)?;
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

/// The IPMI message of a session without integrity and encryption.
fn message_of(question: &[u8]) -> Option<&[u8]> {
    const RMCP_PLUS: u8 = 6;
    const PLAIN_IPMI: u8 = 0;
    (question.get(4..6)? == [RMCP_PLUS, PLAIN_IPMI])
        .then(|| question.get(16..))?
        .filter(|message| message.len() > 6)
}

/// IPMI 2.0, 13.8: all bytes and their checksum add up to 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}
