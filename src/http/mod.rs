//! The words of HTTP: a request's head and body, and a response. Pure: no sockets here.

pub mod body;
pub mod head;
mod response;

pub use head::{Head, HeadError};
pub use response::Response;
pub use tiny_http::{Method, StatusCode};
