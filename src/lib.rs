//! ipmi-sidecar: one HTTP request, one allow-listed `ipmitool` run.
//!
//! The way of a request:
//!
//! 1. A front end reads bytes (`front_end::listener`) or CGI variables (`front_end::cgi`) into a [`http::Head`].
//! 2. [`handler::Handler::admit`] finds the row of [`command`] by method and path, and asks [`auth`] for an
//!    [`auth::Authorised`], which only a valid key makes. The result is a [`request::Admitted`] with a deadline.
//! 3. [`handler::with_body`] lets the body name the delivery, or end the matter.
//! 4. The queue of that [`bmc::Bmc`] holds it ([`queue`]) until its worker starts it, or a CGI program its lock.
//! 5. The [`history`] says whether the same delivery was carried out before, and notes the attempt.
//! 6. [`bmc::arguments`] makes the one [`process::Invocation`], and [`process::run`] runs it under its deadline. Only
//!    sensors take several: the BMC is asked first what it has.
//! 7. [`bmc::outcome`] reads what `ipmitool` printed into an [`readings::Answer`] or a [`failure::Failure`], and either
//!    becomes a [`http::Response`].
//!
//! The modules stand lowest layer first, and each imports only from those above it; a test sees to that.

pub mod timing;
pub mod secret;
pub mod log;
pub mod http;
pub mod server;
pub mod readings;
pub mod sensors;
pub mod command;
pub mod failure;
pub mod process;
pub mod history;
pub mod auth;
pub mod request;
pub mod queue;
pub mod bmc;
pub mod config;
pub mod handler;
pub mod front_end;
pub mod startup;
