//! The program's behaviour, tested from outside with the real binary, the real `ipmitool` and a simulated
//! BMC.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod behaviour {
    mod access;
    mod architecture;
    mod cli;
    mod deliveries;
    mod failures;
    mod faults;
    mod kernel;
    mod listener;
    mod log;
    mod loss;
    mod order;
    mod readings;
    mod rotation;
    mod routes;
    mod secrets;
    mod sensors;
    mod several_servers;
    mod slow_sensors;
    mod startup;
    mod stopping;
    mod versions;
}
mod support;
