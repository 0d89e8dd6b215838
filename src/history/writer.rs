//! Writes the history's file on a thread of its own, so that a disk that hangs holds up no reply.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::OFlags;

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    /// Gives the file this text. It may take as long as it likes.
    replace: fn(&Path, &str) -> io::Result<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_started: bool,
    /// Counts the texts that were given.
    given: u64,
    /// The latest text and its number. It replaces an earlier one that is not written yet: it has all of that.
    next: Option<(u64, String)>,
    /// The number of the latest text that was written, and its error.
    done: u64,
    error: Option<io::Error>,
}

impl Writer {
    pub fn new(path: PathBuf) -> Arc<Self> {
        Self::with(path, replace)
    }

    fn with(path: PathBuf, replace: fn(&Path, &str) -> io::Result<()>) -> Arc<Self> {
        Arc::new(Self { path, replace, state: Mutex::default(), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the text, whole or not at all, and waits for that until then.
    ///
    /// # Errors
    /// Why it is not written, `TimedOut` included: then it may be written later.
    pub fn write(self: &Arc<Self>, text: String, until: Instant) -> io::Result<()> {
        let mut state = self.state();
        if !state.is_started {
            let writer = self.clone();
            thread::Builder::new().name("history".to_owned()).spawn(move || writer.work())?;
            state.is_started = true;
        }
        state.given += 1;
        let number = state.given;
        state.next = Some((number, text));
        self.changed.notify_all();
        loop {
            if state.done >= number {
                return state
                    .error
                    .as_ref()
                    .map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string())));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "the disk does not answer"));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            let Some((number, text)) = state.next.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let result = (self.replace)(&self.path, &text);
            state = self.state();
            state.done = number;
            state.error = result.err();
            self.changed.notify_all();
        }
    }
}

/// Gives the file this text, whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = write_new(&new, text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new); // the first error is the one that matters
    }
    written.and_then(|()| path.parent().map_or(Ok(()), sync_folder))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // A FIFO in its place would wait for a reader.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
    let mut file = options.open(path)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    /// A disk that stands still until it is told to go on, and what was written to it.
    static DISK: Mutex<(Option<Receiver<()>>, Vec<String>)> = Mutex::new((None, Vec::new()));

    #[allow(clippy::unnecessary_wraps)] // as the real one
    fn frozen(_: &Path, text: &str) -> io::Result<()> {
        let go_on = DISK.lock().unwrap().0.take();
        if let Some(go_on) = go_on {
            go_on.recv().unwrap();
        }
        DISK.lock().unwrap().1.push(text.to_owned());
        Ok(())
    }

    #[test]
    fn a_disk_that_stands_still_is_not_waited_for_and_gets_the_latest_text_later() {
        let (thaw, frozen_until) = channel();
        DISK.lock().unwrap().0 = Some(frozen_until);
        let writer = Writer::with("/history".into(), frozen);
        for text in ["one", "two", "three"] {
            let error = writer.write(text.to_owned(), Instant::now()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{text}");
        }
        thaw.send(()).unwrap();
        writer.write("four".to_owned(), Instant::now() + LONG).unwrap();
        let written = DISK.lock().unwrap().1.clone();
        assert_eq!(written.last().map(String::as_str), Some("four"));
        assert!(written.len() <= 3, "what was replaced is not written: {written:?}");
    }

    #[test]
    fn an_error_is_told_and_the_next_text_is_tried_again() {
        let writer = Writer::new("/no/such/folder/history".into());
        for _ in 0..2 {
            let error = writer.write(String::new(), Instant::now() + LONG).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
}
