//! The program as a CGI program: started as a web server starts it, and behind real web servers with the
//! configurations of `deploy/cgi`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod cgi {
    mod configuration;
    mod front_ends;
    mod program;
    mod queues;
    mod servers;
    mod variables;
    mod web_server;
}
mod support;
