//! The key check. Nothing else can make an `Authorised`, and without one no `ipmitool` runs.

use std::io;
use std::sync::Arc;

use base64ct::{Base64Unpadded, Encoding};

use crate::command::Command;
use crate::failure::{Code, Failure};
use crate::http::Head;
use crate::secret::{Credential, Secret};
use crate::server::{Server, listed};

/// A command that may be run on one server.
#[derive(Debug)]
pub struct Authorised {
    server: Server,
    command: Command,
    key: Arc<str>,
}

/// A key, and the commands it allows.
#[derive(Debug)]
pub struct Key {
    /// The variable that gives it, for the log.
    pub name: Arc<str>,
    pub credential: Credential,
    /// Words of the table of commands.
    pub allows: Vec<&'static str>,
    /// The servers it reaches. `None`: all.
    pub servers: Option<Vec<Server>>,
}

/// The keys. A request must bring one of them.
#[derive(Debug)]
pub struct Keys(pub Vec<Key>);

impl Keys {
    /// Lets a request pass that brings one valid key which allows this command on this server. Whether there is such a
    /// server does not matter: a key that may not reach it learns nothing of it.
    ///
    /// # Errors
    /// `Unauthorized` without a valid key. `Forbidden` if the key is for other commands or servers, or for a change that a browser
    /// says was not made by our own origin (W3C Fetch Metadata): no page that a browser visits may use a key that the
    /// browser keeps.
    pub fn authorise(&self, head: &Head, server: &Server, command: Command) -> Result<Authorised, Failure> {
        // Files can make two keys equal while the program runs. Then both must allow the command, so that no caller gains
        // by it.
        let valid = self.valid(head);
        if let Some(narrow) = valid.iter().find(|key| !key.allows.contains(&command.word())) {
            let words = narrow.allows.join(", ");
            return Err(
                Code::Forbidden.because(format!("this key is only for {words}. Use one that allows it"))
            );
        }
        let is_out_of_reach = |servers: &&[Server]| !servers.contains(server);
        if let Some(servers) = valid.iter().filter_map(|key| key.servers.as_deref()).find(is_out_of_reach) {
            return Err(Code::Forbidden.because(format!(
                "this key is only for the servers {}. Use one for the server that you asked for",
                listed(servers)
            )));
        }
        let key = valid.first().ok_or(Code::Unauthorized)?;
        let is_own = |site: &[u8]| [&b"same-origin"[..], b"none"].contains(&site);
        if command.is_change() && !head.values("Sec-Fetch-Site").all(is_own) {
            return Err(Code::Forbidden.because(
                "a web page of another site may not change power. Send the request from a program, or from a page of \
                 the same origin",
            ));
        }
        Ok(Authorised { server: server.clone(), command, key: key.name.clone() })
    }
}

impl Keys {
    /// Keeps the keys of files as they are now; see [`Credential::watch`].
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|key| key.credential.watch())
    }

    /// Those of all servers that the request's key reaches.
    ///
    /// # Errors
    /// `Unauthorized` without a valid key.
    pub fn reached<'a>(
        &self,
        head: &Head,
        all: impl Iterator<Item = &'a Server>,
    ) -> Result<Vec<&'a Server>, Failure> {
        let valid = self.valid(head);
        if valid.is_empty() {
            return Err(Code::Unauthorized.into());
        }
        let reaches = |server: &Server| {
            valid.iter().all(|key| key.servers.as_ref().is_none_or(|servers| servers.contains(server)))
        };
        Ok(all.filter(|server| reaches(server)).collect())
    }

    /// The name of the valid key that the head brings, whatever it allows.
    pub fn name_of(&self, head: &Head) -> Option<&str> {
        self.valid(head).first().map(|key| &*key.name)
    }

    /// All keys are compared, so that the time does not tell which one is valid.
    fn valid(&self, head: &Head) -> Vec<&Key> {
        let is_valid =
            |key: &&Key| key.credential.unless_revoked().is_some_and(|secret| has_key(head, &secret));
        self.0.iter().filter(is_valid).collect()
    }
}

impl Authorised {
    /// Every read of this server, in the order of the table, for the operator at the command line. An operator can read
    /// the configuration, and needs no key.
    pub fn reads_for_operator(server: &Server) -> impl Iterator<Item = Self> {
        let reads = Command::all().filter(|command| !command.is_change());
        reads.map(|command| Self { server: server.clone(), command, key: "the operator".into() })
    }

    pub const fn server(&self) -> &Server {
        &self.server
    }

    pub const fn command(&self) -> Command {
        self.command
    }

    /// The name of the key that allowed it, for the log.
    pub const fn key(&self) -> &Arc<str> {
        &self.key
    }
}

/// Whether the head brings this key, in one of three ways, and no other key beside it. Where `X-API-Key` stands, it
/// decides: an `Authorization` beside it belongs to a proxy.
fn has_key(head: &Head, key: &Secret) -> bool {
    match (&values(head, "X-API-Key")[..], &values(head, "Authorization")[..]) {
        ([offered], _) => key.matches(offered),
        ([], [authorization]) => {
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

fn values<'a>(head: &'a Head, name: &'a str) -> Vec<&'a [u8]> {
    head.values(name).collect()
}

/// The password of `base64(user:password)` (RFC 7617): everything behind the first colon. Some senders leave out the
/// padding.
fn password(credentials: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(credentials).ok()?;
    let mut pair = Base64Unpadded::decode_vec(text.trim_end_matches('=')).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair.split_off(colon + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Head {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("POST /power/on HTTP/1.0\r\n{}\r\n", fields.concat());
        Head::parse(text.as_bytes(), "test".into()).unwrap()
    }

    fn power_on() -> Command {
        Command::all().find(|command| command.name() == "power on").unwrap()
    }

    /// The code and the detail of a refusal.
    fn refusal(result: Result<Authorised, Failure>) -> Option<(Code, String)> {
        result.err().map(|failure| (failure.code(), failure.detail().unwrap_or_default().to_owned()))
    }

    fn authorise(fields: &[(&str, &str)], command: Command) -> Option<(Code, String)> {
        refusal(Keys(vec![key("s:ecret", &Command::words())]).authorise(
            &head(fields),
            &Server::PLAIN,
            command,
        ))
    }

    fn key(value: &str, allows: &[&'static str]) -> Key {
        let credential = Credential::fixed(value, |_| Ok(())).unwrap();
        Key { name: value.into(), credential, allows: allows.to_vec(), servers: None }
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
            (&[("Authorization", "Basic OnM6ZWNy ZXQ=")], false),
            (&[("Authorization", "Basic OnM6ZWNyZX")], false),
            (&[("Authorization", "Basic ====")], false),
            (&[("Authorization", "Basic s:ecret")], false),
            (&[("Authorization", "s:ecret")], false),
            (&[("Authorization", "Digest s:ecret")], false),
            (&[("Authorization", "Bearer")], false),
            (&[("Authorization", "")], false),
            (&[("X-API-Key", "")], false),
            (&[("X-API-Key", "s:ecre")], false),
            (&[("X-API-Key", "S:ecret")], false),
            (&[("X-API-Key", "s:ecret"), ("X-API-Key", "s:ecret")], false),
            (&[("X-API-Key", "s:ecret"), ("Authorization", "Bearer s:ecret")], true),
            (&[("X-API-Key", "s:ecret"), ("Authorization", "Basic cHJveHk6aXRz")], true),
            (&[("X-API-Key", "s:ecret"), ("Authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x")], true),
            (&[("X-API-Key", "s:ecret"), ("Authorization", "")], true),
            (&[("Authorization", ""), ("X-API-Key", "s:ecret"), ("Authorization", "x")], true),
            (&[("X-API-Key", "wrong"), ("Authorization", "Bearer s:ecret")], false),
            (&[("X-API-Key", ""), ("Authorization", "Bearer s:ecret")], false),
            (&[("Authorization", "Bearer s:ecret"), ("Authorization", "Bearer s:ecret")], false),
            (&[("Cookie", "X-API-Key=s:ecret")], false),
            (&[], false),
        ] {
            let expected = (!valid).then(|| (Code::Unauthorized, String::new()));
            assert_eq!(authorise(fields, power_on()), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_key_allows_what_it_lists() {
        let keys = Keys(vec![
            key("twice", &["status"]),
            key("twice", &["on"]),
            key("all", &Command::words()),
            key("look", &["status"]),
        ]);
        let only = |word: &str| Err(Some(format!("this key is only for {word}. Use one that allows it")));
        for (offered, command, expected) in [
            ("all", power_on(), Ok("all")),
            ("look", Command::POWER_STATUS, Ok("look")),
            ("look", power_on(), only("status")),
            ("twice", power_on(), only("status")),
            ("twice", Command::POWER_STATUS, only("on")),
            ("neither", Command::POWER_STATUS, Err(None)),
        ] {
            let authorised = keys.authorise(&head(&[("X-API-Key", offered)]), &Server::PLAIN, command);
            let told = authorised.as_ref().map(|authorised| &**authorised.key());
            assert_eq!(told.map_err(|failure| failure.detail().map(str::to_owned)), expected, "{offered}");
        }
    }

    #[test]
    fn a_key_reaches_the_servers_that_it_lists() {
        let servers = |names: &[&str]| Some(names.iter().map(|name| Server::named(name)).collect::<Vec<_>>());
        let limited = |value: &str, names: &[&str]| Key { servers: servers(names), ..key(value, &["on"]) };
        let keys = Keys(vec![
            key("all", &["on"]),
            limited("one", &["nas"]),
            limited("two", &["nas", "lab"]),
            limited("twice", &["nas"]),
            limited("twice", &["lab"]),
        ]);
        let (nas, lab, plain) = (Server::named("nas"), Server::named("lab"), Server::PLAIN);
        let only = |list: &str| {
            Some((
                Code::Forbidden,
                format!("this key is only for the servers {list}. Use one for the server that you asked for"),
            ))
        };
        for (offered, server, expected) in [
            ("all", &nas, None),
            ("all", &plain, None),
            ("one", &nas, None),
            ("one", &lab, only("nas")),
            ("one", &plain, only("nas")),
            ("one", &Server::named("no-such"), only("nas")),
            ("two", &lab, None),
            ("two", &plain, only("nas, lab")),
            ("twice", &nas, only("lab")),
            ("neither", &nas, Some((Code::Unauthorized, String::new()))),
        ] {
            let refused = refusal(keys.authorise(&head(&[("X-API-Key", offered)]), server, power_on()));
            assert_eq!(refused, expected, "{offered}, {server:?}");
        }
        for (offered, expected) in
            [("all", &[&nas, &lab][..]), ("one", &[&nas]), ("two", &[&nas, &lab]), ("twice", &[])]
        {
            let reached = keys.reached(&head(&[("X-API-Key", offered)]), [&nas, &lab].into_iter());
            assert_eq!(reached.unwrap(), expected, "{offered}");
        }
        assert!(keys.reached(&head(&[]), [&nas].into_iter()).is_err());
    }

    #[test]
    fn another_site_cannot_make_a_browser_change_power() {
        for (site, command, allowed) in [
            ("same-origin", power_on(), true),
            ("none", power_on(), true),
            ("cross-site", power_on(), false),
            ("same-site", power_on(), false),
            ("", power_on(), false),
            ("cross-site", Command::POWER_STATUS, true),
        ] {
            let refused = authorise(&[("X-API-Key", "s:ecret"), ("Sec-Fetch-Site", site)], command);
            assert_eq!(refused.map(|(code, _)| code), (!allowed).then_some(Code::Forbidden), "{site:?}");
        }
    }
}
