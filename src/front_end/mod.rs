//! The two front ends: a server of its own, and a CGI program. Both turn bytes or variables into a `Head`, and meet in
//! the handler.

pub mod cgi;
mod connection;
pub mod healthcheck;
pub mod listener;
mod places;
mod replies;
pub mod signals;
