//! The history in `STATE_DIR`, so that a restart of the program does not forget it. And the machine's clocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{error, warn};
use rustix::fs::{Access, FlockOperation, OFlags, access, flock};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::writer::Writer;
use super::{Asked, Ending, History, Now, Objection};

const NAME: &str = "attempts.json";

/// Ten keys' share of the history, which is at most 1.6 MB for each. A larger file is not ours.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Locked for as long as a server uses the folder.
const LOCK: &str = "sidecar.lock";

/// The history of one BMC as of now, kept in a file or in memory alone. One change is made at a time: the queue sees to
/// that.
#[derive(Debug)]
pub struct HistoryFile {
    cooldown: Duration,
    /// Read when it is first needed. A CGI program needs it once its turn has come. Never locked while the disk is busy.
    history: Mutex<Option<History>>,
    lock: Mutex<Option<File>>,
    writer: Option<Arc<Writer>>,
    path: Option<PathBuf>,
}

impl HistoryFile {
    /// In this folder, which is made when it is missing, or in memory alone.
    pub fn new(folder: Option<&Path>, cooldown: Duration) -> Self {
        let path = folder.map(|folder| folder.join(NAME));
        let writer = path.clone().map(Writer::new);
        Self { cooldown, history: Mutex::default(), lock: Mutex::default(), writer, path }
    }

    /// Where it is kept.
    pub fn folder(&self) -> Option<&Path> {
        self.path.as_deref()?.parent()
    }

    /// Takes the folder for this server alone, reads what was attempted before, and makes sure that more can be noted.
    ///
    /// # Errors
    /// Why the folder does not serve: `WouldBlock` while another process has it.
    pub fn open(&self, until: Instant) -> io::Result<()> {
        if let Some(path) = &self.path {
            let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            // All servers are tried again while another process has the folder of one. Our own lock would be in our way.
            if lock.is_some() {
                return Ok(());
            }
            *lock = Some(locked(&path.with_file_name(LOCK), FlockOperation::NonBlockingLockExclusive)?);
        }
        self.note(until, |_, _| ())
    }

    /// For one CGI program among others.
    ///
    /// # Errors
    /// `WouldBlock` while a server has the folder: the two would forget each other's changes.
    pub fn open_shared(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let lock = locked(&path.with_file_name(LOCK), FlockOperation::NonBlockingLockShared)?;
            *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        }
        Ok(())
    }

    fn history(&self) -> MutexGuard<'_, Option<History>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`History::objection`].
    ///
    /// # Errors
    /// Why the history cannot be read.
    pub fn objection(&self, asked: &Asked) -> io::Result<Option<Objection>> {
        self.with_history(|history, now| history.objection(asked, now, self.cooldown))
    }

    /// The same, as far as it is known without a look at the disk.
    pub fn known_objection(&self, asked: &Asked) -> Option<Objection> {
        self.history().as_ref()?.objection(asked, &now(), self.cooldown)
    }

    /// See [`History::begin`].
    ///
    /// # Errors
    /// Why it could not be noted until then.
    pub fn begin(&self, asked: Asked, until: Instant) -> io::Result<()> {
        let noted = self.note(until, |history, now| history.begin(asked, now));
        if noted.is_err() {
            // The change will not be made. What the file has of it already would count against others.
            let _ = self.note(Instant::now(), |history, now| history.end(Ending::NotSent, now));
        }
        noted
    }

    /// See [`History::close`].
    ///
    /// # Errors
    /// Why it could not be noted until then.
    pub fn close(&self, asked: &Asked, until: Instant) -> io::Result<()> {
        self.note(until, |history, _| history.close(asked))
    }

    /// See [`History::end`]. The file says already that it was begun, which is the safe side.
    pub fn end(&self, ending: Ending, until: Instant) {
        match self.note(until, |history, now| history.end(ending, now)) {
            // It is written later. Of a disk that hangs, the next change tells.
            Err(cause) if cause.kind() == ErrorKind::TimedOut => {}
            Err(cause) => {
                let path = self.path.as_deref().unwrap_or(Path::new("STATE_DIR")).display();
                error!("{path}: noting how an attempt ended: {cause}");
            }
            Ok(()) => {}
        }
    }

    fn with_history<T>(&self, of: impl FnOnce(&mut History, &Now) -> T) -> io::Result<T> {
        let (mut history, now) = (self.history(), now());
        let history = match &mut *history {
            Some(history) => history,
            unread => unread.insert(self.load(&now)?),
        };
        Ok(of(history, &now))
    }

    fn note(&self, until: Instant, change: impl FnOnce(&mut History, &Now)) -> io::Result<()> {
        let text = self.with_history(|history, now| {
            change(history, now);
            self.writer.is_some().then(|| history.to_json(now))
        })?;
        match (&self.writer, text) {
            (Some(writer), Some(text)) => writer.write(text, until),
            _ => Ok(()),
        }
    }

    /// What was kept. A file that makes no sense is set aside, and the history begins empty: a sidecar that refused to
    /// start could not switch anything.
    fn load(&self, now: &Now) -> io::Result<History> {
        use ErrorKind::{InvalidData, IsADirectory, NotFound, PermissionDenied};
        let Some(path) = &self.path else { return Ok(History::default()) };
        let damage = match read(path) {
            Ok(text) => match History::from_json(&text, now) {
                Some((history, _)) => {
                    if history.has_strange() {
                        warn!(
                            "{}: some entries are of another version: they are kept and not read",
                            path.display()
                        );
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

/// Two servers, or a server and CGI programs, that use one folder would forget each other's changes.
fn locked(path: &Path, how: FlockOperation) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        // The folder of a server in STATE_DIR, which is there.
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(at(folder, &error)),
            _ => {}
        }
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(|error| match error.kind() {
        // To remove it could take it from a sidecar of that user.
        ErrorKind::PermissionDenied => {
            let cause = "another user made it: remove it if no sidecar of that user runs";
            at(path, &io::Error::new(error.kind(), format!("{error}: {cause}")))
        }
        _ => at(path, &error),
    })?;
    match flock(&file, how) {
        Err(Errno::WOULDBLOCK) => Err(Errno::WOULDBLOCK.into()),
        Ok(()) => Ok(file),
        Err(error) => {
            warn!(
                "{}: locking: {error}: this file system has no locks, so nothing keeps a second sidecar out of STATE_DIR",
                path.display()
            );
            Ok(file)
        }
    }
}

/// The same error, with the path.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> io::Result<String> {
    // A FIFO in its place would wait for a writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no regular file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}
