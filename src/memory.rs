//! What was attempted, so that no delivery is carried out twice and no server is reset twice in a row. Pure: the clock
//! is the caller's, and so is the file.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::delivery::{Alert, Delivery};
use crate::ipmi::{Change, Command};

/// For how long a named delivery is remembered: retries end sooner, and a name may come again some day.
const NAMED_FOR: Moment = 600 * SECOND;

/// A restart matters for as long as its cooldown may last.
const RESTART_FOR: Moment = 3600 * SECOND;

/// Ids and alerts of each key that are remembered; its oldest are forgotten first, and no other's. With their replies at
/// most 1.6 MB, and more than a house's alerts in a year.
const MAX_NAMES: usize = 1024;

/// Two Prometheus that report one alert may have begun to see it so far apart, in milliseconds. Without a bound one
/// that came under a clock far ahead would swallow all later ones.
const MOVES_BACK: i64 = 7 * 24 * 3600 * 1000;

/// Milliseconds since 1970, on a clock that is only ever set together with the memory; see [`Memory::shift`].
pub type Moment = u64;

const SECOND: Moment = 1000;

/// The beginning of 2026, before there was this program: a clock that shows less is not set yet.
const NOT_SET: Moment = 1_767_225_600 * SECOND;

/// Attempts in the order in which they were made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Memory {
    attempts: VecDeque<Attempt>,
}

/// A change, who asks for it, and what tells this delivery from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub change: Change,
    /// The name of the key: what one sender calls 1 is not what another does. An alert is the same to all.
    pub key: String,
    pub delivery: Option<Delivery>,
}

/// A change that was sent, or may have been.
#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    at: Moment,
    asked: Asked,
    progress: Progress,
    reply: Option<Stored>,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Or how far it had come when the program ended.
    Begun,
    /// The BMC declined: nothing happened.
    Declined,
    Sent,
}

impl Progress {
    /// Their words in the file; what has only begun has none.
    const ENDED: [(&str, Self); 2] = [("declined", Self::Declined), ("sent", Self::Sent)];
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Ending {
    /// Before anything was sent.
    NotSent,
    Declined(Stored),
    /// Done, or perhaps done.
    Sent(Stored),
}

/// A reply to give once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub status: u16,
    pub body: String,
}

/// What there is against a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Objection {
    /// This delivery was carried out and answered.
    Answered(Stored),
    /// This delivery was begun, and the program ended before it was done.
    Unfinished,
    /// All of its alerts have been acted on.
    ActedOn,
    /// This name was given to another change.
    NameTaken(Change),
    /// So many seconds after that change, and so many too early.
    TooSoon { last: Change, ago: u64, wait: u64 },
}

impl Memory {
    /// What there is against this change, if anything. `cooldown` is in seconds.
    pub fn objection(&self, asked: &Asked, now: Moment, cooldown: u64) -> Option<Objection> {
        match &asked.delivery {
            Some(delivery @ Delivery::Named(_)) => self.named(asked, delivery, now),
            Some(Delivery::Alerts(alerts)) => {
                let before: Option<Vec<_>> =
                    alerts.iter().map(|alert| self.acted_on(asked.change, alert)).collect();
                let objection = |all: Vec<_>| {
                    if all.contains(&Progress::Begun) { Objection::Unfinished } else { Objection::ActedOn }
                };
                before.map(objection)
            }
            None => None,
        }
        .or_else(|| self.too_soon(asked.change, now, cooldown))
    }

    fn named(&self, asked: &Asked, delivery: &Delivery, now: Moment) -> Option<Objection> {
        let same = |attempt: &&Attempt| {
            attempt.asked.delivery.as_ref() == Some(delivery)
                && attempt.asked.key == asked.key
                && age(attempt.at, now) < NAMED_FOR
        };
        let Attempt { asked: before, reply, .. } = self.attempts.iter().rev().find(same)?;
        Some(match reply {
            _ if before.change != asked.change => Objection::NameTaken(before.change),
            Some(reply) => Objection::Answered(reply.clone()),
            None => Objection::Unfinished,
        })
    }

    /// How far that came which was last done for this alert. Its start can move back while it fires, and only then:
    /// when it fires anew it starts later.
    fn acted_on(&self, change: Change, alert: &Alert) -> Option<Progress> {
        let last = self.attempts.iter().rev().find(|attempt| attempt.is_for(change, alert));
        last.map(|attempt| attempt.progress)
    }

    /// Those who asked have been told that the outcome is unknown, and nobody will ever know more.
    pub fn close(&mut self, asked: &Asked) {
        let Some(Delivery::Alerts(alerts)) = &asked.delivery else { return };
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.progress == Progress::Begun) {
            if alerts.iter().any(|alert| attempt.is_for(asked.change, alert)) {
                attempt.progress = Progress::Sent;
            }
        }
    }

    fn too_soon(&self, change: Change, now: Moment, cooldown: u64) -> Option<Objection> {
        if !change.restarts() {
            return None;
        }
        let last = self.attempts.iter().rev().find(|attempt| attempt.restarts())?;
        let ago = age(last.at, now);
        let wait = (cooldown * SECOND).checked_sub(ago).filter(|&wait| wait > 0)?;
        Some(Objection::TooSoon { last: last.asked.change, ago: ago / SECOND, wait: wait.div_ceil(SECOND) })
    }

    /// Notes an attempt before it is made.
    pub fn begin(&mut self, asked: Asked, now: Moment) {
        self.attempts.push_back(Attempt { at: now, asked, progress: Progress::Begun, reply: None });
    }

    /// How the latest attempt ended.
    pub fn end(&mut self, ending: Ending, now: Moment) {
        let Some(mut attempt) = self.attempts.pop_back() else { return };
        let (progress, reply) = match ending {
            Ending::NotSent => return,
            Ending::Declined(reply) => (Progress::Declined, reply),
            Ending::Sent(reply) => (Progress::Sent, reply),
        };
        attempt.progress = progress;
        attempt.reply = Some(reply).filter(|_| matches!(attempt.asked.delivery, Some(Delivery::Named(_))));
        let key = attempt.asked.key.clone();
        self.attempts.push_back(attempt);
        self.forget(&key, now);
    }

    /// Forgets what can no longer matter, and then the oldest of a key that has too many names; but never the latest
    /// attempt, nor the latest restart.
    fn forget(&mut self, key: &str, now: Moment) {
        self.attempts.retain(|attempt| attempt.matters(now));
        let own = |attempt: &Attempt| attempt.asked.key == key;
        let mut names: usize = self.attempts.iter().filter(|a| own(a)).map(|a| a.asked.names()).sum();
        let kept = [self.attempts.len().checked_sub(1), self.attempts.iter().rposition(Attempt::restarts)];
        let mut index = 0;
        self.attempts.retain(|attempt| {
            let goes = names > MAX_NAMES && own(attempt) && !kept.contains(&Some(index));
            names -= if goes { attempt.asked.names() } else { 0 };
            index += 1;
            !goes
        });
    }

    /// Follows a clock that was set forward by so many milliseconds: what is a minute old stays so.
    pub fn shift(&mut self, by: i64) {
        for attempt in &mut self.attempts {
            attempt.at = attempt.at.saturating_add_signed(by);
        }
    }

    pub fn to_json(&self) -> String {
        let attempts: Vec<_> = self.attempts.iter().map(Attempt::to_json).collect();
        json!({ "attempts": attempts }).to_string()
    }

    /// What [`Self::to_json`] wrote, perhaps under a clock that was ahead of today's, or not set at all. `None` for
    /// anything else.
    pub fn from_json(text: &str, now: Moment) -> Option<Self> {
        let all: Value = serde_json::from_str(text).ok()?;
        let attempts = all["attempts"].as_array()?;
        let read: Option<_> =
            attempts.iter().map(|attempt| Attempt::from_json(attempt.as_object()?, now)).collect();
        Some(Self { attempts: read? })
    }
}

const fn age(at: Moment, now: Moment) -> Moment {
    now.saturating_sub(at)
}

impl Asked {
    /// Whether it can matter later that it was made.
    pub const fn is_memorable(&self) -> bool {
        self.delivery.is_some() || self.change.restarts()
    }

    /// How much of the memory it takes.
    fn names(&self) -> usize {
        match &self.delivery {
            Some(Delivery::Alerts(alerts)) => alerts.len(),
            Some(Delivery::Named(_)) | None => 1,
        }
    }
}

impl Attempt {
    /// Whether the server may be starting because of it.
    fn restarts(&self) -> bool {
        self.asked.change.restarts() && self.progress != Progress::Declined
    }

    fn is_for(&self, change: Change, alert: &Alert) -> bool {
        let is_it = |before: &Alert| {
            let moved = before.since.saturating_sub(alert.since);
            before.fingerprint == alert.fingerprint && (0..=MOVES_BACK).contains(&moved)
        };
        let has_it =
            matches!(&self.asked.delivery, Some(Delivery::Alerts(alerts)) if alerts.iter().any(is_it));
        has_it && self.asked.change == change
    }

    /// An alert may fire for months.
    fn matters(&self, now: Moment) -> bool {
        let names = match self.asked.delivery {
            Some(Delivery::Alerts(_)) => true,
            Some(Delivery::Named(_)) => age(self.at, now) < NAMED_FOR,
            None => false,
        };
        names || (self.restarts() && age(self.at, now) < RESTART_FOR)
    }

    fn to_json(&self) -> Value {
        let Asked { change, key, delivery } = &self.asked;
        let mut members = json!({ "at": self.at, "command": Command::Change(*change).name(), "key": key });
        match delivery {
            Some(Delivery::Named(id)) => members["id"] = json!(id),
            Some(Delivery::Alerts(alerts)) => {
                let pairs = alerts.iter().map(|Alert { fingerprint, since }| json!([fingerprint, since]));
                members["alerts"] = pairs.collect();
            }
            None => {}
        }
        if let Some((word, _)) = Progress::ENDED.iter().find(|(_, progress)| *progress == self.progress) {
            members["ended"] = json!(word);
        }
        if let Some(Stored { status, body }) = &self.reply {
            members["status"] = json!(status);
            members["body"] = json!(body);
        }
        members
    }

    fn from_json(members: &Map<String, Value>, now: Moment) -> Option<Self> {
        let text = |name: &str| Some(members.get(name)?.as_str()?.to_owned());
        let name = text("command")?;
        let change = Change::ALL.into_iter().find(|change| Command::Change(*change).name() == name)?;
        let delivery = match (members.get("id"), members.get("alerts")) {
            (Some(_), None) => Some(Delivery::Named(text("id")?)),
            (None, Some(Value::Array(alerts))) => {
                let alert = |pair: &Value| {
                    Some(Alert { fingerprint: pair[0].as_str()?.to_owned(), since: pair[1].as_i64()? })
                };
                Some(Delivery::Alerts(alerts.iter().map(alert).collect::<Option<_>>()?))
            }
            (None, None) => None,
            _ => return None,
        };
        let reply = match members.get("status") {
            Some(status) => Some(Stored { status: status.as_u64()?.try_into().ok()?, body: text("body")? }),
            None => None,
        };
        // What seems to be to come would be too recent for as long as the clock was ahead; and what was noted before
        // it was set may be from this very minute.
        let at = members.get("at")?.as_u64()?;
        let at = if at < NOT_SET && now >= NOT_SET { now } else { at.min(now) };
        let progress = match members.get("ended") {
            Some(ended) => Progress::ENDED.into_iter().find(|(word, _)| ended == word)?.1,
            None => Progress::Begun,
        };
        Some(Self { at, asked: Asked { change, key: text("key")?, delivery }, progress, reply })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Change::{PowerCycle, PowerOn, PowerReset, PowerSoft};

    const COOLDOWN: u64 = 120;

    fn asked(change: Change, delivery: Option<Delivery>) -> Asked {
        Asked { change, key: "API_KEY".to_owned(), delivery }
    }

    fn named(change: Change, id: &str) -> Asked {
        asked(change, Some(Delivery::Named(id.to_owned())))
    }

    fn alerts(change: Change, names: &[&str]) -> Asked {
        let alert = |name: &&str| Alert { fingerprint: (*name).to_owned(), since: 5 };
        asked(change, Some(Delivery::Alerts(names.iter().map(alert).collect())))
    }

    fn reply() -> Stored {
        Stored { status: 200, body: "{}".to_owned() }
    }

    /// A memory of these, each made and answered at its second.
    fn memory(attempts: &[(u64, Asked)]) -> Memory {
        let mut memory = Memory::default();
        for (at, asked) in attempts {
            memory.begin(asked.clone(), at * SECOND);
            memory.end(Ending::Sent(reply()), at * SECOND);
        }
        memory
    }

    #[test]
    fn a_named_delivery_is_carried_out_once_in_ten_minutes() {
        let memory = memory(&[(1000, named(PowerOn, "a"))]);
        let mut stranger = named(PowerOn, "a");
        stranger.key = "ACCESS_OTHER_KEY".to_owned();
        for (again, now, expected) in [
            (named(PowerOn, "a"), 1000, Some(Objection::Answered(reply()))),
            (named(PowerOn, "a"), 1599, Some(Objection::Answered(reply()))),
            (named(PowerOn, "a"), 1600, None),
            (named(PowerOn, "b"), 1000, None),
            (named(PowerSoft, "a"), 1000, Some(Objection::NameTaken(PowerOn))),
            (stranger, 1000, None),
            (asked(PowerOn, None), 1000, None),
        ] {
            assert_eq!(memory.objection(&again, now * SECOND, COOLDOWN), expected, "{again:?} at {now}");
        }
    }

    #[test]
    fn what_was_begun_and_never_ended_is_not_begun_again() {
        let mut memory = Memory::default();
        memory.begin(named(PowerCycle, "a"), 1000 * SECOND);
        assert_eq!(
            memory.objection(&named(PowerCycle, "a"), 1001 * SECOND, COOLDOWN),
            Some(Objection::Unfinished)
        );
        memory.end(Ending::NotSent, 1002 * SECOND);
        assert_eq!(memory, Memory::default(), "nothing was sent");
    }

    #[test]
    fn of_alerts_that_were_begun_and_never_ended_the_outcome_is_unknown() {
        let mut memory = memory(&[(1000, alerts(PowerCycle, &["a"]))]);
        memory.begin(alerts(PowerCycle, &["b"]), 2000 * SECOND);
        for (again, expected) in [(&["a"][..], Objection::ActedOn), (&["b"], Objection::Unfinished)] {
            let found = memory.objection(&alerts(PowerCycle, again), 3000 * SECOND, COOLDOWN);
            assert_eq!(found, Some(expected), "{again:?}");
        }
        let both = alerts(PowerCycle, &["a", "b"]);
        for expected in [Objection::Unfinished, Objection::ActedOn] {
            assert_eq!(memory.objection(&both, 3000 * SECOND, COOLDOWN), Some(expected));
            memory.close(&both);
        }
    }

    #[test]
    fn alerts_are_acted_on_once_however_they_are_grouped() {
        let memory = memory(&[(1000, alerts(PowerCycle, &["a", "b"])), (2000, alerts(PowerCycle, &["c"]))]);
        for (again, expected) in [
            (alerts(PowerCycle, &["a", "b"]), Some(Objection::ActedOn)),
            (alerts(PowerCycle, &["b"]), Some(Objection::ActedOn)),
            (alerts(PowerCycle, &["a", "c"]), Some(Objection::ActedOn)),
            (alerts(PowerCycle, &["a", "d"]), None),
            (alerts(PowerOn, &["a"]), None),
        ] {
            assert_eq!(memory.objection(&again, 1_000_000 * SECOND, COOLDOWN), expected, "{again:?}");
        }
    }

    #[test]
    fn an_alert_whose_start_moves_back_is_the_same_and_one_that_starts_later_is_not() {
        let since = |since| {
            asked(PowerCycle, Some(Delivery::Alerts(vec![Alert { fingerprint: "a".to_owned(), since }])))
        };
        let memory = memory(&[(1000, since(5))]);
        let far = 5 - MOVES_BACK;
        for (start, expected) in [
            (4, Some(Objection::ActedOn)),
            (5, Some(Objection::ActedOn)),
            (6, None),
            (far, Some(Objection::ActedOn)),
            (far - 1, None),
        ] {
            assert_eq!(memory.objection(&since(start), 1_000_000 * SECOND, COOLDOWN), expected, "{start}");
        }
    }

    #[test]
    fn a_restart_waits_for_the_end_of_the_last_one() {
        for last in [PowerCycle, PowerReset] {
            let memory = memory(&[(1000, asked(last, None)), (1001, named(PowerOn, "x"))]);
            for next in [PowerCycle, PowerReset] {
                let too_soon = |ago| Some(Objection::TooSoon { last, ago, wait: COOLDOWN - ago });
                let objection = |at, cooldown| memory.objection(&asked(next, None), at, cooldown);
                assert_eq!(objection(1_000_000, COOLDOWN), too_soon(0));
                assert_eq!(objection(1_119_000, COOLDOWN), too_soon(119));
                assert_eq!(objection(1_119_999, COOLDOWN), too_soon(119));
                assert_eq!(objection(1_120_000, COOLDOWN), None);
                assert_eq!(objection(1_000_000, 0), None);
            }
            for other in [PowerOn, PowerSoft, Change::PowerOff] {
                assert_eq!(memory.objection(&asked(other, None), 1_000_000, COOLDOWN), None);
            }
        }
    }

    #[test]
    fn the_same_delivery_is_answered_even_while_it_is_too_soon() {
        let memory = memory(&[(1000, named(PowerCycle, "a")), (1001, alerts(PowerCycle, &["x"]))]);
        let again = |asked| memory.objection(&asked, 1002 * SECOND, COOLDOWN);
        assert_eq!(again(named(PowerCycle, "a")), Some(Objection::Answered(reply())));
        assert_eq!(again(alerts(PowerCycle, &["x"])), Some(Objection::ActedOn));
    }

    #[test]
    fn what_the_bmc_declined_is_no_restart() {
        let mut memory = Memory::default();
        memory.begin(named(PowerCycle, "a"), 0);
        memory.end(Ending::Declined(reply()), 0);
        assert_eq!(memory.objection(&asked(PowerCycle, None), 0, COOLDOWN), None);
        let again = memory.objection(&named(PowerCycle, "a"), 0, COOLDOWN);
        assert_eq!(again, Some(Objection::Answered(reply())));
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let mut memory = Memory::default();
        for number in 0..=MAX_NAMES {
            memory.begin(named(PowerOn, &number.to_string()), 0);
            memory.end(Ending::Sent(reply()), 0);
        }
        assert_eq!(memory.attempts.len(), MAX_NAMES);
        assert_eq!(memory.objection(&named(PowerOn, "0"), 0, COOLDOWN), None);
        assert_eq!(memory.objection(&named(PowerOn, "1"), 0, COOLDOWN), Some(Objection::Answered(reply())));
    }

    /// Or an alert that fires would act once more, and a server be restarted while it starts.
    #[test]
    fn a_crowd_pushes_out_neither_a_restart_nor_what_other_keys_did() {
        let before = [(0, alerts(PowerOn, &["a"])), (0, asked(PowerCycle, None))];
        let numbers: Vec<_> = (0..2 * MAX_NAMES).map(|number| number.to_string()).collect();
        let crowd = alerts(PowerOn, &numbers.iter().map(String::as_str).collect::<Vec<_>>());
        let another = Asked { key: "ACCESS_ON_KEY".to_owned(), ..crowd.clone() };
        for (crowd, ending, forgotten) in [
            (crowd.clone(), Ending::Sent(reply()), true),
            (crowd, Ending::NotSent, false),
            (another, Ending::Sent(reply()), false),
        ] {
            let mut memory = memory(&before);
            memory.begin(crowd.clone(), SECOND);
            memory.end(ending, SECOND);
            let acted = memory.objection(&alerts(PowerOn, &["a"]), SECOND, COOLDOWN);
            assert_eq!(acted.is_none(), forgotten, "{}", crowd.key);
            let restart = memory.objection(&asked(PowerReset, None), SECOND, COOLDOWN);
            assert!(matches!(restart, Some(Objection::TooSoon { .. })), "{}: {restart:?}", crowd.key);
        }
    }

    #[test]
    fn what_can_no_longer_matter_makes_room_by_itself() {
        let memory = memory(&[
            (0, named(PowerOn, "old")),
            (0, asked(PowerCycle, None)),
            (0, alerts(PowerOn, &["old"])),
            (3600, named(PowerOn, "new")),
        ]);
        let kept: Vec<_> = memory.attempts.iter().map(|attempt| attempt.asked.clone()).collect();
        assert_eq!(kept, [alerts(PowerOn, &["old"]), named(PowerOn, "new")]);
    }

    #[test]
    fn it_survives_being_written_down() {
        let first = NOT_SET / SECOND;
        let mut memory = memory(&[
            (first, asked(PowerReset, None)),
            (first + 1, named(PowerOn, "\"a\"\u{1}")),
            (first + 2, alerts(PowerCycle, &["f t", "g u"])),
        ]);
        memory.begin(named(PowerCycle, "c"), NOT_SET + 2500);
        memory.end(Ending::Declined(reply()), NOT_SET + 2500);
        memory.begin(named(PowerSoft, "b"), NOT_SET + 3000);
        let text = memory.to_json();
        assert_eq!(Memory::from_json(&text, NOT_SET + 1_000_000).as_ref(), Some(&memory));
        // Written under a clock that was ahead.
        let early = Memory::from_json(&text, 900).unwrap();
        assert!(early.attempts.iter().all(|attempt| attempt.at == 900));
    }

    /// Or a machine that starts in 1970 could restart its server twice within a minute.
    #[test]
    fn what_was_noted_before_the_clock_was_set_is_as_new_as_can_be() {
        let early = memory(&[(40, asked(PowerCycle, None)), (41, named(PowerOn, "a"))]);
        let now = NOT_SET + 1_000_000;
        let read = Memory::from_json(&early.to_json(), now).unwrap();
        let mut followed = early;
        followed.shift(i64::try_from(now).unwrap() - 41_000);
        for memory in [read, followed] {
            let again = memory.objection(&named(PowerOn, "a"), now, COOLDOWN);
            assert_eq!(again, Some(Objection::Answered(reply())));
            let restart = memory.objection(&asked(PowerReset, None), now, COOLDOWN);
            assert!(matches!(restart, Some(Objection::TooSoon { ago: 0..=1, .. })), "{restart:?}");
        }
    }

    /// Where it never is, one restart would otherwise be the last.
    #[test]
    fn a_cooldown_ends_though_the_clock_is_not_set() {
        let noted = memory(&[(40, asked(PowerCycle, None))]).to_json();
        let read = Memory::from_json(&noted, 400 * SECOND).unwrap();
        assert_eq!(read.objection(&asked(PowerReset, None), 400 * SECOND, COOLDOWN), None);
    }

    #[test]
    fn nothing_is_made_of_anything_else() {
        let good = json!({"at": 1, "command": "power on", "key": "API_KEY", "id": "a"});
        let with = |name: &str, value: Value| {
            let mut bad = good.clone();
            bad[name] = value;
            json!({ "attempts": [bad] }).to_string()
        };
        assert!(Memory::from_json(&with("id", json!("b")), 5).is_some());
        for text in [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            "{\"attempts\":{}}".to_owned(),
            "{\"attempts\":[7]}".to_owned(),
            with("at", json!("yesterday")),
            with("command", json!("power status")),
            with("command", json!("raw 0x0 0x2")),
            with("key", Value::Null),
            with("id", json!(7)),
            with("alerts", json!(["a"])),
            json!({"attempts": [{"at": 1, "command": "power on", "key": "API_KEY", "alerts": ["a"]}]})
                .to_string(),
            with("ended", json!("yes")),
            with("ended", json!(true)),
            with("status", json!(70_000)),
            with("status", json!(200)),
        ] {
            assert_eq!(Memory::from_json(&text, 5), None, "{text}");
        }
    }
}
