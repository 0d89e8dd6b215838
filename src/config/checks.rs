//! The parsers of variables. Each error says what is expected, and does not repeat the value.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use rustix::net::{self, AddressFamily, SocketType};

use crate::bmc::arguments::{kg_bytes, kg_digits};
use crate::command::Command;
use crate::history::file::check_folder;
use crate::server::{MAX_NAME, Server};
use crate::timing::{POWER_COOLDOWNS, REQUEST_TIMEOUTS};

pub const NEW_KEY: &str = "make one with: openssl rand -hex 32";

/// How the guides of this and of other programs write "put your own here", in any case.
const PLACEHOLDERS: [&str; 7] =
    ["replace_with", "replace-with", "your-", "your_", "change-me", "change_me", "changeme"];

/// How our own guides write it for user and password, in small letters. Some of the others are a maker's real default.
const OWN_PLACEHOLDER: &str = "replace_with";

/// IPMI 2.0, 22.28; `ipmitool` exits beyond it.
const MAX_USER: usize = 16;

/// IPMI 2.0, 22.30; `ipmitool` exits beyond it.
const MAX_PASSWORD: usize = 20;

/// IPMI 2.0, 13.31; `ipmitool` cuts off what is beyond it.
const MAX_KG_KEY: usize = 20;

/// Any text. The caller knows more.
#[allow(clippy::unnecessary_wraps)] // a parser like the others
pub fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub fn key(key: &str) -> Result<(), String> {
    let lower = key.to_ascii_lowercase();
    if PLACEHOLDERS.iter().any(|placeholder| lower.starts_with(placeholder)) {
        return Err(format!("it is a guide's placeholder: {NEW_KEY}"));
    }
    // RFC 9110, 5.5: what a field value can carry from one end to the other.
    let is_carried = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if key.trim() != key || !key.as_bytes().iter().all(is_carried) {
        return Err(format!("expected ASCII without control characters or spaces around it: {NEW_KEY}"));
    }
    Ok(())
}

/// Words of the table of commands.
pub fn words(list: &str) -> Result<Vec<&'static str>, String> {
    let all = Command::words();
    let known = |word: &str| all.iter().find(|known| **known == word.trim()).copied();
    list.split(',')
        .map(known)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("expected some of {}, with commas between them", all.join(", ")))
}

/// Far more than a home has. With three `ipmitool` for each, 48 can run at a time.
pub const MAX_SERVERS: usize = 16;

/// Names of servers, each once.
pub fn servers(list: &str) -> Result<Vec<Server>, String> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let servers = list.split(',').map(|name| Server::parse(name.trim())).collect::<Option<Vec<_>>>();
    let servers = servers.ok_or_else(|| {
        format!(
            "expected names of 1 to {MAX_NAME} small letters, digits and - with commas between them, such as nas,lab"
        )
    })?;
    let twice = servers.iter().enumerate().find(|(index, server)| servers[..*index].contains(server));
    if let Some(name) = twice.and_then(|(_, server)| server.name()) {
        return Err(format!("{name} stands there twice: expected each name once"));
    }
    if servers.len() > MAX_SERVERS {
        return Err(format!("expected at most {MAX_SERVERS} names; it has {}", servers.len()));
    }
    Ok(servers)
}

pub fn user(user: &str) -> Result<(), String> {
    login(user, MAX_USER)
}

pub fn password(password: &str) -> Result<(), String> {
    login(password, MAX_PASSWORD)
}

/// Text, or bytes in hexadecimal. `ipmitool` reads them from an environment variable, which ends at a byte 00, and takes a
/// first byte 00 for no key at all.
pub fn kg_key(key: &str) -> Result<(), String> {
    let Some(digits) = kg_digits(key.as_bytes()) else { return login(key, MAX_KG_KEY) };
    let bytes = kg_bytes(digits).filter(|bytes| !bytes.is_empty());
    let bytes = bytes.ok_or("expected 0x and pairs of hexadecimal digits, at most 20 of them")?;
    if bytes[0] == 0 {
        return Err(
            "its first byte is 00, which stands for no KG key: leave it unset if the BMC has none".to_owned()
        );
    }
    if bytes.iter().skip_while(|byte| **byte != 0).any(|byte| *byte != 0) {
        return Err("it has a byte 00 before others, which no environment variable can hold".to_owned());
    }
    Ok(())
}

fn login(value: &str, most: usize) -> Result<(), String> {
    if value.to_ascii_lowercase().starts_with(OWN_PLACEHOLDER) {
        return Err("it is the guide's placeholder: put what the BMC knows there".to_owned());
    }
    if value.is_empty() || value.len() > most || value.chars().any(char::is_control) {
        let length = value.len();
        return Err(format!(
            "expected 1 to {most} bytes without control characters, as IPMI allows; it has {length}"
        ));
    }
    Ok(())
}

pub fn host(text: &str) -> Result<String, String> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = |text: &str| !text.starts_with('-') && text.bytes().all(is_of_name);
    let is_address = match text.split_once('%') {
        None => text.parse::<IpAddr>().is_ok(),
        // fe80::1%eth0
        Some((address, interface)) => {
            address.parse::<Ipv6Addr>().is_ok() && !interface.is_empty() && is_name(interface)
        }
    };
    // A resolver reads 0177.1 or 0x7f.1 as an address too, and asks another machine than the user means.
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let is_hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if (is_number || is_hexadecimal) && text.parse::<IpAddr>().is_err() {
        return Err("expected four plain numbers from 0 to 255 in an IPv4 address".to_owned());
    }
    if is_name(text) || is_address {
        return Ok(text.to_owned());
    }
    Err("expected a host name or an address, without a scheme, brackets or a port (the port goes into BMC_PORT)"
        .to_owned())
}

pub fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|&port| port != 0);
    port.ok_or_else(|| "expected a UDP port from 1 to 65535".to_owned())
}

/// An address and a port. The zone of a link-local address may be the name of an interface.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let expected = "expected an address and a port such as 127.0.0.1:8080 or [::]:8080";
    let zoned = text.strip_prefix('[').and_then(|rest| {
        let (address, port) = rest.rsplit_once("]:")?;
        let (address, zone) = address.split_once('%')?;
        Some((address.parse::<Ipv6Addr>().ok()?, zone, port.parse::<u16>().ok()?))
    });
    let (address, zone, port) = zoned.ok_or(expected)?;
    let index = interface_index(zone).ok_or_else(|| format!("there is no network interface {zone}"))?;
    Ok(SocketAddrV6::new(address, port, 0, index).into())
}

fn interface_index(name: &str) -> Option<u32> {
    let socket = net::socket(AddressFamily::INET6, SocketType::DGRAM, None).ok()?;
    net::netdevice::name_to_index(&socket, name).ok()
}

pub fn request_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, &REQUEST_TIMEOUTS)
}

pub fn cooldown(text: &str) -> Result<Duration, String> {
    seconds(text, &POWER_COOLDOWNS)
}

fn seconds(text: &str, range: &RangeInclusive<u64>) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| range.contains(seconds));
    let (least, most) = (range.start(), range.end());
    seconds.map(Duration::from_secs).ok_or_else(|| format!("expected whole seconds from {least} to {most}"))
}

pub fn log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "expected off, error, warn, info, debug or trace".to_owned())
}

pub fn state_dir(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let folder = PathBuf::from(text);
    if !folder.is_absolute() {
        return Err("expected the absolute path of a folder that this program may write to".to_owned());
    }
    match check_folder(&folder) {
        Ok(()) => Ok(Some(folder)),
        Err(error) => Err(format!("{error}: expected a folder that this program may write to")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_number_or_an_interface() {
        for (text, address) in [
            ("127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("[::]:8080", Some("[::]:8080")),
            ("[fe80::1%7]:80", Some("[fe80::1%7]:80")),
            ("[fe80::1%lo]:80", Some("[fe80::1%1]:80")),
            ("[fe80::1%no-such-0]:80", None),
            ("[fe80::1%]:80", None),
            ("fe80::1%lo:80", None),
            ("[fe80::1%lo]", None),
        ] {
            let listened = listen(text).ok().map(|address| address.to_string());
            assert_eq!(listened.as_deref(), address, "{text}");
        }
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for valid in [
            "bmc",
            "bmc.lan",
            "bmc1",
            "1bmc",
            "bmc.0xg",
            "4.example",
            "192.0.2.1",
            "2001:db8::1",
            "fe80::1%eth0",
            "my_bmc-1.example.org",
        ] {
            assert!(host(valid).is_ok(), "{valid}");
        }
        for invalid in [
            "http://bmc",
            "bmc:623",
            "[::1]",
            "-H",
            "a b",
            "bmc/",
            "b\u{e9}",
            "a\nb",
            "bmc%eth0",
            "-v%",
            "%",
            "::1%",
            "127.0.0115.1",
            "0x7f.1",
            "0X7F000001",
            "2130706433",
            "192.0.2",
            "192.0.2.1.",
            "192.0.2.256",
            "bmc.1",
            "bmc.0x",
        ] {
            assert!(host(invalid).is_err(), "{invalid}");
        }
    }
}
