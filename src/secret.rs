//! `Secret`: prints as `<secret>`, compares in constant time. `Credential`: one that `X` or `X_FILE` supplies.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use log::{info, warn};
use rustix::fs::OFlags;
use subtle::ConstantTimeEq;

use crate::timing::{MISSING_KEY, REREAD_CREDENTIAL};

/// A mounted secret is one short line; anything larger is the wrong file.
const MAX_FILE: usize = 4 * 1024;

/// The bit of a file's mode that lets everybody read it (chmod(2), `S_IROTH`).
const OTHERS_READ: u32 = 0o004;

/// A value that must never be printed.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    pub fn new(value: impl AsRef<[u8]>) -> Self {
        Self(value.as_ref().into())
    }

    /// The value itself, for the one place that has to hand it on.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Compares in constant time. Only the length shows.
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.0.ct_eq(offered).into()
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

/// A configured value: fixed for the life of the process, or read from a file that may change. Clones share the file.
#[derive(Debug, Clone)]
pub struct Credential(Source);

#[derive(Debug, Clone)]
enum Source {
    Fixed(Secret),
    File(Arc<CredentialFile>),
}

/// A file, and what was last read from it.
#[derive(Debug)]
pub struct CredentialFile {
    name: String,
    path: PathBuf,
    check: Check,
    last: Mutex<Reading>,
    is_watched: OnceLock<()>,
}

#[derive(Debug)]
struct Reading {
    /// The last good value.
    value: Secret,
    /// Its file is empty, or gone for `MISSING_KEY`.
    is_revoked: bool,
    missing_since: Option<Instant>,
    /// What was last said of it in the log.
    said: String,
}

impl Credential {
    /// # Errors
    /// What `check` says of the value.
    pub fn fixed(value: &str, check: Check) -> Result<Self, String> {
        Ok(Self(Source::Fixed(checked(value, check)?)))
    }

    /// # Errors
    /// Why the file cannot be used: it is missing, not a regular file, too large, or `check` refuses its text.
    pub fn file(name: &str, path: &Path, check: Check) -> Result<Self, String> {
        let value = read(path, check).map_err(|error| error.to_string())?;
        let last = Reading { value, is_revoked: false, missing_since: None, said: String::new() };
        let (name, path, last) = (name.to_owned(), path.to_owned(), Mutex::new(last));
        let file = CredentialFile { name, path, check, last, is_watched: OnceLock::new() };
        Ok(Self(Source::File(Arc::new(file))))
    }

    /// The last good value.
    pub fn current(&self) -> Secret {
        match &self.0 {
            Source::Fixed(value) => value.clone(),
            Source::File(file) => file.last().value.clone(),
        }
    }

    /// The same, unless its file was emptied or removed.
    pub fn unless_revoked(&self) -> Option<Secret> {
        match &self.0 {
            Source::Fixed(value) => Some(value.clone()),
            Source::File(file) => {
                let last = file.last();
                (!last.is_revoked).then(|| last.value.clone())
            }
        }
    }

    /// Reads the file again and again, on a thread of its own: no request waits for a disk. Once is enough for all clones.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch(&self) -> io::Result<()> {
        let Source::File(file) = &self.0 else { return Ok(()) };
        if file.is_watched.set(()).is_err() {
            return Ok(());
        }
        let file = file.clone();
        let watch = move || loop {
            thread::sleep(REREAD_CREDENTIAL);
            file.read_again(Instant::now());
        };
        thread::Builder::new().name("credential".to_owned()).spawn(watch).map(drop)
    }
}

impl CredentialFile {
    fn last(&self) -> MutexGuard<'_, Reading> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_again(&self, now: Instant) {
        let result = read(&self.path, self.check);
        self.note(result, now);
    }

    fn note(&self, result: Result<Secret, FileError>, now: Instant) {
        let mut last = self.last();
        let missing_since = last.missing_since.take();
        let (name, path) = (&self.name, self.path.display());
        let said = match result {
            Ok(value) => {
                if !last.value.matches(value.expose()) || last.is_revoked {
                    info!("{name}: its file has a new value, used from now on");
                }
                (last.value, last.is_revoked) = (value, false);
                String::new()
            }
            Err(FileError::Empty) => {
                last.is_revoked = true;
                format!("{name}: {path} is empty: a key is valid no more; a login keeps its last value")
            }
            Err(FileError::Missing) => {
                let since = missing_since.unwrap_or(now);
                last.missing_since = Some(since);
                last.is_revoked |= now.saturating_duration_since(since) >= MISSING_KEY;
                if last.is_revoked {
                    format!("{name}: {path} is gone: a key is valid no more; a login keeps its last value")
                } else {
                    format!(
                        "{name}: {path} is gone; its last value stays in use for {} s",
                        MISSING_KEY.as_secs()
                    )
                }
            }
            Err(FileError::Other(cause)) => {
                format!("{name}: {path} {cause}; its last good value stays in use")
            }
        };
        if said != last.said && !said.is_empty() {
            warn!("{said}");
        }
        last.said = said;
    }
}

/// Why a file gives no value.
#[derive(Debug, PartialEq, Eq)]
enum FileError {
    Missing,
    Empty,
    Other(String),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("cannot be read (No such file or directory)"),
            Self::Empty => f.write_str("it is empty"),
            Self::Other(cause) => f.write_str(cause),
        }
    }
}

fn read(path: &Path, check: Check) -> Result<Secret, FileError> {
    let text = match read_text(path) {
        Err(_) if matches!(path.metadata(), Err(error) if error.kind() == ErrorKind::NotFound) => {
            return Err(FileError::Missing);
        }
        result => result.map_err(FileError::Other)?,
    };
    let value = without_newline(&text);
    if value.is_empty() {
        return Err(FileError::Empty);
    }
    checked(value, check).map_err(FileError::Other)
}

/// Nothing is no secret: any request could bring an empty key.
fn checked(value: &str, check: Check) -> Result<Secret, String> {
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
    // A FIFO would wait for its writer, and a file with a lease for its holder.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| unreadable(&error))?;
    if !file.metadata().map_err(|error| unreadable(&error))?.is_file() {
        return Err("expected a regular file".to_owned());
    }
    let mut bytes = Vec::with_capacity(MAX_FILE + 1);
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
    use std::time::Duration;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        let credential = Credential::fixed("hunter2", |_| Ok(())).unwrap();
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

    /// The clock is a parameter.
    #[test]
    fn an_emptied_file_revokes_a_key_at_once_and_a_removed_one_after_a_minute() {
        let secret = |value: &str| Secret::new(value);
        let last =
            Reading { value: secret("old"), is_revoked: false, missing_since: None, said: String::new() };
        let file = Arc::new(CredentialFile {
            name: "API_KEY".to_owned(),
            path: "/run/key".into(),
            check: |_| Ok(()),
            last: Mutex::new(last),
            is_watched: OnceLock::new(),
        });
        let credential = Credential(Source::File(file.clone()));
        let start = Instant::now();
        let valid = || credential.unless_revoked().map(|secret| secret.expose().to_owned());
        for (second, result, expected) in [
            (0, Err(FileError::Other("cannot be read".to_owned())), Some("old")),
            (1, Err(FileError::Missing), Some("old")),
            (60, Err(FileError::Missing), Some("old")),
            (61, Err(FileError::Missing), None),
            (62, Ok("new"), Some("new")),
            (63, Err(FileError::Missing), Some("new")),
            (64, Ok("new"), Some("new")),
            (123, Err(FileError::Missing), Some("new")),
            (124, Err(FileError::Empty), None),
            (125, Err(FileError::Other("cannot be read".to_owned())), None),
            (126, Ok("newer"), Some("newer")),
        ] {
            file.note(result.map(secret), start + Duration::from_secs(second));
            assert_eq!(valid().as_deref(), expected.map(str::as_bytes), "at {second} s");
        }
        assert_eq!(credential.current().expose(), b"newer");
    }

    #[test]
    fn an_invisible_character_is_named_and_the_value_is_not() {
        for character in
            ['\u{a0}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{202e}', '\u{2060}', '\u{ad}', '\u{3000}']
        {
            let error = Credential::fixed(&format!("hunter{character}2"), |_| Ok(())).unwrap_err();
            let name = character.escape_unicode().to_string();
            assert!(error.contains(&name) && !error.contains("hunter"), "{error}");
        }
        for visible in ["pässwörd", "a b", "пароль", "密碼"] {
            assert!(Credential::fixed(visible, |_| Ok(())).is_ok(), "{visible}");
        }
    }

    #[test]
    fn one_trailing_newline_is_dropped() {
        for (text, value) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")] {
            assert_eq!(without_newline(text), value, "{text:?}");
        }
    }
}
