//! An admitted request: an authorised command, what tells its delivery from others, and its deadline.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Authorised;
use crate::command::Command;
use crate::failure::Failure;
use crate::history::Asked;
use crate::history::alerts::Skip;
use crate::history::delivery::Delivery;
use crate::http::Response;
use crate::server::Server;
use crate::timing::{CHANGE_NEEDS, READ_NEEDS, SHARED_READ_NEEDS};

/// A request that may run its command, and the moment by which it must be answered.
pub struct Admitted {
    authorised: Authorised,
    /// Of a change.
    delivery: Option<Delivery>,
    peer: String,
    received: Instant,
    deadline: Instant,
    /// Whether the client has ended its side of the connection. A CGI program cannot know.
    has_left: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl Admitted {
    pub fn new(
        authorised: Authorised,
        delivery: Option<Delivery>,
        peer: String,
        received: Instant,
        timeout: Duration,
    ) -> Self {
        Self { authorised, delivery, peer, received, deadline: received + timeout, has_left: None }
    }

    /// From now on, `has_left` tells whether the client has ended its side of the connection.
    pub fn watch(&mut self, has_left: impl Fn() -> bool + Send + Sync + 'static) {
        self.has_left = Some(Box::new(has_left));
    }

    pub fn client_has_left(&self) -> bool {
        self.has_left.as_ref().is_some_and(|has_left| has_left())
    }

    /// A body of another sender changes nothing. The alerts of a body name the delivery better than a field does: the
    /// field may be the same in all that a sender posts.
    ///
    /// # Errors
    /// Why the body asks for nothing.
    pub fn read_body(&mut self, body: &[u8]) -> Result<(), Skip> {
        if self.command().is_change()
            && let Some(delivery) = Delivery::from_body(body)?
        {
            self.delivery = Some(delivery);
        }
        Ok(())
    }

    pub const fn authorised(&self) -> &Authorised {
        &self.authorised
    }

    pub const fn command(&self) -> Command {
        self.authorised.command()
    }

    pub const fn server(&self) -> &Server {
        self.authorised.server()
    }

    /// The name of the key that allowed it.
    pub const fn key(&self) -> &Arc<str> {
        self.authorised.key()
    }

    pub const fn received(&self) -> Instant {
        self.received
    }

    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    const fn needs(&self) -> Duration {
        if self.command().is_change() { CHANGE_NEEDS } else { READ_NEEDS }
    }

    /// Too little of its time is left to start.
    pub fn is_too_late(&self, now: Instant) -> bool {
        self.left(now) < self.needs()
    }

    /// A run within its time is long enough for other callers.
    pub fn can_share(&self, now: Instant) -> bool {
        let needs = if self.command().is_change() { CHANGE_NEEDS } else { SHARED_READ_NEEDS };
        self.left(now) >= needs
    }

    /// Behind this moment it cannot start any more.
    pub fn starts_until(&self) -> Instant {
        self.deadline.checked_sub(self.needs()).unwrap_or(self.received)
    }

    /// How long it may wait in the queue. A delivery that was carried out before is answered until its deadline. So are
    /// sensors, whose reading may have begun for another caller.
    pub fn waits_until(&self) -> Instant {
        let is_answered_late = self.delivery.is_some() || self.command().reads_sensors();
        if is_answered_late { self.deadline } else { self.starts_until() }
    }

    /// Whether it is the other delivery once more.
    pub fn repeats(&self, other: &Self) -> bool {
        self.delivery.is_some()
            && self.delivery == other.delivery
            && self.command() == other.command()
            && self.authorised.key() == other.authorised.key()
    }

    /// What the history remembers of it.
    pub fn asked(&self) -> Asked {
        Asked { change: self.command(), key: self.key().to_string(), delivery: self.delivery.clone() }
    }

    /// The reply to this sender.
    pub fn reply(&self, failure: &Failure) -> Response {
        match self.delivery {
            Some(Delivery::Alerts(_)) => failure.reply_to_alerts(self.command()),
            Some(Delivery::Named(_)) | None => failure.reply(Some(self.command())),
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authorised, delivery, .. } = self;
        write!(f, "{self}: {authorised:?}, {delivery:?}")
    }
}

/// `nas: power on (API_KEY from 127.0.0.1:40000)`: how the log names a request.
impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authorised, peer, .. } = self;
        write!(f, "{}{} ({} from {peer})", self.server(), self.command().name(), authorised.key())
    }
}
