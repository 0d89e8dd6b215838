//! How many clients may wait for an answer at a time: a fair share for each server and for each key. Pure.

use std::collections::BTreeMap;

use crate::failure::{Code, Failure};

/// Clients that wait for an answer: far more than one home's dashboards. Changes get a quarter more, so that no number of
/// reads keeps a change out. They are never disconnected, so there must be room beside them for clients that send their
/// head.
pub const MAX_WAITING: usize = 64;

/// All places, and among how many servers and keys they are shared.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub all: usize,
    pub servers: usize,
    pub keys: usize,
}

/// A client that waits, or that asks for a place.
#[derive(Debug, Clone, Copy)]
pub struct Waiter<'a> {
    pub server: &'a str,
    pub key: &'a str,
}

/// By what the places are shared.
type Of = for<'a> fn(&Waiter<'a>) -> &'a str;

impl Places {
    /// Half of the places belong to the servers in equal shares, and a quarter to the keys; the rest is for those who come
    /// first. So no dead BMC and no key in a loop takes them all. A key that has none always finds a place.
    ///
    /// # Errors
    /// `busy`, and of what there is too much.
    pub fn find(&self, waiting: &[Waiter], new: Waiter, is_change: bool) -> Result<(), Failure> {
        let all = if is_change { self.all + self.all / 4 } else { self.all };
        if !waiting.iter().any(|waiter| waiter.key == new.key) {
            return Ok(());
        }
        let of_key: Of = |waiter| waiter.key;
        let of_server: Of = |waiter| waiter.server;
        for (what, shared, parties, of) in [
            ("of this key", all / 4, self.keys, of_key),
            ("for this server", all / 2, self.servers, of_server),
        ] {
            let share = (shared / parties.max(1)).max(1);
            if is_full(all, share, parties, waiting.iter().map(of), of(&new)) {
                return Err(Code::Busy.because(format!("too many requests {what} are waiting")));
            }
        }
        Ok(())
    }
}

/// Whether this party has its share, and one more place would come out of the share of another.
fn is_full<'a>(
    all: usize,
    share: usize,
    parties: usize,
    waiting: impl Iterator<Item = &'a str>,
    party: &str,
) -> bool {
    let mut counts = BTreeMap::new();
    for other in waiting {
        *counts.entry(other).or_insert(0_usize) += 1;
    }
    let own = counts.remove(party).unwrap_or_default();
    let absent = parties.saturating_sub(1 + counts.len());
    let of_others = counts.values().map(|count| share.max(*count)).sum::<usize>() + absent * share;
    own >= share && own + of_others >= all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these find a place, one after the other, beside those that wait already.
    fn find(
        places: Places,
        waiting: &mut Vec<Waiter<'static>>,
        new: Waiter<'static>,
        is_change: bool,
    ) -> usize {
        let before = waiting.len();
        while waiting.len() < 1_000 && places.find(waiting, new, is_change).is_ok() {
            waiting.push(new);
        }
        waiting.len() - before
    }

    #[test]
    fn one_key_and_one_server_have_all_places_and_changes_a_quarter_more() {
        let (places, new) = (Places { all: 64, servers: 1, keys: 1 }, Waiter { server: "", key: "a" });
        let mut waiting = Vec::new();
        assert_eq!(find(places, &mut waiting, new, false), 64);
        assert_eq!(find(places, &mut waiting, new, true), 16);
    }

    #[test]
    fn each_server_has_its_share_whatever_the_others_take() {
        for (servers, greedy, left) in [(2, 48, 16), (3, 44, 10), (16, 34, 2)] {
            let places = Places { all: 64, servers, keys: 1 };
            let mut waiting = Vec::new();
            assert_eq!(find(places, &mut waiting, Waiter { server: "dead", key: "a" }, false), greedy);
            assert_eq!(find(places, &mut waiting, Waiter { server: "nas", key: "a" }, false), left);
        }
    }

    #[test]
    fn each_key_has_its_share_and_one_place_in_any_case() {
        let places = Places { all: 64, servers: 2, keys: 2 };
        let mut waiting = Vec::new();
        assert_eq!(find(places, &mut waiting, Waiter { server: "dead", key: "loop" }, false), 48);
        assert_eq!(find(places, &mut waiting, Waiter { server: "dead", key: "admin" }, false), 1);
        assert_eq!(find(places, &mut waiting, Waiter { server: "nas", key: "loop" }, false), 8);
        assert_eq!(find(places, &mut waiting, Waiter { server: "nas", key: "admin" }, false), 7);
    }

    /// There can be more keys than places.
    #[test]
    fn no_key_waits_for_a_place_of_another() {
        let places = Places { all: 4, servers: 1, keys: 6 };
        let mut waiting = Vec::new();
        for key in ["a", "b", "c", "d", "e", "f"] {
            assert_eq!(find(places, &mut waiting, Waiter { server: "", key }, false), 1, "{key}");
        }
    }
}
