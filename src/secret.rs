//! `Secret`: prints as `<secret>`, compares in constant time. `Credential`: one that `X` or `X_FILE` supplies.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use log::{info, warn};
use subtle::ConstantTimeEq;

use crate::timing::REREAD_CREDENTIAL;

/// A mounted secret is one short line; anything larger is the wrong file.
const MAX_FILE: usize = 4 * 1024;

/// The bit of a file's mode that lets everybody read it (chmod(2), `S_IROTH`).
const OTHERS_READ: u32 = 0o004;

/// A value that must never be printed.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that has to hand it on.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in constant time. Only the length shows.
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What a value must satisfy, at the start and whenever its file is read again. The error says what was expected and
/// never repeats the value.
pub type Check = fn(&str) -> Result<(), String>;

/// A configured value: fixed for the life of the process, or read from a file that may change.
#[derive(Debug)]
pub struct Credential {
    name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Fixed(Secret),
    File { path: PathBuf, check: Check, last: Mutex<Reading> },
}

#[derive(Debug)]
struct Reading {
    value: Secret,
    at: Instant,
    complained: bool,
}

impl Credential {
    /// # Errors
    /// What `check` says of the value.
    pub fn fixed(name: &str, value: &str, check: Check) -> Result<Self, String> {
        Ok(Self { name: name.to_owned(), source: Source::Fixed(checked(value, check)?) })
    }

    /// # Errors
    /// Why the file cannot be used: it is missing, not a regular file, too large, or `check` refuses its text.
    pub fn file(name: &str, path: &Path, check: Check) -> Result<Self, String> {
        let value = read(path, check)?;
        let last = Mutex::new(Reading { value, at: Instant::now(), complained: false });
        Ok(Self { name: name.to_owned(), source: Source::File { path: path.to_owned(), check, last } })
    }

    /// The value as of now. If the file can no longer be used, the last good value stays and one warning is logged.
    pub fn current(&self) -> Secret {
        let (path, check, last) = match &self.source {
            Source::Fixed(value) => return value.clone(),
            Source::File { path, check, last } => (path, *check, last),
        };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.elapsed() >= REREAD_CREDENTIAL {
            last.at = Instant::now();
            match read(path, check) {
                Ok(value) => {
                    if !last.value.matches(value.expose().as_bytes()) {
                        info!("{}: its file has a new value, used from now on", self.name);
                    }
                    last.value = value;
                    last.complained = false;
                }
                Err(cause) if !last.complained => {
                    warn!("{}: {} {cause}; its last good value stays in use", self.name, path.display());
                    last.complained = true;
                }
                Err(_) => {}
            }
        }
        last.value.clone()
    }
}

fn read(path: &Path, check: Check) -> Result<Secret, String> {
    checked(&read_text(path)?, check)
}

/// The text without its last newline. Nothing is no secret: any request could bring an empty key.
fn checked(text: &str, check: Check) -> Result<Secret, String> {
    let value = without_newline(text);
    if let Some(character) = value.chars().find(|character| is_invisible(*character)) {
        return Err(format!("it has the invisible character {}: type it anew", character.escape_unicode()));
    }
    if value.is_empty() {
        return Err("it is empty".to_owned());
    }
    check(value)?;
    Ok(Secret::new(value))
}

/// A file of variables, which holds secrets like the others.
///
/// # Errors
/// Why it cannot be used; also when everybody on the system can read it.
pub fn read_private(path: &Path) -> Result<String, String> {
    let mode = path.metadata().map_err(|error| unreadable(&error))?.permissions().mode();
    if mode & OTHERS_READ != 0 {
        return Err(format!("others can read it: run chmod o= {}", path.display()));
    }
    read_text(path)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read ({error})")
}

fn read_text(path: &Path) -> Result<String, String> {
    // Checked before it is opened: opening a FIFO would wait for its writer.
    if !path.metadata().map_err(|error| unreadable(&error))?.is_file() {
        return Err("expected a regular file".to_owned());
    }
    let mut bytes = Vec::with_capacity(MAX_FILE + 1);
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() > MAX_FILE {
        return Err(format!("expected a file of at most {MAX_FILE} bytes"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is in UTF-16, as PowerShell writes by default: save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "expected a text file in UTF-8".to_owned())?;
    // PowerShell and Notepad also begin a text in UTF-8 with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// White space and format characters beyond ASCII that look like nothing or like a space: they come by copy and paste.
fn is_invisible(character: char) -> bool {
    let formats = ['\u{ad}', '\u{180e}', '\u{feff}'];
    (!character.is_ascii() && character.is_whitespace())
        || formats.contains(&character)
        || ('\u{200b}'..='\u{200f}').contains(&character)
        || ('\u{202a}'..='\u{202e}').contains(&character)
        || ('\u{2060}'..='\u{206f}').contains(&character)
}

/// `echo` and most editors end a file with a newline, and `echo key | base64` puts one into a Kubernetes Secret.
pub fn without_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        let credential = Credential::fixed("API_KEY", "hunter2", |_| Ok(())).unwrap();
        assert_eq!(format!("{secret:?}"), "<secret>");
        assert!(!format!("{credential:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_matches_only_itself() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches(b"hunter2"));
        for other in ["", "hunter", "hunter22", "Hunter2", "hunter2\0"] {
            assert!(!secret.matches(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn an_invisible_character_is_named_and_the_value_is_not() {
        for character in
            ['\u{a0}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{202e}', '\u{2060}', '\u{ad}', '\u{3000}']
        {
            let error = Credential::fixed("X", &format!("hunter{character}2"), |_| Ok(())).unwrap_err();
            let name = character.escape_unicode().to_string();
            assert!(error.contains(&name) && !error.contains("hunter"), "{error}");
        }
        for visible in ["pässwörd", "a b", "пароль", "密碼"] {
            assert!(Credential::fixed("X", visible, |_| Ok(())).is_ok(), "{visible}");
        }
    }

    #[test]
    fn one_trailing_newline_is_dropped() {
        for (text, value) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")] {
            assert_eq!(without_newline(text), value, "{text:?}");
        }
    }
}
