//! Keeps a failure that repeats itself, poll after poll, from filling a disk with its log lines. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use log::Level;

use crate::failure::Failure;
use crate::timing::LOG_REMINDER;

/// Failures may take turns: of two callers, one comes too late again and again. There are few at a time.
const MAX_FAILURES: usize = 8;

#[derive(Debug, Default)]
pub struct Repeats {
    /// Since the last success, the newest first.
    failing: VecDeque<(String, Instant)>,
}

impl Repeats {
    /// A warning the first time for each failure, and then once in `LOG_REMINDER`.
    pub fn level_of(&mut self, failure: &Failure, now: Instant) -> Level {
        let explained = failure.explain();
        self.failing.retain(|(_, at)| now.saturating_duration_since(*at) < LOG_REMINDER);
        if self.failing.iter().any(|(known, _)| *known == explained) {
            return Level::Debug;
        }
        self.failing.truncate(MAX_FAILURES - 1);
        self.failing.push_front((explained, now));
        Level::Warn
    }

    /// A success is worth a line only as the end of a failure.
    pub fn level_of_success(&mut self) -> Level {
        if self.failing.drain(..).next().is_some() { Level::Info } else { Level::Debug }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use std::time::Duration;

    #[test]
    fn a_failure_that_repeats_itself_is_logged_once_and_then_hourly() {
        let (one, other) = (Code::BmcBadPassword.into(), Code::BmcTimeout.into());
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(repeats.level_of_success(), Level::Debug);
        assert_eq!(repeats.level_of(&one, at(0)), Level::Warn);
        assert_eq!(repeats.level_of(&one, at(1)), Level::Debug);
        assert_eq!(repeats.level_of(&other, at(1)), Level::Warn);
        for taking_turns in [&one, &other, &one] {
            assert_eq!(repeats.level_of(taking_turns, at(2)), Level::Debug);
        }
        assert_eq!(repeats.level_of(&one, at(60)), Level::Warn);
        assert_eq!(repeats.level_of(&other, at(60)), Level::Debug);
        assert_eq!(repeats.level_of_success(), Level::Info);
        assert_eq!(repeats.level_of(&other, at(61)), Level::Warn);
    }
}
