//! Packages from the Python Package Index. Their versions are pinned. Each build directory fetches them once.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, PoisonError};

/// The folder of these packages, for `PYTHONPATH`.
#[track_caller]
pub fn install(name: &str, requirements: &str) -> PathBuf {
    cached(name, requirements, |folder, requirements| {
        pip("install --only-binary :all: --no-compile --target", folder, requirements);
    })
}

/// The folder for these requirements. `fill` fills it if no earlier run has.
#[track_caller]
pub fn cached(name: &str, requirements: &str, fill: impl FnOnce(&Path, &Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = root.join(format!("{name}-{:016x}", hasher.finish()));
    if !folder.exists() {
        // The folder gets its final name when it is complete, since another process may do the same.
        let partial = root.join(format!("{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).expect("a folder");
        let list = root.join(format!("{name}-{}.txt", process::id()));
        fs::write(&list, requirements).expect("a file");
        fill(&partial, &list);
        fs::remove_file(list).expect("our file");
        let _ = fs::rename(&partial, &folder);
    }
    folder
}

#[track_caller]
pub fn pip(words: &str, folder: &Path, requirements: &Path) {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command.args(words.split(' ')).arg(folder).arg("--requirement").arg(requirements);
    let output = command.output().expect("python3: apt-get install --no-install-recommends python3-pip");
    assert!(
        output.status.success(),
        "pip could not fetch packages from PyPI. Check the network, then run: {command:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
