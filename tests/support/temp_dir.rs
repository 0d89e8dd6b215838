//! A temporary directory, removed when it is dropped.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ipmi-sidecar-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // An earlier process with the same ID may have left it when it was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Writes a file as Kubernetes mounts a Secret: the file is a link into a folder, and a rename swaps the
    /// folder.
    pub fn mount(&self, name: &str, contents: &str) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let version = format!("..{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (folder, next) = (self.0.join(&version), self.0.join("..data_tmp"));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join(name), contents).expect("a file");
        symlink(version, &next).expect("a link");
        fs::rename(next, self.0.join("..data")).expect("a rename");
        let path = self.0.join(name);
        if path.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), &path).expect("a link");
        }
        path
    }

    /// Writes an executable shell script.
    ///
    /// Another process writes the file. If this process wrote it, a test that forks at this moment would
    /// inherit the open descriptor, and the kernel refuses to execute a file that is open for writing
    /// (`ETXTBSY`).
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

    /// The lines of a file. A missing file has no lines.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
