//! The front door under attack: no input, load or exhaustion ends it, slows `/health` or runs anything without a key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may end where it finds what cannot be")]

mod attacks;
mod clients;
mod corpus;
mod many_clients;
mod packages;
mod rfc;
#[path = "../support/mod.rs"]
mod support;
mod monitor;
