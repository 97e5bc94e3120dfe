//! The texts of the repository, for tests of the source itself.

use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Folders with other people's sources, with build output, or with data of a tool.
const SKIPPED: [&str; 3] = ["node_modules", "target", "vectors"];

/// One file of the repository.
#[derive(Debug)]
pub struct Source {
    /// The path from the root of the repository, with slashes.
    pub path: String,
    /// The content.
    pub text: String,
}

/// The files with this extension, sorted by path.
///
/// # Panics
/// When a file cannot be read.
pub fn sources(extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(Path::new(ROOT), "", extension, &mut found);
    found.sort_by(|left, right| left.path.cmp(&right.path));
    found
}

/// The file at a path from the root of the repository.
///
/// # Panics
/// When the file cannot be read.
pub fn source(path: &str) -> String {
    let file = Path::new(ROOT).join(path);
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn collect(folder: &Path, prefix: &str, extension: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("the repository is readable") {
        let entry = entry.expect("the repository is readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !name.starts_with('.') && !SKIPPED.contains(&&*name) {
            collect(&entry.path(), &format!("{path}/"), extension, found);
        } else if !is_folder && name.ends_with(&format!(".{extension}")) {
            let text = source(&path);
            found.push(Source { path, text });
        }
    }
}
