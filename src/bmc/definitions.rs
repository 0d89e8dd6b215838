//! The definitions of a BMC's sensors, kept in its folder of `STATE_DIR`. With them `ipmitool` asks for the values alone,
//! which real BMCs answer three to six times faster.
//!
//! `ipmitool` checks nothing of such a file: half a one gives half a list, and that of another BMC gives wrong names and
//! wrong values. So a file counts only if a second one beside it says that it belongs to this BMC as it is now.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;

use crate::timing::{DEFINITIONS_AGAIN, DEFINITIONS_KEPT};

/// As `ipmitool` writes and reads it.
const FILE: &str = "sensors.sdr";

/// What the BMC said of itself when it gave them. It is written last and removed first.
const IDENTITY: &str = "sensors.bmc";

/// Bytes of a file that is read. IPMI gives a repository 64 KiB (IPMI 2.0, 33.9), and some BMCs have more.
const MAX_FILE: u64 = 1024 * 1024;

/// Bytes of a record's head: id, version, type, length.
const HEAD: usize = 5;

/// The type of the records that `sdr elist full` shows (IPMI 2.0, 43.1).
const FULL: u8 = 1;

/// The files in one folder.
#[derive(Debug)]
pub(super) struct Definitions<'a> {
    folder: &'a Path,
}

/// How many records a file has, and how many of them are rows of the list.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    records: usize,
    rows: usize,
}

impl<'a> Definitions<'a> {
    pub const fn new(folder: &'a Path) -> Self {
        Self { folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// An empty file, in which `ipmitool` writes new ones. `None` if another was made a moment ago: that try failed, or
    /// goes on.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn draft(&self, now: SystemTime) -> io::Result<Option<PathBuf>> {
        let path = self.file().with_extension("new");
        if let Ok(other) = fs::symlink_metadata(&path)
            && other.is_file()
            && now.duration_since(other.modified()?).is_ok_and(|age| age < DEFINITIONS_AGAIN)
        {
            return Ok(None);
        }
        remove(&path)?; // ipmitool does not write into a link
        File::create_new(&path)?;
        Ok(Some(path))
    }

    /// The rows that the kept file gives, if it is of this BMC as it is now, whole, and not too old.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn rows(&self, identity: &str, records: usize, now: SystemTime) -> io::Result<Option<usize>> {
        let (kept, bytes) = (read(&self.folder.join(IDENTITY))?, read(&self.file())?);
        let (Some((kept, made)), Some((bytes, _))) = (kept, bytes) else { return Ok(None) };
        // A time in the future is of a clock that was set since.
        let is_young = now.duration_since(made).is_ok_and(|age| age < DEFINITIONS_KEPT);
        let count = count(&bytes).filter(|count| count.records == records);
        Ok(count.filter(|_| is_young && kept == identity.as_bytes()).map(|count| count.rows))
    }

    /// Keeps what `ipmitool` has written, if it is whole. Gives the rows.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub fn keep(&self, identity: &str, records: usize) -> io::Result<Option<usize>> {
        let draft = self.file().with_extension("new");
        let whole =
            read(&draft)?.and_then(|(bytes, _)| count(&bytes)).filter(|count| count.records == records);
        let Some(count) = whole else { return Ok(None) };
        self.forget()?;
        fs::rename(&draft, self.file())?;
        // A crash in between leaves no identity, or half a one, and the definitions are read anew.
        fs::write(self.folder.join(IDENTITY), identity)?;
        Ok(Some(count.rows))
    }

    /// The next list reads them anew.
    ///
    /// # Errors
    /// Why they cannot be removed.
    pub fn forget(&self) -> io::Result<()> {
        remove(&self.folder.join(IDENTITY))
    }
}

/// `None` if a record is cut off or is none.
fn count(mut bytes: &[u8]) -> Option<Count> {
    let mut count = Count { records: 0, rows: 0 };
    while !bytes.is_empty() {
        let head = bytes.get(..HEAD)?;
        let (kind, length) = (head[3], usize::from(head[4]));
        bytes = bytes.get(HEAD + length..).filter(|_| length > 0)?;
        count.records += 1;
        count.rows += usize::from(kind == FULL);
    }
    Some(count)
}

/// The bytes of a file and when it was written. `None` if there is none, or no regular one, or it is too large.
fn read(path: &Path) -> io::Result<Option<(Vec<u8>, SystemTime)>> {
    // A FIFO in its place would wait for a writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file: File = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(Some((bytes, metadata.modified()?)))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Two full records, and one of another type.
    const THREE: &[u8] = b"\x01\x00\x51\x01\x03abc\x02\x00\x51\x02\x01x\x03\x00\x51\x01\x02xy";

    #[test]
    fn a_file_has_as_many_rows_as_full_records_and_is_none_when_it_is_cut_off() {
        assert_eq!(count(THREE), Some(Count { records: 3, rows: 2 }));
        assert_eq!(count(b""), Some(Count { records: 0, rows: 0 }));
        for length in 1..THREE.len() {
            let whole = [8, 14].contains(&length);
            assert_eq!(count(&THREE[..length]).is_some(), whole, "{length}");
        }
        assert_eq!(
            count(b"\x01\x00\x51\x01\x00"),
            None,
            "ipmitool skips it, and goes on in the middle of another"
        );
        assert_eq!(count(b"junk, and no record"), None);
    }

    #[test]
    fn definitions_count_for_a_day_and_for_the_bmc_that_gave_them() {
        let folder = std::env::temp_dir().join(format!("ipmi-sidecar-definitions-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let definitions = Definitions::new(&folder);
        let now = SystemTime::now();
        assert_eq!(definitions.rows("a", 3, now).unwrap(), None, "there are none");
        let draft = definitions.draft(now).unwrap().unwrap();
        fs::write(&draft, THREE).unwrap();
        assert_eq!(definitions.keep("a", 4).unwrap(), None, "a record is missing");
        let now = SystemTime::now();
        for (now, is_tried) in [
            (now, false),
            (now + DEFINITIONS_AGAIN - Duration::from_secs(1), false),
            (now + DEFINITIONS_AGAIN, true),
            (now - Duration::from_secs(60), true),
        ] {
            assert_eq!(definitions.draft(now).unwrap().is_some(), is_tried, "{now:?}");
        }
        OpenOptions::new().write(true).open(&draft).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert_eq!(definitions.keep("a", 3).unwrap(), None, "it is too large");
        assert_eq!(definitions.draft(SystemTime::now()).unwrap(), None, "and is not made again at once");
        fs::write(&draft, THREE).unwrap();
        assert_eq!(definitions.keep("a", 3).unwrap(), Some(2));
        assert!(!draft.exists());
        let (now, day) = (SystemTime::now(), DEFINITIONS_KEPT);
        for (identity, records, now, rows) in [
            ("a", 3, now, Some(2)),
            ("b", 3, now, None),
            ("a", 4, now, None),
            ("a", 3, now + day - Duration::from_secs(1), Some(2)),
            ("a", 3, now + day, None),
            ("a", 3, now - Duration::from_secs(60), None),
        ] {
            assert_eq!(
                definitions.rows(identity, records, now).unwrap(),
                rows,
                "{identity} {records} {now:?}"
            );
        }
        fs::write(definitions.file(), &THREE[..9]).unwrap();
        assert_eq!(definitions.rows("a", 3, now).unwrap(), None, "it is cut off");
        definitions.forget().unwrap();
        definitions.forget().unwrap();
        assert_eq!(definitions.rows("a", 3, now).unwrap(), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
