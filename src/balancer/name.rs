//! The rule for the names of servers and clusters. Reports and the configuration are checked with it.

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Whether this is a name of a server or a cluster: 1 to 64 of `[A-Za-z0-9._-]`, the first a letter or digit.
///
/// Names appear in JSON, log lines, labels of metrics, headers and file names. These characters need no
/// escaping in any of them.
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}
