//! The front door under attack: no input, load or exhaustion ends it, slows `/health` or runs anything without a key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may end where it finds what cannot be")]

mod attacks;
mod crowd;
#[path = "../support/mod.rs"]
mod support;
mod watch;
