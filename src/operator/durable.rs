//! Replacing a small file whole: a reader sees the old text or the new, never half of one.
//!
//! For `cluster.toml` and `pids.json`, by `rakit up`. The rename is what makes it atomic (man 2 rename).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Writes `content` beside `path` and renames it there.
///
/// # Errors
/// What the file system says; `path` is then as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_text_takes_the_place_of_the_old_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("pids.json");
        replace(&path, b"a longer first text").expect("written");
        replace(&path, b"short").expect("replaced");
        assert_eq!(fs::read(&path).expect("it is there"), b"short");
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1);
    }
}
