//! Keeps a failure that repeats itself, poll after poll, from filling a disk with its log lines. Pure.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use log::Level;

use crate::command::Command;
use crate::failure::Failure;
use crate::timing::{GUESSES, LOG_REMINDER};

/// Failures may take turns: of two callers, one comes too late again and again. There are few at a time.
const MAX_FAILURES: usize = 8;

#[derive(Debug, Default)]
pub struct Repeats {
    /// Since the last success of the same read, the newest first.
    failing: VecDeque<(Option<Command>, String, Instant)>,
}

impl Repeats {
    /// A warning the first time for each failure, and then once in `LOG_REMINDER`. `read` is what failed, if it can
    /// succeed.
    pub fn level_of(&mut self, read: Option<Command>, failure: &Failure, now: Instant) -> Level {
        let explained = failure.explain();
        self.failing.retain(|(.., at)| now.saturating_duration_since(*at) < LOG_REMINDER);
        if self.failing.iter().any(|(of, known, _)| *of == read && *known == explained) {
            return Level::Debug;
        }
        self.failing.truncate(MAX_FAILURES - 1);
        self.failing.push_front((read, explained, now));
        Level::Warn
    }

    /// A success is worth a line only as the end of a failure. It does not end those of another read, which may go on
    /// failing poll after poll.
    pub fn level_of_success(&mut self, read: Command) -> Level {
        let before = self.failing.len();
        self.failing.retain(|(of, ..)| *of != Some(read));
        if self.failing.len() < before { Level::Info } else { Level::Debug }
    }
}

/// Addresses that are told apart. More than one home's are an attack in any case.
const MAX_ADDRESSES: usize = 64;

/// Counts requests without a valid key: guesses, or a caller with an old key.
#[derive(Debug, Default)]
pub struct Guesses {
    since: Option<Instant>,
    count: u64,
    addresses: BTreeSet<String>,
}

impl Guesses {
    /// A line for the log, once in `GUESSES`.
    pub fn count(&mut self, peer: &str, now: Instant) -> Option<String> {
        let since = *self.since.get_or_insert(now);
        self.count += 1;
        if self.addresses.len() < MAX_ADDRESSES {
            let address = peer.rsplit_once(':').map_or(peer, |(address, _)| address);
            self.addresses.insert(address.to_owned());
        }
        if now.saturating_duration_since(since) < GUESSES {
            return None;
        }
        let Self { count, addresses, .. } =
            std::mem::replace(self, Self { since: Some(now), ..Self::default() });
        let more = if addresses.len() == MAX_ADDRESSES { " or more" } else { "" };
        Some(format!("{count} more requests without a valid key, from {}{more} addresses", addresses.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use std::time::Duration;

    #[test]
    fn a_failure_that_repeats_itself_is_logged_once_and_then_hourly() {
        const STATUS: Option<Command> = Some(Command::POWER_STATUS);
        let (one, other) = (Code::BmcBadPassword.into(), Code::BmcTimeout.into());
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(repeats.level_of_success(Command::POWER_STATUS), Level::Debug);
        assert_eq!(repeats.level_of(STATUS, &one, at(0)), Level::Warn);
        assert_eq!(repeats.level_of(STATUS, &one, at(1)), Level::Debug);
        assert_eq!(repeats.level_of(STATUS, &other, at(1)), Level::Warn);
        for taking_turns in [&one, &other, &one] {
            assert_eq!(repeats.level_of(STATUS, taking_turns, at(2)), Level::Debug);
        }
        assert_eq!(repeats.level_of(STATUS, &one, at(60)), Level::Warn);
        assert_eq!(repeats.level_of(STATUS, &other, at(60)), Level::Debug);
        assert_eq!(repeats.level_of_success(Command::POWER_STATUS), Level::Info);
        assert_eq!(repeats.level_of(STATUS, &other, at(61)), Level::Warn);
    }

    #[test]
    fn a_success_ends_the_failures_of_its_own_read_alone() {
        let (status, sensors) = (Command::POWER_STATUS, Command::all().find(|read| read.reads_sensors()));
        let (mut repeats, now, slow) = (Repeats::default(), Instant::now(), Code::BmcTimeout.into());
        assert_eq!(repeats.level_of(sensors, &slow, now), Level::Warn);
        assert_eq!(repeats.level_of_success(status), Level::Debug);
        assert_eq!(repeats.level_of(sensors, &slow, now), Level::Debug);
        assert_eq!(repeats.level_of(Some(status), &slow, now), Level::Warn);
        assert_eq!(repeats.level_of_success(status), Level::Info);
        assert_eq!(repeats.level_of_success(sensors.unwrap()), Level::Info);
    }

    #[test]
    fn guesses_are_counted_once_a_minute() {
        let mut guesses = Guesses::default();
        let start = Instant::now();
        for second in 0..60 {
            let peer = format!("192.0.2.{}:{second}", second % 3);
            assert_eq!(guesses.count(&peer, start + Duration::from_secs(second)), None);
        }
        let line = guesses.count("[2001:db8::1]:9", start + Duration::from_secs(60)).unwrap();
        assert_eq!(line, "61 more requests without a valid key, from 4 addresses");
        assert_eq!(guesses.count("192.0.2.1:1", start + Duration::from_secs(61)), None);
    }
}
