//! The first front end: one thread that owns every socket and waits in `epoll`. It reads, admits, enqueues, writes and
//! closes, and never blocks: a slow client costs one small buffer and no thread.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, getrlimit};

use super::connection::{Connection, Event};
use super::places::{MAX_WAITING, Places, Waiter};
use super::replies::Replies;
use super::signals::Signals;
use crate::bmc::{Bmc, Deliver};
use crate::failure::{Code, Failure};
use crate::handler::{Admission, Handler, with_body};
use crate::http::Head;
use crate::queue::ClientId;
use crate::request::Admitted;
use crate::timing::{ACCEPT_PAUSE, ACCEPT_WARNING};

/// A client that comes while it is full tries again a second later. One flooding program on the same machine connects
/// some 40 times a millisecond: the standard library's 128 bridge 3 ms in which this program gets no processor, 1,024
/// some 25 ms, and both were too few. Linux allows this many since 5.4 (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// What the kernel holds of a client's bytes. A head has 8 KiB.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// 256 heads of 8 KiB are 2 MiB, which a container of 16 MB has to spare.
const MAX_CLIENTS: usize = 256;

/// Kept for the log, keys that are read again, and what the program was started with.
const OTHER_DESCRIPTORS: usize = 16;

/// Kept for each BMC: the outputs of its runs and how they are watched, its history, its login that is read again.
const DESCRIPTORS_OF_A_BMC: usize = 16;

/// Bodies that did not come with their heads. Few honest ones do. Together with their heads they fit into the 16 MB of a
/// small container, and slow ones leave the places above to others.
const MAX_BODIES: usize = 8;

/// Clients that are served in one go, before deadlines and signals are looked at again.
const EVENTS: usize = 64;

/// What the kernel tells of that is no client. Clients are numbered from 0.
const SIGNALS: u64 = u64::MAX;
const REPLIES: u64 = u64::MAX - 1;
const LISTENER: u64 = u64::MAX - 2;

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

/// Serves until it is told to stop. Gives the number of the signal that cut the stopping itself short, if one did.
///
/// # Errors
/// When the workers cannot be started, or `epoll` itself fails.
pub fn serve(listener: TcpListener, handler: &Handler, signals: &Signals) -> io::Result<Option<usize>> {
    let replies = Arc::new(Replies::new()?);
    let outbox = replies.clone();
    let deliver: Arc<Deliver> = Arc::new(move |clients, response| outbox.put(clients, response));
    handler.start_workers(&deliver)?;
    // No limit at all counts as one that is large enough.
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    let (servers, keys) = handler.sharers();
    let for_others = OTHER_DESCRIPTORS + servers * DESCRIPTORS_OF_A_BMC;
    let for_clients = descriptors.map_or(MAX_CLIENTS, |most| most.saturating_sub(for_others));
    let max_clients = for_clients.clamp(2, MAX_CLIENTS);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(&epoll, signals, epoll::EventData::new_u64(SIGNALS), readable)?;
    epoll::add(&epoll, &replies.wake, epoll::EventData::new_u64(REPLIES), readable)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), readable)?;
    let mut server = Server {
        epoll,
        listener: Some(listener),
        accept_again: None,
        warned: None,
        handler,
        clients: BTreeMap::new(),
        next_id: 0,
        max_clients,
        places: Places { all: MAX_WAITING.min(max_clients / 4), servers, keys },
    };
    let result = server.run(signals, &replies);
    handler.join_workers();
    result
}

struct Server<'a> {
    epoll: OwnedFd,
    /// `None` once it is told to stop.
    listener: Option<TcpListener>,
    /// Accepting has failed, and is tried again then.
    accept_again: Option<Instant>,
    /// When the log last had a warning about that.
    warned: Option<Instant>,
    handler: &'a Handler,
    /// In the order of their arrival.
    clients: BTreeMap<ClientId, Connection>,
    next_id: ClientId,
    max_clients: usize,
    places: Places,
}

impl Server<'_> {
    fn run(&mut self, signals: &Signals, replies: &Replies) -> io::Result<Option<usize>> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            self.wait(&mut events)?;
            // The kernel's list has the clients in the order in which their bytes came, and so do the changes.
            for epoll::Event { flags, data } in events.drain(..) {
                match data.u64() {
                    SIGNALS => {
                        if let Some(signal) = self.heed(signals) {
                            self.answer_last(replies);
                            return Ok(Some(signal));
                        }
                    }
                    REPLIES => {
                        for (id, response) in replies.take() {
                            self.step(id, |_, client, now| client.reply(&response, now));
                        }
                    }
                    LISTENER => self.accept(),
                    id => self.step(id, |_, client, now| client.advance(flags, now)),
                }
            }
            self.expire();
            if self.listener.is_none() && self.clients.is_empty() && self.handler.is_idle() {
                return Ok(None);
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let until = self.clients.values().filter_map(Connection::until).chain(self.accept_again).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // A whole millisecond more: epoll counts in these, and must not wake up too early.
        let timeout = left.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            // A lack of memory passes, and it is tried again.
            Ok(_) | Err(Errno::INTR | Errno::NOMEM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The first signal asks to finish what was admitted, and no new client is let in. A second signal, whose number is
    /// returned, asks to stop at once.
    fn heed(&mut self, signals: &Signals) -> Option<usize> {
        let (mut count, signal) = signals.take();
        if count > 0 && self.listener.take().is_some() {
            self.accept_again = None;
            self.clients.retain(|_, client| !client.is_receiving());
            self.handler.stop_sensors();
            info!("told to stop by signal {signal}; requests to finish first: {}", self.clients.len());
            count -= 1;
        }
        if count == 0 {
            return None;
        }
        warn!("told to stop at once by signal {signal}");
        self.handler.stop_now();
        Some(signal)
    }

    /// The callers of what was cut short hear that its outcome is unknown. A reply fits into an empty socket buffer.
    fn answer_last(&mut self, replies: &Replies) {
        self.handler.join_workers();
        for (id, response) in replies.take() {
            self.step(id, |_, client, now| client.reply(&response, now));
        }
    }

    /// Takes one client a step further, and does what the step asks for.
    fn step(&mut self, id: ClientId, step: impl FnOnce(&mut Self, &mut Connection, Instant) -> Event) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let (now, before) = (Instant::now(), client.interest());
        let mut event = step(self, &mut client, now);
        let is_read_again = loop {
            event = match event {
                Event::Wait => break false,
                Event::Again => break true,
                Event::Close => return,
                Event::Head(head, rest) => self.admit(&mut client, &head, &rest, now),
                Event::Complete(bmc, admitted, body) => {
                    self.enqueue(id, &mut client, bmc, admitted, &body, now)
                }
                Event::Left(bmc) => {
                    bmc.client_has_ended(id);
                    Event::Wait
                }
                Event::Gone(bmc) => {
                    bmc.client_is_gone(id);
                    Event::Close
                }
            };
        };
        // To set it again has the kernel look again.
        if is_read_again || client.interest() != before {
            let data = epoll::EventData::new_u64(id);
            if epoll::modify(&self.epoll, &client, data, client.interest()).is_err() {
                return;
            }
        }
        self.clients.insert(id, client);
    }

    /// At most a quarter of the places at a time: a new client is read before so many others come that it must make room.
    fn accept(&mut self) {
        for _ in 0..self.max_clients.div_ceil(4) {
            let Some(listener) = &self.listener else { return };
            match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.welcome(Connection::new(socket.into(), Instant::now())),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(Errno::CONNABORTED) => {}
                Err(error) => return self.pause_accepting(error),
            }
        }
    }

    /// The listener stays ready while there is no descriptor for a client.
    fn pause_accepting(&mut self, error: Errno) {
        let now = Instant::now();
        if let Some(listener) = &self.listener
            && epoll::delete(&self.epoll, listener).is_ok()
        {
            self.accept_again = Some(now + ACCEPT_PAUSE);
        }
        if self.warned.is_none_or(|last| last + ACCEPT_WARNING <= now) {
            self.warned = Some(now);
            warn!("accepting connections fails, and is tried again: {error}");
        }
    }

    fn resume_accepting(&mut self) {
        self.accept_again = None;
        if let Some(listener) = &self.listener {
            let data = epoll::EventData::new_u64(LISTENER);
            if epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN).is_err() {
                self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
            }
        }
    }

    /// It is read only when the kernel tells of its bytes, behind those of other clients that came before.
    fn welcome(&mut self, client: Connection) {
        if self.clients.len() >= self.max_clients {
            // The unauthenticated client that has been sending longest makes room. There is one, since not all clients
            // can be admitted.
            let unadmitted = || self.clients.iter().filter(|(_, client)| !client.is_admitted());
            let oldest =
                unadmitted().find(|(_, client)| !client.is_replied_to()).or_else(|| unadmitted().next());
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.clients.remove(&id);
            }
        }
        let data = epoll::EventData::new_u64(self.next_id);
        if epoll::add(&self.epoll, &client, data, client.interest()).is_ok() {
            self.clients.insert(self.next_id, client);
            self.next_id += 1;
        }
    }

    /// Decides by the head.
    fn admit(&mut self, client: &mut Connection, head: &Head, rest: &[u8], now: Instant) -> Event {
        // Our own locks survive a panic: they hold nothing half-done.
        let admission = catch_unwind(AssertUnwindSafe(|| self.handler.admit(head)));
        let failed = |_| Admission::Reply(Failure::from(Code::Internal).reply(None));
        let (bmc, admitted) = match admission.unwrap_or_else(failed) {
            Admission::Reply(response) => return client.reply(&response, now),
            Admission::Run(bmc, admitted) => (bmc, admitted),
        };
        let event = client.receive_body(head, rest, bmc, admitted, now);
        if client.has_body_to_come() {
            self.make_room_for_a_body();
        }
        event
    }

    /// The client that has been sending its body longest makes room. A caller that sends slowly does not keep out others.
    fn make_room_for_a_body(&mut self) {
        let mut bodies =
            self.clients.iter().filter(|(_, client)| client.has_body_to_come()).map(|(id, _)| *id);
        let Some(oldest) = bodies.next() else { return };
        if 1 + bodies.count() >= MAX_BODIES {
            let busy = Code::Busy.because("too many bodies are on their way, and this one was not read");
            self.step(oldest, |_, client, now| client.refuse_body(&busy, now));
        }
    }

    /// Puts the command into the queue, unless the body asks for nothing, or its answer is known.
    fn enqueue(
        &self,
        id: ClientId,
        client: &mut Connection,
        bmc: Arc<Bmc>,
        admitted: Admitted,
        body: &[u8],
        now: Instant,
    ) -> Event {
        let (bmc, mut admitted) = match with_body(bmc, admitted, body) {
            Admission::Reply(response) => return client.reply(&response, now),
            Admission::Run(bmc, admitted) => (bmc, admitted),
        };
        // What is known is answered before any limit counts.
        if let Some(response) = bmc.known_answer(&admitted) {
            return client.reply(&response, now);
        }
        if let Err(busy) = self.find_place(&admitted) {
            let busy = if bmc.is_under_way(&admitted) { Failure::under_way() } else { busy };
            return client.refuse_admitted(&bmc, &admitted, &busy, now);
        }
        admitted.watch(client.has_left());
        let (key, until) = (admitted.key().clone(), admitted.waits_until());
        match bmc.enqueue(id, admitted) {
            Ok(()) => client.wait_for_command(bmc, key, until),
            Err(response) => client.reply(&response, now),
        }
    }

    fn find_place(&self, admitted: &Admitted) -> Result<(), Failure> {
        let waiting: Vec<_> = self.clients.values().filter_map(Connection::waits_as).collect();
        let new = Waiter { server: admitted.server().name().unwrap_or_default(), key: admitted.key() };
        self.places.find(&waiting, new, admitted.command().is_change())
    }

    /// Ends every stage that has taken too long.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.accept_again.is_some_and(|again| again <= now) {
            self.resume_accepting();
        }
        let is_late = |client: &Connection| client.until().is_some_and(|until| until <= now);
        let late = self.clients.iter().filter(|(_, client)| is_late(client)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            self.step(id, |_, client, now| match client.expire(now) {
                (_, Some(bmc)) => match bmc.cancel(id) {
                    Some(cancelled) => {
                        let response = bmc.give_up_late(&cancelled.admitted);
                        client.reply(&response, now)
                    }
                    None => client.wait_for_answer(),
                },
                (event, None) => event,
            });
        }
    }
}
