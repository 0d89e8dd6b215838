//! The one `Memory` of this program, its clock, and its file in `STATE_DIR`, so that a restart does not forget what was
//! done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{error, warn};

use crate::memory::{Asked, Ending, Memory, Moment, Objection};

const NAME: &str = "attempts.json";

/// Far more than `Memory` can hold; a larger file is somebody else's.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What was attempted, as of now. A memory's attempts are made one at a time: the lane of changes sees to that.
#[derive(Debug)]
pub struct Ledger {
    file: Option<PathBuf>,
    /// In seconds.
    cooldown: u64,
    clock: Clock,
    /// Read when it is first needed: by a CGI program once the lane is its own.
    memory: Mutex<Option<Memory>>,
}

impl Ledger {
    /// Kept in this folder, or else in our own mind alone. `cooldown` is in seconds.
    pub fn new(folder: Option<&Path>, cooldown: u64) -> Self {
        let file = folder.map(|folder| folder.join(NAME));
        Self { file, cooldown, clock: Clock::start(), memory: Mutex::default() }
    }

    /// Recalls what was attempted before, and makes sure that more can be noted.
    ///
    /// # Errors
    /// Why the folder does not serve.
    pub fn open(&self) -> io::Result<()> {
        self.note(|_, _| ())
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
        self.note(|memory, now| memory.begin(asked, now)).inspect_err(|_| {
            // It will not be made.
            let _ = self.with_memory(|memory, now| {
                memory.end(Ending::NotSent, now);
                Ok(())
            });
        })
    }

    /// See [`Memory::end`]. That it was begun is noted already, which is the safe side.
    pub fn end(&self, ending: Ending) {
        if let Err(cause) = self.note(|memory, now| memory.end(ending, now)) {
            error!("noting how an attempt ended, as STATE_DIR says: {cause}");
        }
    }

    fn with_memory<T>(&self, of: impl FnOnce(&mut Memory, Moment) -> io::Result<T>) -> io::Result<T> {
        let now = self.clock.now();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = match &mut *memory {
            Some(memory) => memory,
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

/// The time of day at the start, and the time since: so that it never jumps while we run.
#[derive(Debug)]
struct Clock {
    since_1970: Duration,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { since_1970, started: Instant::now() }
    }

    fn now(&self) -> Moment {
        let now = self.since_1970 + self.started.elapsed();
        now.as_millis().try_into().unwrap_or(Moment::MAX)
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
