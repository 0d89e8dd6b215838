//! What the program does, seen from outside: the real binary, the real `ipmitool`, a simulated BMC.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may end where it finds what cannot be")]

mod access;
mod cli;
mod deliveries;
mod failures;
mod faults;
mod house;
mod listener;
mod logging;
mod loss;
mod order;
mod rotation;
mod routes;
mod secrets;
mod startup;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
