//! `rakit manual DIR`: writes the manual pages and the completions of the shells, made from the same text as `--help`.
//!
//! DIR is a directory like /usr/local/share, where man(1) and the shells look by themselves. `install.sh` of `rakit init` calls
//! it, and so does who makes a package. It is not in `--help`: a person calls it once, if ever.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use rakit::program::EXIT_OK;

use super::layout::shown;
use super::{Cli, Failure, NAME};

/// Flags of `rakit manual`.
#[derive(clap::Args, Debug)]
pub struct ManualFlags {
    /// Where man1, bash-completion, zsh and fish go: man/man1 and so on are made in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs `rakit manual`.
///
/// # Errors
/// A file can't be written.
pub fn run(flags: &ManualFlags) -> Result<ExitCode, Failure> {
    write(&flags.dir).map_err(|error| {
        Failure::other(format!(
            "{}: the manual can't be written: {error}; name a directory of yours",
            shown(&flags.dir)
        ))
    })?;
    Ok(ExitCode::from(EXIT_OK))
}

fn write(dir: &Path) -> io::Result<()> {
    let in_dir = |name: &str| -> io::Result<PathBuf> {
        let path = dir.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    };
    let pages = in_dir("man/man1")?;
    clap_mangen::generate_to(Cli::command(), &pages)?;
    // `rakit node` and `rakit daemon` are these programs: their pages replace those of the two words.
    for program in [rakit::node::command(), rakit::daemon::command()] {
        clap_mangen::generate_to(program, &pages)?;
    }
    for (shell, place) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/site-functions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let place = in_dir(place)?;
        for mut command in programs() {
            let name = command.get_name().to_owned();
            clap_complete::generate_to(shell, &mut command, name, &place)?;
        }
    }
    Ok(())
}

/// `rakit` with all flags of its two programs, and these alone.
fn programs() -> [Command; 3] {
    let (node, daemon) = (rakit::node::command(), rakit::daemon::command());
    let rakit = Cli::command()
        .name(NAME)
        .mut_subcommand("node", |_| node.clone().name("node"))
        .mut_subcommand("daemon", |_| daemon.clone().name("daemon"));
    [rakit, node, daemon]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_its_page_and_its_completions() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path()).expect("written");
        let read = |name: &str| {
            std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        for (page, word) in [
            ("rakit", "transfer"),
            ("rakit-init", "nodes"),
            ("rakit-node", "repair"),
            ("rakit-daemon", "measure"),
        ] {
            let text = read(&format!("man/man1/{page}.1"));
            assert!(text.contains(".TH") && text.contains(word), "{page}: {text}");
        }
        for name in [
            "bash-completion/completions/rakit.bash",
            "zsh/site-functions/_rakit",
            "fish/vendor_completions.d/rakit.fish",
        ] {
            let text = read(name);
            assert!(text.contains("init") && text.contains("measure"), "{name}");
        }
        assert!(!dir.path().join("man/man1/rakit-manual.1").exists(), "what is hidden stays hidden");
    }
}
