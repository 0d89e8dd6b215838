//! What the BMC lacks. It is not asked again at once: an automation reads each minute, and the answer stays the same
//! until somebody updates the BMC. Pure.

use std::time::Instant;

use crate::command::Command;
use crate::failure::{Code, Failure};
use crate::timing::LACKED_AGAIN;

/// The reads that the BMC lacks, each once, and until when this counts.
#[derive(Debug, Default)]
pub(super) struct Lacked(Vec<(Command, Failure, Instant)>);

impl Lacked {
    /// Notes what a read told.
    pub fn learn(&mut self, command: Command, failure: &Failure, now: Instant) {
        if failure.code() == Code::BmcUnsupported && !command.is_change() {
            self.0.retain(|(other, ..)| *other != command);
            self.0.push((command, failure.clone(), now + LACKED_AGAIN));
        }
    }

    /// The same answer once more.
    pub fn recall(&self, command: Command, now: Instant) -> Option<Failure> {
        let (_, failure, until) = self.0.iter().find(|(other, ..)| *other == command)?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then(|| failure.clone().retry_after(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_bmc_lacks_is_asked_again_after_ten_minutes() {
        let command = |name: &str| Command::all().find(|command| command.name() == name).unwrap();
        let (reading, identify) = (command("dcmi power reading"), command("chassis identify 0"));
        let unsupported = Failure::from(Code::BmcUnsupported);
        let mut lacked = Lacked::default();
        let start = Instant::now();
        lacked.learn(reading, &Code::BmcBusy.into(), start);
        assert_eq!(lacked.recall(reading, start), None);
        lacked.learn(identify, &unsupported, start);
        assert_eq!(lacked.recall(identify, start), None, "a change is always tried");
        let mut now = start;
        for _ in 0..3 {
            lacked.learn(reading, &unsupported, now);
            let before = now + Duration::from_secs(599);
            assert_eq!(
                lacked.recall(reading, before).map(|failure| failure.code()),
                Some(Code::BmcUnsupported)
            );
            assert_eq!(lacked.recall(Command::POWER_STATUS, before), None);
            now += Duration::from_secs(600);
            assert_eq!(lacked.recall(reading, now), None);
        }
        assert_eq!(lacked.0.len(), 1);
    }
}
