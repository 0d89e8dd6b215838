//! Every rule of the queue. The clock is a parameter: no test sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::auth::{Key, Keys};
use crate::command::Command;
use crate::history::delivery::Delivery;
use crate::http::Head;
use crate::secret::Credential;
use crate::server::Server;
use crate::timing::{CHANGE_NEEDS, SHARED_READ_NEEDS};

const TIMEOUT: Duration = Duration::from_secs(9);
const SECOND: Duration = Duration::from_secs(1);

/// A queue, its clock, and the clients that come to it.
struct Scene {
    queue: Queue,
    start: Instant,
    now: Instant,
    clients: ClientId,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        Self { queue: Queue::default(), start: now, now, clients: 0 }
    }

    /// Moves the clock to so long after the start.
    fn at(&mut self, seconds: f64) -> &mut Self {
        self.now = self.start + Duration::from_secs_f64(seconds);
        self
    }

    /// A request that is complete now, of a client whose head came so long ago.
    fn request(&self, name: &str, id: &str, head_came: Duration) -> Arc<Admitted> {
        Arc::new(self.admitted(name, id, head_came))
    }

    /// The same, of a client that leaves when this becomes true.
    fn request_until(&self, name: &str, id: &str, has_left: &Arc<AtomicBool>) -> Arc<Admitted> {
        let (mut admitted, has_left) = (self.admitted(name, id, Duration::ZERO), has_left.clone());
        admitted.watch(move || has_left.load(Ordering::Relaxed));
        Arc::new(admitted)
    }

    /// The same, by another key.
    fn request_of(&self, key: &'static str, name: &str) -> Arc<Admitted> {
        Arc::new(self.admitted_by(key, name, "", Duration::ZERO))
    }

    fn admitted(&self, name: &str, id: &str, head_came: Duration) -> Admitted {
        self.admitted_by("KEY", name, id, head_came)
    }

    fn admitted_by(&self, key: &'static str, name: &str, id: &str, head_came: Duration) -> Admitted {
        let command = Command::all().find(|command| command.name() == name).unwrap();
        let credential = Credential::fixed("k", |_| Ok(())).unwrap();
        let keys = Keys(vec![Key { name: key.into(), credential, allows: Command::words(), servers: None }]);
        let head = Head::parse(b"GET / HTTP/1.0\r\nX-API-Key: k\r\n\r\n", String::new()).unwrap();
        let delivery = Some(Delivery::Named(id.to_owned())).filter(|_| !id.is_empty());
        let authorised = keys.authorise(&head, &Server::PLAIN, command).unwrap();
        let received = self.now.checked_sub(head_came).unwrap();
        Admitted::new(authorised, delivery, "peer".to_owned(), received, TIMEOUT)
    }

    fn enqueue(&mut self, request: Arc<Admitted>) -> Result<Enqueued, Failure> {
        self.clients += 1;
        self.queue.enqueue(self.clients, request, self.now)
    }

    /// A client asks; its number.
    fn ask(&mut self, name: &str) -> ClientId {
        self.deliver(name, "")
    }

    fn deliver(&mut self, name: &str, id: &str) -> ClientId {
        let request = self.request(name, id, Duration::ZERO);
        self.enqueue(request).unwrap();
        self.clients
    }

    /// The name of the command that starts.
    fn start(&mut self, kind: Kind) -> Option<&'static str> {
        match self.queue.start(kind, self.now)? {
            Start::Run(admitted) => Some(admitted.command().name()),
            Start::Abandoned(_) => Some("abandoned"),
        }
    }

    fn finish(&mut self, kind: Kind) -> Vec<ClientId> {
        self.queue.finish(kind, self.now)
    }
}

#[test]
fn changes_run_in_the_order_of_their_arrival() {
    let mut scene = Scene::new();
    let names = ["power off", "power on", "power off", "power reset"];
    let clients = names.map(|name| scene.ask(name));
    for (name, client) in names.into_iter().zip(clients) {
        assert_eq!(scene.start(Kind::Change), Some(name));
        assert_eq!(scene.finish(Kind::Change), [client]);
    }
    assert_eq!(scene.start(Kind::Change), None);
    assert!(scene.queue.is_idle());
}

#[test]
fn a_change_does_not_wait_for_a_read_nor_a_read_for_a_change() {
    let mut scene = Scene::new();
    for _ in 0..64 {
        scene.ask("power status");
    }
    assert_eq!(scene.start(Kind::Read), Some("power status"));
    scene.ask("power on");
    assert_eq!(scene.start(Kind::Change), Some("power on"));
}

#[test]
fn four_changes_of_a_key_wait_and_eight_in_all() {
    let mut scene = Scene::new();
    scene.ask("power on");
    scene.start(Kind::Change);
    let refusal = |scene: &mut Scene, key: &'static str| {
        let change = scene.request_of(key, "power on");
        scene.enqueue(change).err().and_then(|failure| failure.detail().map(str::to_owned))
    };
    for key in ["one", "two"] {
        for _ in 0..MAX_CHANGES_OF_A_KEY {
            assert_eq!(refusal(&mut scene, key), None);
        }
        assert_eq!(refusal(&mut scene, key).unwrap(), "too many changes of this key are waiting");
    }
    // One place is always left for another key.
    assert_eq!(refusal(&mut scene, "three"), None);
    assert_eq!(refusal(&mut scene, "three").unwrap(), "too many changes are waiting");
    for _ in 0..2 {
        scene.finish(Kind::Change);
        scene.start(Kind::Change);
    }
    assert_eq!(refusal(&mut scene, "three"), None);
}

#[test]
fn the_same_delivery_waits_for_the_first_one_whether_that_waits_or_runs() {
    let mut scene = Scene::new();
    let first = scene.deliver("power cycle", "a");
    let second = scene.deliver("power cycle", "a");
    let again = scene.request("power cycle", "a", Duration::ZERO);
    assert!(scene.queue.has_delivery(&again), "it waits");
    assert_eq!(scene.start(Kind::Change), Some("power cycle"));
    assert!(scene.queue.has_delivery(&again), "it runs");
    assert!(!scene.queue.has_delivery(&scene.request("power cycle", "c", Duration::ZERO)));
    let third = scene.deliver("power cycle", "a");
    let other = scene.deliver("power cycle", "b");
    let other_command = scene.deliver("power reset", "a");
    assert_eq!(scene.finish(Kind::Change), [first, second, third]);
    for client in [other, other_command] {
        scene.start(Kind::Change);
        assert_eq!(scene.finish(Kind::Change), [client]);
    }
}

#[test]
fn the_same_delivery_finds_its_place_even_where_a_new_one_is_refused() {
    let mut scene = Scene::new();
    for number in 0..MAX_CHANGES_OF_A_KEY {
        scene.deliver("power on", &number.to_string());
    }
    let again = scene.request("power on", "3", Duration::ZERO);
    assert_eq!(scene.enqueue(again), Ok(Enqueued::Shared));
}

#[test]
fn callers_that_wait_for_the_same_read_share_a_run() {
    let mut scene = Scene::new();
    let first = scene.ask("power status");
    scene.start(Kind::Read);
    // Too late for the run that began.
    scene.at(1.001);
    let waiting: Vec<_> = (0..32).map(|_| scene.ask("power status")).collect();
    assert_eq!(scene.finish(Kind::Read), [first]);
    assert_eq!(scene.start(Kind::Read), Some("power status"));
    assert_eq!(scene.finish(Kind::Read), waiting);
    assert_eq!(scene.start(Kind::Read), None);
}

#[test]
fn a_read_joins_a_running_one_that_began_at_most_a_second_ago() {
    for (seconds, joins) in [(0.0, true), (0.999, true), (1.0, true), (1.001, false)] {
        let mut scene = Scene::new();
        let first = scene.ask("power status");
        scene.start(Kind::Read);
        scene.at(seconds);
        let second = scene.ask("power status");
        let answered = scene.finish(Kind::Read);
        let expected = if joins { vec![first, second] } else { vec![first] };
        assert_eq!(answered, expected, "{seconds}");
    }
}

/// Or a status could be older than a change that was answered before it was asked for.
#[test]
fn a_read_does_not_join_one_that_began_before_the_last_change_ended() {
    let mut scene = Scene::new();
    scene.ask("power on");
    scene.start(Kind::Change);
    let first = scene.ask("power status");
    scene.start(Kind::Read);
    scene.at(0.1);
    let beside = scene.ask("power status"); // the change is not answered yet
    scene.finish(Kind::Change);
    scene.at(0.2);
    let after = scene.ask("power status");
    assert_eq!(scene.finish(Kind::Read), [first, beside]);
    assert_eq!(scene.start(Kind::Read), Some("power status"));
    scene.at(0.3);
    let joined = scene.ask("power status"); // this run began after the change
    assert_eq!(scene.finish(Kind::Read), [after, joined]);
}

#[test]
fn a_read_does_not_join_a_run_that_would_outlast_it() {
    let mut scene = Scene::new();
    let first = scene.ask("power status");
    scene.start(Kind::Read);
    let slow_body = scene.request("power status", "", Duration::from_millis(1));
    assert_eq!(scene.enqueue(slow_body), Ok(Enqueued::New));
    assert_eq!(scene.finish(Kind::Read), [first]);
}

#[test]
fn a_caller_with_little_time_left_runs_apart_and_first() {
    let mut scene = Scene::new();
    let first = scene.ask("power status");
    scene.start(Kind::Read);
    scene.at(1.5);
    let little = scene.ask("power status");
    scene.at(7.0);
    let ample = scene.ask("power status");
    // The deadline of `little` is at 10.5 s.
    scene.at(10.5 - SHARED_READ_NEEDS.as_secs_f64() + 0.001);
    assert_eq!(scene.finish(Kind::Read), [first]);
    scene.start(Kind::Read);
    assert_eq!(scene.finish(Kind::Read), [little]);
    scene.start(Kind::Read);
    assert_eq!(scene.finish(Kind::Read), [ample]);
}

#[test]
fn callers_who_all_have_little_time_left_share_a_run() {
    let mut scene = Scene::new();
    let both = [scene.ask("power status"), scene.ask("power status")];
    scene.at(8.0).start(Kind::Read);
    assert_eq!(scene.finish(Kind::Read), both);
}

#[test]
fn a_delivery_that_is_too_late_does_not_take_its_repeats_along() {
    let mut scene = Scene::new();
    let late = scene.deliver("power cycle", "a");
    scene.at(3.0);
    let again = scene.deliver("power cycle", "a");
    scene.at(9.0 - CHANGE_NEEDS.as_secs_f64() + 0.001);
    scene.start(Kind::Change);
    assert_eq!(scene.finish(Kind::Change), [late]);
    scene.start(Kind::Change);
    assert_eq!(scene.finish(Kind::Change), [again]);
}

/// Its deadline counts from its head.
#[test]
fn the_caller_with_the_earliest_deadline_speaks_for_all() {
    let mut scene = Scene::new();
    scene.ask("power status");
    let slow_body = scene.request("power status", "", SECOND);
    scene.enqueue(slow_body.clone()).unwrap();
    let Some(Start::Run(first)) = scene.queue.start(Kind::Read, scene.now) else { panic!("nothing to run") };
    assert_eq!(first.deadline(), slow_body.deadline());
}

#[test]
fn a_cancelled_request_is_not_run_unless_another_client_waits_for_it() {
    let mut scene = Scene::new();
    let [running, alone] = ["power on", "power off"].map(|name| scene.ask(name));
    let [gone, stays] = ["a", "a"].map(|id| scene.deliver("power cycle", id));
    scene.start(Kind::Change);
    assert!(scene.queue.cancel(running).is_none(), "it has started");
    assert!(!scene.queue.cancel(alone).unwrap().is_shared);
    assert!(scene.queue.cancel(gone).unwrap().is_shared);
    assert!(scene.queue.cancel(99).is_none());
    scene.finish(Kind::Change);
    assert_eq!(scene.start(Kind::Change), Some("power cycle"));
    assert_eq!(scene.finish(Kind::Change), [stays]);
    assert!(scene.queue.is_idle());
}

#[test]
fn a_read_that_joined_a_running_one_cannot_be_cancelled() {
    let mut scene = Scene::new();
    scene.ask("power status");
    scene.start(Kind::Read);
    let joined = scene.ask("power status");
    assert!(scene.queue.cancel(joined).is_none());
}

#[test]
fn at_the_end_what_waits_is_cancelled_and_what_runs_goes_on() {
    let mut scene = Scene::new();
    let running = scene.ask("power on");
    scene.start(Kind::Change);
    scene.ask("power off");
    scene.ask("power status");
    let cancelled: Vec<_> =
        scene.queue.cancel_all().iter().map(|admitted| admitted.command().name()).collect();
    assert_eq!(cancelled, ["power off"]);
    assert!(!scene.queue.is_idle());
    assert_eq!(scene.finish(Kind::Change), [running]);
    assert!(scene.queue.is_idle());
}

#[test]
fn a_change_whose_client_has_left_is_not_started() {
    let mut scene = Scene::new();
    let has_left = Arc::new(AtomicBool::new(false));
    scene.enqueue(scene.request_until("power on", "", &has_left)).unwrap();
    assert!(scene.queue.cancel_abandoned(1).is_empty());
    has_left.store(true, Ordering::Relaxed);
    assert_eq!(scene.start(Kind::Change), Some("abandoned"));
    assert!(scene.queue.is_idle());

    scene.enqueue(scene.request_until("power on", "", &has_left)).unwrap();
    let cancelled = scene.queue.cancel_abandoned(2);
    assert_eq!(cancelled.iter().map(|(client, _)| *client).collect::<Vec<_>>(), [2]);
    assert!(scene.queue.is_idle());
}

#[test]
fn a_change_runs_while_one_of_its_clients_is_there() {
    let mut scene = Scene::new();
    let leave = [false, false].map(|has_left| Arc::new(AtomicBool::new(has_left)));
    for has_left in &leave {
        scene.enqueue(scene.request_until("power cycle", "a", has_left)).unwrap();
    }
    leave[0].store(true, Ordering::Relaxed);
    assert!(scene.queue.cancel_abandoned(1).is_empty());
    leave[1].store(true, Ordering::Relaxed);
    let cancelled = scene.queue.cancel_abandoned(1);
    assert_eq!(cancelled.iter().map(|(client, _)| *client).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_read_is_run_though_its_client_has_left() {
    let mut scene = Scene::new();
    let has_left = Arc::new(AtomicBool::new(true));
    scene.enqueue(scene.request_until("power status", "", &has_left)).unwrap();
    assert!(scene.queue.cancel_abandoned(1).is_empty());
    assert_eq!(scene.start(Kind::Read), Some("power status"));
}

const LIST: &str = "-c sdr elist full";

#[test]
fn all_callers_share_one_reading_of_sensors_whenever_they_come() {
    let mut scene = Scene::new();
    let first = scene.ask(LIST);
    let waiting = scene.ask(LIST);
    assert_eq!(scene.start(Kind::Sensors), Some(LIST));
    scene.at(20.0).ask("power on");
    scene.start(Kind::Change);
    scene.finish(Kind::Change);
    let late = scene.request(LIST, "", Duration::from_secs(8));
    assert_eq!(scene.enqueue(late), Ok(Enqueued::Shared));
    let last = scene.clients;
    assert_eq!(scene.start(Kind::Sensors), None, "one run at a time");
    assert_eq!(scene.finish(Kind::Sensors), [first, waiting, last]);
}

#[test]
fn a_caller_with_little_time_does_not_read_sensors_apart() {
    let mut scene = Scene::new();
    let hurried = scene.request(LIST, "", TIMEOUT.checked_sub(SECOND).unwrap());
    scene.enqueue(hurried).unwrap();
    scene.ask(LIST);
    assert_eq!(scene.start(Kind::Sensors), Some(LIST));
    assert_eq!(scene.finish(Kind::Sensors), [1, 2]);
}

#[test]
fn a_caller_leaves_a_reading_that_runs_and_that_goes_on() {
    let mut scene = Scene::new();
    let [leaves, stays] = [(), ()].map(|()| scene.ask(LIST));
    scene.start(Kind::Sensors);
    assert!(scene.queue.cancel(leaves).unwrap().is_shared);
    assert!(scene.queue.cancel(leaves).is_none());
    assert_eq!(scene.finish(Kind::Sensors), [stays]);
    let alone = scene.ask(LIST);
    assert!(!scene.queue.cancel(alone).unwrap().is_shared, "it has not begun");
    assert_eq!(scene.start(Kind::Sensors), None);
}

#[test]
fn neither_a_status_nor_a_change_nor_the_end_waits_for_sensors() {
    let mut scene = Scene::new();
    scene.ask(LIST);
    scene.start(Kind::Sensors);
    scene.ask("power status");
    scene.ask("power on");
    assert_eq!(scene.start(Kind::Read), Some("power status"));
    assert_eq!(scene.start(Kind::Change), Some("power on"));
    assert!(!scene.queue.is_idle());
    scene.finish(Kind::Read);
    scene.finish(Kind::Change);
    assert!(scene.queue.is_idle());
}
