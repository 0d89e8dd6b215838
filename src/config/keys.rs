//! The keys: `API_KEY`, `API_KEY_STATUS`, and `ACCESS_<NAME>_…` with what each allows and where.

use std::collections::BTreeSet;

use super::checks::NEW_KEY;
use super::reader::Reader;
use super::variables::{ACCESS_ALLOW, ACCESS_KEY, ACCESS_SERVERS, API_KEY, API_KEY_STATUS};
use crate::auth::{Key, Keys};
use crate::command::Command;
use crate::secret::Credential;
use crate::server::{Server, listed};

/// A shorter key can be guessed, given time.
const SHORT_KEY: usize = 16;

impl Reader<'_> {
    fn api_key(&mut self) -> Option<Credential> {
        let name = API_KEY.name;
        self.credential(&API_KEY, name)?
            .or_else(|| self.wrong(format!("{name} is not set: it is required, as {name} or {name}_FILE")))
    }

    /// Every key, with what it allows. `all` are the servers that it can be for, as far as they are known.
    pub fn keys(&mut self, names: &BTreeSet<String>, all: Option<&[Server]>) -> Keys {
        let mut keys = Vec::new();
        let mut add = |name: &str, credential, allows, servers| {
            keys.push(Key { name: name.into(), credential, allows, servers });
        };
        if let Some(credential) = self.api_key() {
            add(API_KEY.name, credential, Command::words(), None);
        }
        if let Some(Some(credential)) = self.credential(&API_KEY_STATUS, API_KEY_STATUS.name) {
            add(API_KEY_STATUS.name, credential, vec![Command::POWER_STATUS.word()], None);
        }
        for name in names.iter().filter_map(|name| access_name(name)).collect::<BTreeSet<_>>() {
            self.warn_of_misspelled(names, name);
            let key = ACCESS_KEY.named(name);
            let (allow, servers) = (ACCESS_ALLOW.named(name), ACCESS_SERVERS.named(name));
            let credential = self.credential(&ACCESS_KEY, &key);
            let (words, places) =
                (self.text(&allow).unwrap_or_default(), self.text(&servers).unwrap_or_default());
            match credential {
                Some(Some(_)) if words.is_empty() => {
                    self.wrong::<()>(format!(
                        "{allow} is not set: it must say what {key} allows, such as status,on (if {key} belongs to \
                         another program, keep it from this one)"
                    ));
                }
                Some(None) if !words.is_empty() => {
                    self.wrong::<()>(format!("{key} is not set: {allow} says what it would allow"));
                }
                Some(None) if !places.is_empty() => {
                    self.wrong::<()>(format!("{key} is not set: {servers} says where it would allow it"));
                }
                Some(Some(credential)) => {
                    let allows = self.value_by(&ACCESS_ALLOW, &allow, ACCESS_ALLOW.parse);
                    if let (Some(allows), Some(servers)) = (allows, self.servers_of_key(&servers, all)) {
                        add(&key, credential, allows, servers);
                    }
                }
                Some(None) | None => {}
            }
        }
        self.judge(&keys);
        Keys(keys)
    }

    /// `ACCESS_X_SERVER` would leave the key without its limit, in silence.
    fn warn_of_misspelled(&mut self, names: &BTreeSet<String>, key: &str) {
        let begin = format!("ACCESS_{key}_");
        for name in names.iter().filter(|name| name.starts_with(&begin) && access_name(name).is_none()) {
            if !self.text(name).unwrap_or_default().is_empty() {
                let [allow, servers] = [ACCESS_ALLOW.named(key), ACCESS_SERVERS.named(key)];
                self.warn(format!("{name} is set, and ignored: expected {allow} or {servers}"));
            }
        }
    }

    /// `Some(None)`: all.
    #[allow(clippy::option_option)] // not set is no error here
    fn servers_of_key(&mut self, variable: &str, all: Option<&[Server]>) -> Option<Option<Vec<Server>>> {
        let servers = self.value_by(&ACCESS_SERVERS, variable, |text| {
            let servers = (ACCESS_SERVERS.parse)(text)?;
            let Some(all) = all else { return Ok(servers) };
            if servers.iter().all(|server| all.contains(server)) {
                return Ok(servers);
            }
            Err(match listed(all) {
                names if names.is_empty() => "SERVERS is not set, so there is no server to name".to_owned(),
                names => format!("expected some of {names}, which SERVERS names"),
            })
        })?;
        Some(Some(servers).filter(|servers| !servers.is_empty()))
    }

    /// Warns of keys that can be guessed, and refuses equal ones.
    fn judge(&mut self, keys: &[Key]) {
        for (index, key) in keys.iter().enumerate() {
            let (name, value) = (&key.name, key.credential.current());
            if value.expose().len() < SHORT_KEY {
                self.warn(format!(
                    "{name} has fewer than {SHORT_KEY} characters and can be guessed: {NEW_KEY}"
                ));
            }
            let is_equal = |other: &&Key| other.credential.current().matches(value.expose());
            if let Some(Key { name: other, .. }) = keys[..index].iter().find(is_equal) {
                self.wrong::<()>(format!("{name} is the same key as {other}: {NEW_KEY}"));
            }
        }
    }
}

/// The NAME of `ACCESS_<NAME>_KEY`, `ACCESS_<NAME>_KEY_FILE`, `ACCESS_<NAME>_ALLOW` and `ACCESS_<NAME>_SERVERS`.
fn access_name(variable: &str) -> Option<&str> {
    let rest = variable.strip_prefix("ACCESS_")?;
    let name =
        ["_KEY", "_KEY_FILE", "_ALLOW", "_SERVERS"].into_iter().find_map(|end| rest.strip_suffix(end))?;
    Some(name).filter(|name| !name.is_empty())
}
