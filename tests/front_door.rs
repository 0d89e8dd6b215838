//! The listener under attack: no input, load or lack of resources ends the program, slows `/health` down or
//! runs a command without a key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod front_door {
    mod attacks;
    mod clients;
    mod corpus;
    mod many_clients;
    mod monitor;
    mod packages;
    mod rfc;
}
mod support;
