//! A login that the BMC rejected is not tried again at once: many BMCs lock an account after a few wrong passwords. Pure.

use std::time::Instant;

use super::arguments::Login;
use crate::failure::Failure;
use crate::timing::{REJECTED_AGAIN, REJECTED_LOGIN, REJECTIONS};

#[derive(Debug)]
pub(super) struct Rejected {
    login: Login,
    failure: Failure,
    until: Instant,
    /// How often in a row.
    times: u32,
}

impl Rejected {
    /// The login was rejected, after what was known before.
    pub fn after(before: Option<Self>, login: Login, failure: Failure, now: Instant) -> Self {
        let before = before.filter(|before| before.login.is(&login));
        let times = 1 + before.map_or(0, |before| before.times);
        let wait = if times < REJECTIONS { REJECTED_LOGIN } else { REJECTED_AGAIN };
        Self { login, failure, until: now + wait, times }
    }

    /// The same answer once more. A new login is tried at once.
    pub fn recall(&self, login: &Login, now: Instant) -> Option<Failure> {
        let left = self.until.saturating_duration_since(now);
        (self.login.is(login) && !left.is_zero()).then(|| self.failure.clone().retry_after(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use std::time::Duration;

    #[test]
    fn a_rejected_login_waits_a_minute_and_after_five_in_a_row_an_hour() {
        let (old, new) = (Login::of_test("admin", "old"), Login::of_test("admin", "new"));
        let failure = || Failure::from(Code::BmcBadPassword);
        let mut now = Instant::now();
        let mut rejected = None;
        for times in 1..=6 {
            let last = Rejected::after(rejected, old.clone(), failure(), now);
            let wait = Duration::from_secs(if times < 5 { 60 } else { 3600 });
            let before = now + wait.checked_sub(Duration::from_millis(1)).unwrap();
            assert_eq!(last.recall(&old, before).map(|failure| failure.code()), Some(Code::BmcBadPassword));
            assert_eq!(last.recall(&old, now + wait), None, "{times}");
            assert_eq!(last.recall(&new, now), None, "a new login is tried at once");
            now += wait;
            rejected = Some(last);
        }
        let with_kg_key = old.with_kg_key("sesame");
        let before = now.checked_sub(REJECTED_LOGIN).unwrap();
        assert_eq!(rejected.as_ref().and_then(|rejected| rejected.recall(&with_kg_key, before)), None);
        let other = Rejected::after(rejected, new.clone(), failure(), now);
        assert_eq!(other.recall(&new, now + REJECTED_LOGIN), None, "it counts anew");
    }
}
