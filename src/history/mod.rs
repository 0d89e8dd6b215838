//! The history of one BMC: what was attempted, so that no delivery is carried out twice and no server is restarted twice
//! in a row. Pure: the caller has the clock and the file.

pub mod alerts;
pub mod delivery;
pub mod file;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value, json};

use self::alerts::Alert;
use self::delivery::Delivery;
use crate::command::Command;
use crate::timing::{ALERT_START_MOVES, DELIVERY_REMEMBERED, RESTART_REMEMBERED};

/// The ids and alerts of each key that are remembered. The oldest of a key are forgotten first, and no other key's. With
/// their replies they take at most 1.6 MB, and are more than a home's alerts in a year.
const MAX_NAMES: usize = 1024;

/// Milliseconds since this boot of the machine, suspends included. Negative before it.
pub type Moment = i64;

/// The beginning of 2026 in milliseconds since 1970. This program is younger: a clock that shows less is not set yet.
const CLOCK_IS_SET: i64 = 1_767_225_600_000;

/// A sender's clock may differ by a minute, in milliseconds.
const CLOCK_SKEW: i64 = 60_000;

/// Now, as the machine's clocks show it.
#[derive(Debug, Clone)]
pub struct Now {
    /// Names this boot of the machine; empty where that cannot be known.
    pub boot: String,
    pub moment: Moment,
    /// Milliseconds since 1970. It can be wrong, and it can be set at any time: see [`History::from_json`].
    pub time_of_day: i64,
}

/// Attempts in the order in which they were made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct History {
    attempts: VecDeque<Attempt>,
    /// Entries of the file that a newer version may have written.
    strange: Vec<Value>,
}

/// A change, its sender, and what tells this delivery from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub change: Command,
    /// The name of the key. Two senders may use one id for two deliveries, and none can silence another's alerts.
    pub key: String,
    pub delivery: Option<Delivery>,
}

/// A change that was sent, or may have been.
#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    at: Moment,
    /// The same for the memory of its delivery. While the machine was off it stood still: a time of day that was set
    /// forward meanwhile must not let a delivery run twice.
    delivered: Moment,
    asked: Asked,
    progress: Progress,
    reply: Option<Stored>,
}

/// The progress of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It runs, or the program ended while it ran.
    Begun,
    /// The BMC declined: nothing happened.
    Declined,
    Sent,
}

impl Progress {
    /// Their words in the file. An attempt that has only begun has none.
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

/// Why a change must not be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Objection {
    /// This delivery was carried out and answered.
    Answered(Stored),
    /// This delivery was begun, and the program ended before the reply.
    Unfinished,
    /// All of its alerts have been acted on.
    ActedOn,
    /// Another change has this id.
    NameTaken(Command),
    /// `last` restarted the server so long `ago`. The cooldown ends after `wait`.
    TooSoon { last: Command, ago: Duration, wait: Duration },
}

impl History {
    /// Why this change must not be sent, if there is a reason.
    pub fn objection(&self, asked: &Asked, now: &Now, cooldown: Duration) -> Option<Objection> {
        let now = now.moment;
        match &asked.delivery {
            Some(delivery @ Delivery::Named(_)) => self.named(asked, delivery, now),
            Some(Delivery::Alerts(alerts)) => {
                let before: Option<Vec<_>> = alerts.iter().map(|alert| self.acted_on(asked, alert)).collect();
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
                && age(attempt.delivered, now) < DELIVERY_REMEMBERED
        };
        let Attempt { asked: before, reply, .. } = self.attempts.iter().rev().find(same)?;
        Some(match reply {
            _ if before.change != asked.change => Objection::NameTaken(before.change),
            Some(reply) => Objection::Answered(reply.clone()),
            None => Objection::Unfinished,
        })
    }

    /// The progress of the latest attempt for this alert.
    fn acted_on(&self, asked: &Asked, alert: &Alert) -> Option<Progress> {
        let last = self.attempts.iter().rev().find(|attempt| attempt.is_for(asked, alert));
        last.map(|attempt| attempt.progress)
    }

    /// Ends these attempts, whose senders have been told that the outcome is unknown.
    pub fn close(&mut self, asked: &Asked) {
        let Some(Delivery::Alerts(alerts)) = &asked.delivery else { return };
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.progress == Progress::Begun) {
            if alerts.iter().any(|alert| attempt.is_for(asked, alert)) {
                attempt.progress = Progress::Sent;
            }
        }
    }

    fn too_soon(&self, change: Command, now: Moment, cooldown: Duration) -> Option<Objection> {
        if !change.restarts() {
            return None;
        }
        let last = self.attempts.iter().rev().find(|attempt| attempt.restarts())?;
        let ago = age(last.at, now);
        let wait = cooldown.checked_sub(ago).filter(|wait| !wait.is_zero())?;
        Some(Objection::TooSoon { last: last.asked.change, ago, wait })
    }

    /// Notes an attempt before it is made.
    pub fn begin(&mut self, mut asked: Asked, now: &Now) {
        if let Some(Delivery::Alerts(alerts)) = &mut asked.delivery
            && now.time_of_day >= CLOCK_IS_SET
        {
            // Otherwise an alert of a clock far ahead would hide all later ones.
            for alert in alerts.iter_mut().filter(|alert| alert.since > now.time_of_day + CLOCK_SKEW) {
                alert.counts_from = now.time_of_day;
            }
        }
        self.attempts.push_back(Attempt {
            at: now.moment,
            delivered: now.moment,
            asked,
            progress: Progress::Begun,
            reply: None,
        });
    }

    /// Notes how the latest attempt ended.
    pub fn end(&mut self, ending: Ending, now: &Now) {
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
        self.forget(&key, now.moment);
    }

    /// Forgets what can no longer matter, and then the oldest of a key that has too many names. The latest attempt and
    /// the latest restart always stay.
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

    pub fn to_json(&self, now: &Now) -> String {
        let attempts = self.attempts.iter().map(Attempt::to_json);
        let attempts: Vec<_> = self.strange.iter().cloned().chain(attempts).collect();
        let Now { boot, moment, time_of_day } = now;
        json!({"boot": boot, "moment": moment, "time_of_day": time_of_day, "attempts": attempts}).to_string()
    }

    /// The history that [`Self::to_json`] wrote, and whether another boot of the machine wrote it. `None` for any other
    /// text.
    ///
    /// Within one boot the age of an attempt needs no time of day. After another boot only the time of day tells how
    /// long ago the file was written. A time of day that was set back, or is not set yet, counts as no time at all, so
    /// that no attempt is called older than it is.
    pub fn from_json(text: &str, now: &Now) -> Option<(Self, bool)> {
        let all: Value = serde_json::from_str(text).ok()?;
        let (boot, saved) = (all["boot"].as_str()?, all["moment"].as_i64()?);
        let then = all["time_of_day"].as_i64()?;
        let is_other_boot = boot.is_empty() || boot != now.boot;
        let since = if then < CLOCK_IS_SET { 0 } else { now.time_of_day.saturating_sub(then).max(0) };
        let shift = if is_other_boot { now.moment.saturating_sub(saved) } else { 0 };
        let off = if is_other_boot { since } else { 0 };
        let mut history = Self::default();
        for entry in all["attempts"].as_array()? {
            match entry.as_object().and_then(Attempt::from_json) {
                Some(attempt) => {
                    let moved = |moment: Moment| moment.saturating_add(shift).min(now.moment);
                    let at = moved(attempt.at.saturating_sub(off));
                    let delivered = moved(attempt.delivered);
                    history.attempts.push_back(Attempt { at, delivered, ..attempt });
                }
                None => history.strange.push(entry.clone()),
            }
        }
        Some((history, is_other_boot))
    }

    /// Whether the file had entries that this version cannot read.
    pub fn has_strange(&self) -> bool {
        !self.strange.is_empty()
    }
}

fn age(at: Moment, now: Moment) -> Duration {
    Duration::from_millis(u64::try_from(now.saturating_sub(at)).unwrap_or_default())
}

impl Asked {
    /// Whether it can matter later that it was made.
    pub const fn is_memorable(&self) -> bool {
        self.delivery.is_some() || self.change.restarts()
    }

    /// How many of a key's names it takes.
    fn names(&self) -> usize {
        match &self.delivery {
            Some(Delivery::Alerts(alerts)) => alerts.len(),
            Some(Delivery::Named(_)) | None => 1,
        }
    }
}

impl Attempt {
    /// Whether the server may be starting because of this attempt.
    fn restarts(&self) -> bool {
        self.asked.change.restarts() && self.progress != Progress::Declined
    }

    /// The start of an alert can move back while it fires. When it fires anew it starts later.
    fn is_for(&self, asked: &Asked, alert: &Alert) -> bool {
        let is_it = |before: &Alert| {
            let moved = u64::try_from(before.counts_from.saturating_sub(alert.since));
            let is_moved = moved.is_ok_and(|moved| Duration::from_millis(moved) <= ALERT_START_MOVES);
            before.fingerprint == alert.fingerprint && (before.since == alert.since || is_moved)
        };
        let has_it =
            matches!(&self.asked.delivery, Some(Delivery::Alerts(alerts)) if alerts.iter().any(is_it));
        has_it && self.asked.change == asked.change && self.asked.key == asked.key
    }

    /// Whether it must still be remembered. An alert may fire for months.
    fn matters(&self, now: Moment) -> bool {
        let names = match self.asked.delivery {
            Some(Delivery::Alerts(_)) => true,
            Some(Delivery::Named(_)) => age(self.delivered, now) < DELIVERY_REMEMBERED,
            None => false,
        };
        names || (self.restarts() && age(self.at, now) < RESTART_REMEMBERED)
    }

    fn to_json(&self) -> Value {
        let Asked { change, key, delivery } = &self.asked;
        let mut members =
            json!({ "at": self.at, "delivered": self.delivered, "command": change.name(), "key": key });
        match delivery {
            Some(Delivery::Named(id)) => members["id"] = json!(id),
            Some(Delivery::Alerts(alerts)) => {
                let pairs = alerts.iter().map(|Alert { fingerprint, since, counts_from }| {
                    json!([fingerprint, since, counts_from])
                });
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

    fn from_json(members: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| Some(members.get(name)?.as_str()?.to_owned());
        let name = text("command")?;
        let change = Command::all().find(|command| command.is_change() && command.name() == name)?;
        let delivery = match (members.get("id"), members.get("alerts")) {
            (Some(_), None) => Some(Delivery::Named(text("id")?)),
            (None, Some(Value::Array(alerts))) => {
                let alert = |entry: &Value| {
                    Some(Alert {
                        fingerprint: entry[0].as_str()?.to_owned(),
                        since: entry[1].as_i64()?,
                        counts_from: entry[2].as_i64()?,
                    })
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
        let progress = match members.get("ended") {
            Some(ended) => Progress::ENDED.into_iter().find(|(word, _)| ended == word)?.1,
            None => Progress::Begun,
        };
        let (at, delivered) = (members.get("at")?.as_i64()?, members.get("delivered")?.as_i64()?);
        Some(Self { at, delivered, asked: Asked { change, key: text("key")?, delivery }, progress, reply })
    }
}
