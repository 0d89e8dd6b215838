//! The name of a server, as paths, lists and variables have it.

use std::fmt;
use std::sync::Arc;

/// A name of this length stays readable in a line of the log.
pub const MAX_NAME: usize = 32;

/// One server: `nas` in `/servers/nas/power/on`, or that of the plain paths, which has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(Option<Arc<str>>);

impl Server {
    /// The server of the plain paths and the plain variables.
    pub const PLAIN: Self = Self(None);

    /// By the name in a path. There need not be such a server.
    pub fn named(name: &str) -> Self {
        Self(Some(name.into()))
    }

    /// A name that variables and folders can have: small letters, digits and `-`, not at either end.
    pub fn parse(name: &str) -> Option<Self> {
        let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(is_of_name)
            && !name.starts_with('-')
            && !name.ends_with('-');
        is_name.then(|| Self::named(name))
    }

    /// `None` for the server of the plain paths.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// How its own variable is called: `BMC_LAB_2_HOST` for `BMC_HOST` of `lab-2`, `BMC_LAB_2_IPMITOOL_ARGS` for
    /// `IPMITOOL_ARGS`. The plain variable for the server without a name.
    pub fn variable(&self, plain: &str) -> String {
        let rest = plain.strip_prefix("BMC_").unwrap_or(plain);
        self.name().map_or_else(
            || plain.to_owned(),
            |name| format!("BMC_{}_{rest}", name.to_ascii_uppercase().replace('-', "_")),
        )
    }
}

/// How a line of the log begins that is about this server.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().map_or(Ok(()), |name| write!(f, "{name}: "))
    }
}

/// `nas, lab`.
pub fn listed(servers: &[Server]) -> String {
    servers.iter().filter_map(Server::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_small_letters_digits_and_hyphens() {
        for (name, is_valid) in [
            ("nas", true),
            ("lab-2", true),
            ("2", true),
            ("a-very-long-name-of-32-characters", false),
            ("a-long-name-of-just-32-character", true),
            ("", false),
            ("NAS", false),
            ("lab_2", false),
            ("lab.2", false),
            ("-nas", false),
            ("nas-", false),
            ("n\u{e4}s", false),
            ("../nas", false),
        ] {
            assert_eq!(Server::parse(name).is_some(), is_valid, "{name:?}");
        }
    }

    #[test]
    fn a_variable_has_the_name_in_it() {
        let lab = Server::named("lab-2");
        assert_eq!(lab.variable("BMC_HOST"), "BMC_LAB_2_HOST");
        assert_eq!(lab.variable("IPMITOOL_ARGS"), "BMC_LAB_2_IPMITOOL_ARGS");
        assert_eq!(Server::PLAIN.variable("BMC_HOST"), "BMC_HOST");
        assert_eq!((lab.to_string(), Server::PLAIN.to_string()), ("lab-2: ".to_owned(), String::new()));
    }
}
