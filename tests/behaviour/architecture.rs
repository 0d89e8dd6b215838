//! The layers of `src`, the files that may do I/O, and the top of the repository.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What leads out of the program, and the files that may use it.
const IO: [(&str, &[&str]); 4] = [
    ("std::net::Tcp", &["front_end"]),
    ("std::process::Command", &["process/"]),
    (
        "std::thread",
        &["log.rs", "secret.rs", "process/", "history/writer.rs", "bmc/worker.rs", "front_end", "startup.rs"],
    ),
    (
        "std::fs",
        &[
            "process/",
            "secret.rs",
            "history/file.rs",
            "history/writer.rs",
            "bmc/definitions.rs",
            "front_end/cgi.rs",
        ],
    ),
];

#[test]
fn a_module_imports_only_from_layers_below_it() {
    let lib = read(&Path::new(ROOT).join("src/lib.rs"));
    let layers: Vec<_> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(layers.len() > 10, "{layers:?}");
    let layer = |name: &str| layers.iter().position(|layer| *layer == name);
    for file in rust_files("src") {
        let path = file.strip_prefix(Path::new(ROOT).join("src")).expect("a file of src").to_owned();
        let first = path.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let Some(own) = layer(first.trim_end_matches(".rs")) else { continue };
        for line in production(&file).lines() {
            let Some(rest) = line.trim_start().strip_prefix("use crate::") else { continue };
            let imported = rest.split([':', ';', ' ']).next().unwrap_or_default();
            let below = layer(imported).is_some_and(|other| other <= own);
            assert!(below, "{}: {line}", path.display());
        }
    }
}

#[test]
fn few_files_do_io() {
    for file in rust_files("src") {
        let name = file.strip_prefix(Path::new(ROOT).join("src")).expect("a file of src").to_string_lossy();
        // `use std::fs::{self, File};` names the module as well as a whole path does.
        let source = production(&file).replace("use std::net::{", "use std::net::Tcp{");
        for (way_out, allowed) in IO {
            let may = name == "main.rs" || allowed.iter().any(|allowed| name.starts_with(allowed));
            let is_address =
                way_out.contains("Tcp") && !source.contains("TcpStream") && !source.contains("TcpListener");
            assert!(may || is_address || !source.contains(way_out), "{name} uses {way_out}");
        }
    }
}

#[test]
fn no_file_is_longer_than_a_reader_likes() {
    for file in rust_files("src").into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let lines = production(&file).lines().count();
        assert!(lines <= 400, "{} has {lines} lines without its tests", file.display());
    }
}

#[test]
fn no_test_is_left_out() {
    // In two pieces, so that this line is not found.
    let mark = concat!("#[", "ignore");
    for file in [rust_files("src"), rust_files("tests")].concat() {
        assert!(!read(&file).contains(mark), "{}", file.display());
    }
}

#[test]
fn every_file_says_its_job_first() {
    for file in [rust_files("src"), rust_files("tests")].concat() {
        assert!(read(&file).starts_with("//! "), "{}", file.display());
    }
}

/// A file without its unit tests, which stand at its end.
fn production(file: &Path) -> String {
    read(file).split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![Path::new(ROOT).join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
