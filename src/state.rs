//! The file in `STATE_DIR` that holds a `Memory`, so that a restart does not forget what was done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use log::warn;

use crate::memory::{Memory, Moment};

const NAME: &str = "attempts.json";

/// Far more than `Memory` can hold; a larger file is somebody else's.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Where a memory is kept, if it is.
#[derive(Debug)]
pub struct Store {
    file: Option<PathBuf>,
}

impl Store {
    pub fn new(folder: Option<&Path>) -> Self {
        Self { file: folder.map(|folder| folder.join(NAME)) }
    }

    /// What was kept. A file that makes no sense is set aside, and nothing is remembered: a sidecar that does not
    /// start helps nobody.
    pub fn load(&self, now: Moment) -> Memory {
        let Some(file) = &self.file else { return Memory::default() };
        let damage = match read(file) {
            Ok(text) => match Memory::from_json(&text, now) {
                Some(memory) => return memory,
                None => "it is damaged".to_owned(),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => return Memory::default(),
            Err(error) => error.to_string(),
        };
        let aside = file.with_extension("damaged");
        match fs::rename(file, &aside) {
            Ok(()) => warn!(
                "{}: {damage}: set aside as {}, earlier deliveries are forgotten",
                file.display(),
                aside.display()
            ),
            Err(error) => warn!("{}: {damage}, and cannot be set aside: {error}", file.display()),
        }
        Memory::default()
    }

    /// Keeps it, whole or not at all.
    ///
    /// # Errors
    /// Why the folder does not take it.
    pub fn save(&self, memory: &Memory) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let new = file.with_extension("new");
        let written = write(&new, &memory.to_json()).and_then(|()| fs::rename(&new, file));
        if written.is_err() {
            let _ = fs::remove_file(&new); // the first error is the one that matters
        }
        written
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
