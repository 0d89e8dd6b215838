//! What the tests of the front door take from the Python Package Index.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::packages::{cached, install, pip};

/// gunicorn's source package, whose tests contain requests. pip checks the hash.
const GUNICORN: &str = include_str!("gunicorn.txt");

/// HTTP clients for Python, with their dependencies.
const CLIENTS: &str = include_str!("clients/requirements.txt");

/// The folder of gunicorn's `invalid` and `valid` requests.
#[track_caller]
pub fn gunicorn_requests() -> PathBuf {
    let folder = cached("gunicorn", GUNICORN, |folder, requirements| {
        // pip builds metadata of the package in an isolated environment. The tests do not need it.
        let words = "download --no-deps --no-binary :all: --require-hashes --dest";
        pip(words, folder, requirements);
        let package = only_file_in(folder);
        let arguments = ["--extract", "--gzip", "--strip-components=1", "--file"];
        let status = Command::new("tar").args(arguments).arg(package).arg("-C").arg(folder).status();
        assert!(status.expect("tar").success());
    });
    folder.join("tests/requests")
}

/// The folder of Python's clients, for `PYTHONPATH`.
#[track_caller]
pub fn python_clients() -> PathBuf {
    install("python-clients", CLIENTS)
}

#[track_caller]
fn only_file_in(folder: &Path) -> PathBuf {
    let files: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    let [file] = &files[..] else { panic!("not one file: {files:?}") };
    file.clone()
}
