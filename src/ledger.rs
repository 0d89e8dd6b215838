//! The one `Memory` of this program, its clock, and its file in `STATE_DIR`, so that a restart does not forget what was
//! done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use log::{error, warn};
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;

use crate::memory::{Asked, Ending, Memory, Moment, Objection};

const NAME: &str = "attempts.json";

/// Ten keys' share of the memory, which is at most 1.6 MB for each; a larger file is somebody else's.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Locked for as long as a server uses the folder.
const LOCK: &str = "sidecar.lock";

/// What was attempted, as of now. A memory's attempts are made one at a time: the lane of changes sees to that.
#[derive(Debug)]
pub struct Ledger {
    file: Option<PathBuf>,
    /// In seconds.
    cooldown: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    clock: Clock,
    /// Read when it is first needed: by a CGI program once the lane is its own.
    memory: Option<Memory>,
    lock: Option<File>,
}

impl Ledger {
    /// Kept in this folder, or else in our own mind alone. `cooldown` is in seconds.
    pub fn new(folder: Option<&Path>, cooldown: u64) -> Self {
        let file = folder.map(|folder| folder.join(NAME));
        let kept = Kept { clock: Clock::start(), memory: None, lock: None };
        Self { file, cooldown, kept: Mutex::new(kept) }
    }

    /// Takes the folder for this process alone, recalls what was attempted before, and makes sure that more can be
    /// noted.
    ///
    /// # Errors
    /// Why the folder does not serve: `WouldBlock` while another process has it.
    pub fn open(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            self.kept().lock = Some(locked(&file.with_file_name(LOCK))?);
        }
        self.note(|_, _| ())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Memory::objection`].
    ///
    /// # Errors
    /// Why that cannot be recalled.
    pub fn objection(&self, asked: &Asked) -> io::Result<Option<Objection>> {
        self.with_memory(|memory, now| Ok(memory.objection(asked, now, self.cooldown)))
    }

    /// See [`Memory::begin`].
    ///
    /// # Errors
    /// Why it could not be noted.
    pub fn begin(&self, asked: Asked) -> io::Result<()> {
        self.with_memory(|memory, now| {
            memory.begin(asked, now);
            self.save(memory).inspect_err(|_| {
                // It will not be made. What of it is in the file already would count against others.
                memory.end(Ending::NotSent, now);
                let _ = self.save(memory);
            })
        })
    }

    /// See [`Memory::close`].
    ///
    /// # Errors
    /// Why it could not be noted.
    pub fn close(&self, asked: &Asked) -> io::Result<()> {
        self.note(|memory, _| memory.close(asked))
    }

    /// See [`Memory::end`]. That it was begun is noted already, which is the safe side.
    pub fn end(&self, ending: Ending) {
        if let Err(cause) = self.note(|memory, now| memory.end(ending, now)) {
            error!("noting how an attempt ended, as STATE_DIR says: {cause}");
        }
    }

    fn with_memory<T>(&self, of: impl FnOnce(&mut Memory, Moment) -> io::Result<T>) -> io::Result<T> {
        let Kept { clock, memory, .. } = &mut *self.kept();
        let set_by = clock.follow();
        let now = clock.now();
        let memory = match memory {
            Some(memory) => {
                memory.shift(set_by);
                memory
            }
            unread => unread.insert(self.load(now)?),
        };
        of(memory, now)
    }

    fn note(&self, change: impl FnOnce(&mut Memory, Moment)) -> io::Result<()> {
        self.with_memory(|memory, now| {
            change(memory, now);
            self.save(memory)
        })
    }

    /// What was kept. A file that makes no sense is set aside, and nothing is remembered: a sidecar that does not
    /// start helps nobody.
    fn load(&self, now: Moment) -> io::Result<Memory> {
        use ErrorKind::{InvalidData, IsADirectory, NotFound, PermissionDenied};
        let Some(file) = &self.file else { return Ok(Memory::default()) };
        let damage = match read(file) {
            Ok(text) => match Memory::from_json(&text, now) {
                Some(memory) => {
                    // Under a clock that was ahead it would be too recent again and again.
                    if memory.to_json() != text {
                        self.save(&memory)?;
                    }
                    return Ok(memory);
                }
                None => "it is damaged".to_owned(),
            },
            Err(error) => match error.kind() {
                NotFound => return Ok(Memory::default()),
                InvalidData | IsADirectory | PermissionDenied => error.to_string(),
                // It may be read the next time.
                _ => return Err(error),
            },
        };
        let aside = file.with_extension("damaged");
        fs::rename(file, &aside)?;
        let (name, aside) = (file.display(), aside.display());
        warn!("{name}: {damage}: set aside as {aside}, earlier deliveries are forgotten");
        Ok(Memory::default())
    }

    /// Keeps it, whole or not at all.
    fn save(&self, memory: &Memory) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let new = file.with_extension("new");
        let written = write(&new, &memory.to_json()).and_then(|()| fs::rename(&new, file));
        if written.is_err() {
            let _ = fs::remove_file(&new); // the first error is the one that matters
        }
        written.and_then(|()| file.parent().map_or(Ok(()), settle))
    }
}

/// The time of day at some moment, and the time since: it may be set while we run, and then we know by how much.
#[derive(Debug)]
struct Clock {
    then: Moment,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { then: since_1970.as_millis().try_into().unwrap_or(Moment::MAX), since: Instant::now() }
    }

    fn now(&self) -> Moment {
        self.then.saturating_add(self.since.elapsed().as_millis().try_into().unwrap_or(Moment::MAX))
    }

    /// Takes the time of day as it is, and gives the milliseconds by which it was set forward.
    fn follow(&mut self) -> i64 {
        let expected = self.now();
        *self = Self::start();
        i64::try_from(i128::from(self.then) - i128::from(expected)).unwrap_or_default()
    }
}

/// Whether a folder can keep it.
///
/// # Errors
/// Why not.
pub fn check_folder(folder: &Path) -> io::Result<()> {
    if !folder.metadata()?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    Ok(access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Two processes that keep it in one folder would forget each other's changes.
fn locked(path: &Path) -> io::Result<File> {
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open().or_else(|error| match error.kind() {
        // Another user's, from an earlier life of the folder, which is ours to write to.
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
    // Or a crash of the machine could leave an empty file under the right name.
    file.sync_all()
}

/// Makes the folder's names outlast a loss of power: the change that is noted may take ours.
fn settle(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
