//! The history in `STATE_DIR`, so that a restart of the program does not forget it. And the machine's clocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use log::{error, warn};
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{Asked, Ending, History, Moment, Now, Objection};

const NAME: &str = "attempts.json";

/// Ten keys' share of the history, which is at most 1.6 MB for each. A larger file is not ours.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Locked for as long as a server uses the folder.
const LOCK: &str = "sidecar.lock";

/// The history of one BMC as of now, kept in a file or in memory alone. One change is made at a time: the queue sees to
/// that.
#[derive(Debug)]
pub struct HistoryFile {
    path: Option<PathBuf>,
    cooldown: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Read when it is first needed. A CGI program needs it once its turn has come.
    history: Option<History>,
    lock: Option<File>,
}

impl HistoryFile {
    /// In this folder, or in memory alone.
    pub fn new(folder: Option<&Path>, cooldown: Duration) -> Self {
        Self { path: folder.map(|folder| folder.join(NAME)), cooldown, kept: Mutex::default() }
    }

    /// Takes the folder for this process alone, reads what was attempted before, and makes sure that more can be noted.
    ///
    /// # Errors
    /// Why the folder does not serve: `WouldBlock` while another process has it.
    pub fn open(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.kept().lock = Some(locked(&path.with_file_name(LOCK))?);
        }
        self.note(|_, _| ())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`History::objection`].
    ///
    /// # Errors
    /// Why the history cannot be read.
    pub fn objection(&self, asked: &Asked) -> io::Result<Option<Objection>> {
        self.with_history(|history, now| Ok(history.objection(asked, now.moment, self.cooldown)))
    }

    /// See [`History::begin`].
    ///
    /// # Errors
    /// Why it could not be noted.
    pub fn begin(&self, asked: Asked) -> io::Result<()> {
        self.with_history(|history, now| {
            history.begin(asked, now.moment);
            self.save(history, now).inspect_err(|_| {
                // The change will not be made. What the file has of it already would count against others.
                history.end(Ending::NotSent, now.moment);
                let _ = self.save(history, now);
            })
        })
    }

    /// See [`History::close`].
    ///
    /// # Errors
    /// Why it could not be noted.
    pub fn close(&self, asked: &Asked) -> io::Result<()> {
        self.note(|history, _| history.close(asked))
    }

    /// See [`History::end`]. The file says already that it was begun, which is the safe side.
    pub fn end(&self, ending: Ending) {
        if let Err(cause) = self.note(|history, now| history.end(ending, now)) {
            error!("noting how an attempt ended, as STATE_DIR says: {cause}");
        }
    }

    fn with_history<T>(&self, of: impl FnOnce(&mut History, &Now) -> io::Result<T>) -> io::Result<T> {
        let Kept { history, .. } = &mut *self.kept();
        let now = now();
        let history = match history {
            Some(history) => history,
            unread => unread.insert(self.load(&now)?),
        };
        of(history, &now)
    }

    fn note(&self, change: impl FnOnce(&mut History, Moment)) -> io::Result<()> {
        self.with_history(|history, now| {
            change(history, now.moment);
            self.save(history, now)
        })
    }

    /// What was kept. A file that makes no sense is set aside, and nothing is remembered: a sidecar that does not start
    /// helps nobody.
    fn load(&self, now: &Now) -> io::Result<History> {
        use ErrorKind::{InvalidData, IsADirectory, NotFound, PermissionDenied};
        let Some(path) = &self.path else { return Ok(History::default()) };
        let damage = match read(path) {
            Ok(text) => match History::from_json(&text, now) {
                Some((history, is_of_another_boot)) => {
                    // Its moments now count from this boot, so that the time of day counts no more.
                    if is_of_another_boot {
                        self.save(&history, now)?;
                    }
                    return Ok(history);
                }
                None => "it is damaged".to_owned(),
            },
            Err(error) => match error.kind() {
                NotFound => return Ok(History::default()),
                InvalidData | IsADirectory | PermissionDenied => error.to_string(),
                // It may be readable the next time.
                _ => return Err(error),
            },
        };
        let aside = path.with_extension("damaged");
        fs::rename(path, &aside)?;
        let (name, aside) = (path.display(), aside.display());
        warn!("{name}: {damage}: set aside as {aside}, earlier deliveries are forgotten");
        Ok(History::default())
    }

    /// Keeps it, whole or not at all.
    fn save(&self, history: &History, now: &Now) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let new = path.with_extension("new");
        let written = write(&new, &history.to_json(now)).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new); // the first error is the one that matters
        }
        written.and_then(|()| path.parent().map_or(Ok(()), sync_folder))
    }
}

/// The machine's clocks, read once for each look at the history.
fn now() -> Now {
    // random(4): a new name at each boot. Without /proc there is none.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let uptime = clock_gettime(ClockId::Boottime);
    let time_of_day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now {
        boot,
        moment: uptime.tv_sec * 1000 + uptime.tv_nsec / 1_000_000,
        time_of_day: time_of_day.as_millis().try_into().unwrap_or(i64::MAX),
    }
}

/// Whether a folder can keep the history.
///
/// # Errors
/// Why not.
pub fn check_folder(folder: &Path) -> io::Result<()> {
    if !folder.metadata()?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    Ok(access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Two processes that use one folder would forget each other's changes.
fn locked(path: &Path) -> io::Result<File> {
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open().or_else(|error| match error.kind() {
        // Another user made it in the past. The folder is ours to write to.
        ErrorKind::PermissionDenied => fs::remove_file(path).and_then(|()| open()),
        _ => Err(error),
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Errno::WOULDBLOCK.into()),
        // Some file systems have no locks.
        Ok(()) | Err(_) => Ok(file),
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())?;
    // Otherwise a crash of the machine could leave an empty file under the right name.
    file.sync_all()
}

/// Makes the folder's names outlast a loss of power, which the change that is noted may bring.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
