//! `ipmi-sidecar healthcheck`, for container engines and the kubelet: asks the server that runs beside it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::timing::HEALTHCHECK_TIMEOUT;

/// Asks the server that listens on this address for `/health`.
///
/// # Errors
/// Why it is not healthy, or did not answer.
pub fn ask(mut address: SocketAddr) -> Result<(), String> {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    match health_of(address) {
        Ok(reply) if reply.starts_with(b"HTTP/1.1 200 ") => Ok(()),
        Ok(_) => Err(format!("{address} did not answer /health with 200")),
        Err(error) => Err(format!("asking {address} for /health: {error}")),
    }
}

fn health_of(address: SocketAddr) -> io::Result<Vec<u8>> {
    let until = Instant::now() + HEALTHCHECK_TIMEOUT;
    // A time-out of zero would be none at all.
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(format!("GET /health HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    // The status line is enough. This program sends it in one piece.
    let mut start = [0; 64];
    stream.set_read_timeout(Some(left()))?;
    let length = stream.read(&mut start)?;
    Ok(start[..length].to_vec())
}
