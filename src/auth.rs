//! The key check. Nothing else can make an `Authorised`, and without one no `ipmitool` runs.

use std::sync::Arc;

use crate::http::Head;
use crate::ipmi::{Command, Read};
use crate::secret::{Credential, Secret};

/// A command that may be run.
#[derive(Debug)]
pub struct Authorised {
    command: Command,
    key: Arc<str>,
}

/// Why a request may not run its command.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No key, more than one, or a wrong one.
    NoValidKey,
    /// A web page of another site made a browser send it.
    CrossSite,
    /// The key is for other commands: these.
    NotAllowed { may: Vec<Command> },
}

/// A key, and what it is for.
#[derive(Debug)]
pub struct Key {
    /// The variable that gives it, for the log.
    pub name: Arc<str>,
    pub credential: Credential,
    pub allows: Vec<Command>,
}

/// The keys, of which a request must bring one.
#[derive(Debug)]
pub struct Keys(pub Vec<Key>);

impl Keys {
    /// Lets a request pass that brings one valid key, if that is for this command.
    ///
    /// # Errors
    /// `NoValidKey`, `NotAllowed`, or `CrossSite` for a change that a browser says was not made by our own origin
    /// (W3C Fetch Metadata): a key kept in a browser must not be usable by any page it visits.
    pub fn authorise(&self, head: &Head, command: Command) -> Result<Authorised, Refusal> {
        // All are compared, so that the time does not tell which. Files can make two of them equal while we run: then
        // each must allow it, so that nobody gains by it.
        let valid: Vec<_> = self.0.iter().filter(|key| brings(head, &key.credential.current())).collect();
        if let Some(narrow) = valid.iter().find(|key| !key.allows.contains(&command)) {
            return Err(Refusal::NotAllowed { may: narrow.allows.clone() });
        }
        let key = valid.first().ok_or(Refusal::NoValidKey)?;
        let is_own = |site: &[u8]| [&b"same-origin"[..], b"none"].contains(&site);
        if matches!(command, Command::Change(_)) && !head.values("Sec-Fetch-Site").all(is_own) {
            return Err(Refusal::CrossSite);
        }
        Ok(Authorised { command, key: key.name.clone() })
    }
}

impl Authorised {
    /// For the operator at the command line, who holds the configuration itself; only for reading.
    pub fn by_operator(command: Read) -> Self {
        Self { command: Command::Read(command), key: "the operator".into() }
    }

    pub const fn command(&self) -> Command {
        self.command
    }

    /// The name of the key that allowed it, for the log.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Whether the head brings this key, in one of three ways, and no other beside it.
fn brings(head: &Head, key: &Secret) -> bool {
    let offers: Vec<_> = ["X-API-Key", "Authorization"]
        .into_iter()
        .flat_map(|name| head.values(name).map(move |value| (name, value)))
        .collect();
    match offers[..] {
        [("X-API-Key", offered)] => key.matches(offered),
        [(_, authorization)] => {
            // RFC 9110, 11.4: a scheme in any case, then spaces, then the credentials.
            let space = authorization.iter().position(|&byte| byte == b' ').unwrap_or(authorization.len());
            let (scheme, rest) = authorization.split_at(space);
            match scheme.to_ascii_lowercase().as_slice() {
                b"bearer" => key.matches(rest.trim_ascii_start()),
                b"basic" => password(rest.trim_ascii_start()).is_some_and(|password| key.matches(&password)),
                _ => false,
            }
        }
        _ => false,
    }
}

/// The password of `base64(user:password)` (RFC 7617): everything behind the first colon.
fn password(credentials: &[u8]) -> Option<Vec<u8>> {
    let mut pair = base64(credentials)?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair.split_off(colon + 1))
}

/// Decodes base64 (RFC 4648, section 4), with or without its padding; `None` for anything else.
#[allow(clippy::cast_possible_truncation)] // the low eight bits are the byte
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &text[..text.len() - padding];
    if digits.len() % 4 == 1 || (padding > 0 && (padding > 2 || !text.len().is_multiple_of(4))) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipmi::Change;

    fn head(fields: &[(&str, &str)]) -> Head {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("POST /power/on HTTP/1.0\r\n{}\r\n", fields.concat());
        Head::parse(text.as_bytes(), "test".into()).unwrap()
    }

    fn authorise(fields: &[(&str, &str)], command: Command) -> Result<(), Refusal> {
        Keys(vec![key("s:ecret", &Command::ALL)]).authorise(&head(fields), command).map(|_| ())
    }

    fn key(value: &str, allows: &[Command]) -> Key {
        let credential = Credential::fixed("KEY", value, |_| Ok(())).unwrap();
        Key { name: value.into(), credential, allows: allows.to_vec() }
    }

    #[test]
    fn a_key_counts_in_three_ways_and_alone() {
        for (fields, valid) in [
            (&[("X-API-Key", "s:ecret")][..], true),
            (&[("x-api-key", "s:ecret")], true),
            (&[("Authorization", "Bearer s:ecret")], true),
            (&[("Authorization", "bEARER   s:ecret")], true),
            (&[("Authorization", "Basic YTpzOmVjcmV0")], true), // a:s:ecret
            (&[("Authorization", "Basic OnM6ZWNyZXQ=")], true), // :s:ecret
            (&[("Authorization", "Basic OnM6ZWNyZXQ")], true),
            (&[("Authorization", "Basic czplY3JldA==")], false), // s:ecret, where s is the user
            (&[("Authorization", "Basic s:ecret")], false),
            (&[("Authorization", "s:ecret")], false),
            (&[("Authorization", "Digest s:ecret")], false),
            (&[("Authorization", "Bearer")], false),
            (&[("Authorization", "")], false),
            (&[("X-API-Key", "")], false),
            (&[("X-API-Key", "s:ecre")], false),
            (&[("X-API-Key", "S:ecret")], false),
            (&[("X-API-Key", "s:ecret"), ("X-API-Key", "s:ecret")], false),
            (&[("X-API-Key", "s:ecret"), ("Authorization", "Bearer s:ecret")], false),
            (&[("Cookie", "X-API-Key=s:ecret")], false),
            (&[], false),
        ] {
            let expected = if valid { Ok(()) } else { Err(Refusal::NoValidKey) };
            assert_eq!(authorise(fields, Command::Change(Change::PowerOn)), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_key_is_for_what_it_lists() {
        let (status, on) = (Command::Read(Read::PowerStatus), Command::Change(Change::PowerOn));
        let equal = [key("twice", &[status]), key("twice", &[on])];
        let keys =
            Keys(equal.into_iter().chain([key("all", &Command::ALL), key("look", &[status])]).collect());
        for (offered, command, expected) in [
            ("all", on, Ok("all")),
            ("look", status, Ok("look")),
            ("look", on, Err(Refusal::NotAllowed { may: vec![status] })),
            ("twice", on, Err(Refusal::NotAllowed { may: vec![status] })),
            ("twice", status, Err(Refusal::NotAllowed { may: vec![on] })),
            ("neither", status, Err(Refusal::NoValidKey)),
        ] {
            let authorised = keys.authorise(&head(&[("X-API-Key", offered)]), command);
            assert_eq!(authorised.as_ref().map(Authorised::key), expected.as_ref().copied(), "{offered}");
        }
    }

    #[test]
    fn another_site_cannot_make_a_browser_change_power() {
        let (change, read) = (Command::Change(Change::PowerOn), Command::Read(Read::PowerStatus));
        for (site, command, allowed) in [
            ("same-origin", change, true),
            ("none", change, true),
            ("cross-site", change, false),
            ("same-site", change, false),
            ("", change, false),
            ("cross-site", read, true),
        ] {
            let expected = if allowed { Ok(()) } else { Err(Refusal::CrossSite) };
            assert_eq!(
                authorise(&[("X-API-Key", "s:ecret"), ("Sec-Fetch-Site", site)], command),
                expected,
                "{site:?}"
            );
        }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, bytes) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9vYg==", Some("foob")),
            ("Zm9vYmE=", Some("fooba")),
            ("Zm9vYmFy", Some("foobar")),
            ("Zg", Some("f")),
            ("Z", None),
            ("Zg=", None),
            ("Zg===", None),
            ("====", None),
            ("Zm 9", None),
            ("Zm-_", None),
        ] {
            assert_eq!(base64(text.as_bytes()), bytes.map(|bytes| bytes.as_bytes().to_vec()), "{text}");
        }
    }
}
