//! A directory that goes when its owner goes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ipmi-sidecar-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Left by an earlier process of the same number that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Gives a file as Kubernetes mounts a Secret: through a link to a folder, which is swapped by a rename.
    pub fn mount(&self, name: &str, contents: &str) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let version = format!("..{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (folder, next) = (self.0.join(&version), self.0.join("..data_tmp"));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join(name), contents).expect("a file");
        symlink(version, &next).expect("a link");
        fs::rename(next, self.0.join("..data")).expect("a swap");
        let path = self.0.join(name);
        if path.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), &path).expect("a link");
        }
        path
    }

    /// Writes a shell script that can be run at once.
    ///
    /// Another process does the writing: a test that forks in this moment would inherit our
    /// descriptor, and a file that is open for writing cannot be run (`ETXTBSY`).
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("install, of coreutils");
        let mut stdin = install.stdin.take().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("a whole script");
        drop(stdin);
        assert!(install.wait().expect("install").success());
        path
    }

    /// The lines of a file that may not be there yet.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
