//! What a server may be called. A cluster is named by the same rule (`src/config/`).

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Whether this is a name of a server or a cluster: 1 to 64 of `[A-Za-z0-9._-]`, the first a letter or digit.
///
/// Names stand in JSON, log lines, metrics' labels, headers and file names: this alphabet needs escaping in none of
/// them.
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}
