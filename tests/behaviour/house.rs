//! The order of the house: what each file may import, what stands at the top of the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the top of the repository may hold, dotfiles aside.
const TOP: [&str; 13] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Containerfile",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "rustfmt.toml",
    "scripts",
    "src",
    "tests",
];

/// The doors to the outside world, and who may use them.
const DOORS: [(&str, &[&str]); 4] = [
    ("net", &["exec", "lanes", "server", "cgi", "main"]),
    ("process", &["exec", "lanes", "server", "cgi", "main"]),
    ("thread", &["exec", "lanes", "server", "cgi", "main"]),
    ("fs", &["exec", "lanes", "server", "cgi", "main", "secret", "ledger"]),
];

/// What of `std::net` is more than an address.
const SOCKETS: [&str; 5] = ["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs", "net::*"];

#[test]
fn a_file_imports_only_from_floors_below_it() {
    let floors = floors();
    for (floor, name) in floors.iter().enumerate() {
        let source = production(&Path::new(ROOT).join(format!("src/{name}.rs")));
        for imported in first_segments(&source, "crate") {
            let below = floors[..floor].contains(&imported);
            assert!(below, "{name}.rs imports {imported}, which does not stand below it");
        }
        assert!(!source.contains("super::super"), "{name}.rs reaches over its own floor");
    }
}

#[test]
fn every_file_of_src_is_a_floor() {
    let floors: BTreeSet<_> = floors().into_iter().collect();
    let mut files: BTreeSet<_> = rust_files("src").iter().map(|file| stem(file)).collect();
    files.remove("main");
    assert_eq!(floors, files);
}

#[test]
fn the_outside_world_has_few_doors() {
    for file in rust_files("src") {
        let (name, source) = (stem(&file), production(&file));
        for opened in first_segments(&source, "std") {
            // An address is a value like any other; a socket is a door.
            if opened == "net" && !SOCKETS.iter().any(|socket| source.contains(socket)) {
                continue;
            }
            if let Some((_, allowed)) = DOORS.iter().find(|(door, _)| *door == opened) {
                assert!(allowed.contains(&&*name), "{name}.rs names std::{opened}");
            }
        }
    }
}

#[test]
fn the_top_of_the_repository_holds_what_it_should() {
    // The checkout may be another user's, as in many containers.
    let arguments = ["-c", "safe.directory=*", "-C", ROOT, "ls-files"];
    let listing = Command::new("git").args(arguments).output().expect("git");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let listing = String::from_utf8(listing.stdout).expect("names in UTF-8");
    let top: BTreeSet<_> = listing.lines().filter_map(|file| file.split('/').next()).collect();
    let strange: Vec<_> = top.iter().filter(|name| !name.starts_with('.') && !TOP.contains(name)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn no_test_is_put_off() {
    // In two pieces, or this very line would be found.
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

#[test]
fn paths_are_found_in_every_spelling() {
    let source = "
        use std::{fs::{self, File}, io::Read};
        use std::net::TcpStream;
        fn f() { std::process::exit(1) }
        use crate::http; use crate::{auth::Keys, ipmi::{Change, Read}};
        let not_this = other_crate::secret();
    ";
    assert_eq!(first_segments(source, "std"), ["fs", "io", "net", "process"]);
    assert_eq!(first_segments(source, "crate"), ["auth", "http", "ipmi"]);
}

/// The modules in the order in which `main.rs` declares them, lowest first.
fn floors() -> Vec<String> {
    let main = read(&Path::new(ROOT).join("src/main.rs"));
    let declared = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let floors: Vec<_> = declared.map(str::to_owned).collect();
    assert!(!floors.is_empty(), "no module is declared in main.rs");
    floors
}

/// What stands behind `root::` anywhere in `source`, in groups too, sorted.
fn first_segments(source: &str, root: &str) -> Vec<String> {
    let root = format!("{root}::");
    let mut segments = BTreeSet::new();
    for (at, _) in source.match_indices(&root) {
        if source[..at].ends_with(|before: char| before.is_alphanumeric() || "_:".contains(before)) {
            continue;
        }
        let path = &source[at + root.len()..];
        match path.strip_prefix('{') {
            Some(group) => segments.extend(members(group)),
            None => segments.extend(identifier(path)),
        }
    }
    segments.into_iter().collect()
}

/// The first identifier of each member of a group whose brace is already open.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut members) = (1, 0, Vec::new());
    for (at, character) in group.char_indices() {
        depth += match character {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 || (depth == 1 && character == ',') {
            members.extend(identifier(group[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    members
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_');
    let identifier = &text[..end.unwrap_or(text.len())];
    (!identifier.is_empty()).then(|| identifier.to_owned())
}

/// A file without its comments and without its unit tests, which stand at its end.
fn production(file: &Path) -> String {
    let source = read(file);
    let code = source.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
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

fn stem(file: &Path) -> String {
    file.file_stem().expect("a name").to_string_lossy().into_owned()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
