//! Reads variables one by one and collects what is wrong with them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::variables::{Fallback, Given, IPMI_SIDECAR_ENV, Variable};
use super::{Lookup, StartupError};
use crate::secret::{Credential, read_private, without_newline};

/// Keys that people make in base64 have at least so many characters.
const SHORTEST_BASE64: usize = 16;

/// When a method gives `None`, its error is among the errors.
pub(super) struct Reader<'a> {
    lookup: Lookup<'a>,
    /// What `IPMI_SIDECAR_ENV` adds to it.
    pub file: BTreeMap<String, String>,
    pub errors: Vec<StartupError>,
    pub warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(lookup: Lookup<'a>) -> Result<Self, Vec<StartupError>> {
        let mut reader = Self { lookup, file: BTreeMap::new(), errors: Vec::new(), warnings: Vec::new() };
        let path = reader.value(&IPMI_SIDECAR_ENV).unwrap_or_default();
        if !path.is_empty() {
            let read = read_private(Path::new(&path)).and_then(|text| lines(&text));
            reader.file =
                read.map_err(|cause| vec![StartupError(format!("IPMI_SIDECAR_ENV is {path:?}: {cause}"))])?;
        }
        Ok(reader)
    }

    /// Adds a warning once: several servers may share a variable.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Adds an error in the same way.
    pub fn wrong<T>(&mut self, error: String) -> Option<T> {
        let error = StartupError(error);
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
        None
    }

    /// The variable's text without one trailing newline, or the empty string where it is unset. The environment goes
    /// before the file.
    pub fn text(&mut self, name: &str) -> Option<String> {
        Some(without_newline(&self.whole_text(name)?).to_owned())
    }

    fn whole_text(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name).filter(|value| !value.is_empty());
        let value = value.unwrap_or_else(|| self.file.get(name).map(OsString::from).unwrap_or_default());
        match value.into_string() {
            Ok(text) => Some(text),
            Err(_) => self.wrong(format!("{name}: expected text in UTF-8")),
        }
    }

    pub fn value<T>(&mut self, variable: &Variable<T>) -> Option<T> {
        self.value_by(variable, variable.name, variable.parse)
    }

    /// The same, by another name or parser.
    pub fn value_by<T, U>(
        &mut self,
        variable: &Variable<T>,
        name: &str,
        parse: impl Fn(&str) -> Result<U, String>,
    ) -> Option<U> {
        let text = self.text(name)?;
        let text = match variable.default {
            Fallback::Required if text.is_empty() => {
                return self.wrong(format!("{name} is not set: it is required"));
            }
            Fallback::Value(default) if text.is_empty() => default,
            Fallback::Required | Fallback::Unset | Fallback::Value(_) => &text,
        };
        let cause_or_value = if text.trim() == text {
            parse(text)
        } else {
            Err("expected no white space around the value".to_owned())
        };
        cause_or_value.map_or_else(
            |cause| {
                // Not quoted where it may hold a login: of a URL, or of a command line.
                let may_tell = text.contains('@') || text.contains(char::is_whitespace);
                let is_quoted = variable.given == Given::Plain && !may_tell;
                self.wrong(if is_quoted {
                    format!("{name} is {text:?}: {cause}")
                } else {
                    format!("{name}: {cause}")
                })
            },
            Some,
        )
    }

    /// A value that may come from a file, and that no message repeats. `Some(None)` where it is not set.
    #[allow(clippy::option_option)] // not set is no error here
    pub fn credential(&mut self, variable: &Variable<()>, name: &str) -> Option<Option<Credential>> {
        let check = variable.parse;
        let file_name = format!("{name}_FILE");
        // A secret that is nothing but a newline is a mistake, and not the same as none.
        let (value, file) = (self.whole_text(name)?, self.text(&file_name)?);
        let credential = match (&value[..], &file[..]) {
            ("", "") => return Some(None),
            (_, "") => {
                Credential::fixed(without_newline(&value), check).map_err(|cause| format!("{name}: {cause}"))
            }
            ("", _) => Credential::file(name, Path::new(&file), check).map_err(|cause| {
                // Quoted only if it can be no secret: a user may put the secret itself there.
                if file.starts_with('/') && !is_like_base64(&file) {
                    format!("{file_name} is {file:?}: {cause}")
                } else {
                    format!("{file_name}, which must be the path of a file: {cause}")
                }
            }),
            _ => Err(format!("{name} and {file_name} are both set: expected one of them")),
        };
        credential.map(Some).or_else(|error| self.wrong(error).ok_or(())).ok()
    }
}

/// Lines of `NAME=value`, the value quoted as in a shell. Empty lines and comments are skipped.
pub(super) fn lines(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        // No error repeats the line: it may hold a password.
        let words = shell_words::split(line)
            .map_err(|_| format!("line {number}: expected every quote to be closed"))?;
        let expected = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => continue,
            ["export", ..] => "expected NAME=value without export: this file is read, and no shell runs it",
            [_, "=", ..] => "expected NAME=value without spaces around the =",
            [_, second, ..] if second.starts_with('=') => "expected NAME=value without spaces around the =",
            [name, ..] if name.ends_with('=') && words.len() > 1 => {
                "expected NAME=value without spaces around the ="
            }
            [_] => "expected NAME=value, without spaces",
            _ => "expected one NAME=value, with quotes around a value with spaces",
        };
        let (1, Some((name, value))) = (words.len(), words[0].split_once('=')) else {
            return Err(format!("line {number}: {expected}"));
        };
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// A base64 key may begin with a slash.
fn is_like_base64(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let has = |kind: fn(&u8) -> bool| text.as_bytes().iter().any(kind);
    text.bytes().all(is_digit)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && text.len() >= SHORTEST_BASE64
}
