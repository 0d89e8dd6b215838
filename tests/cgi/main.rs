//! The program as a CGI program: called as a web server calls it, and through real web servers with the configurations
//! that `deploy/cgi` ships.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may end where it finds what cannot be")]

mod configuration;
mod front_ends;
mod queues;
mod program;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod variables;
mod web_server;
