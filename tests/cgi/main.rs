//! The program as a CGI program: started as a web server starts it, and behind real web servers with the
//! configurations of `deploy/cgi`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod configuration;
mod front_ends;
mod queues;
mod program;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod variables;
mod web_server;
