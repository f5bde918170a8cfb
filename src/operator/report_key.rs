//! `rakit report-key`: prints what the secret file of a machine holds that may only report (docs/security.md): the key for
//! reports, derived from the cluster's secret; while the secret is being changed, both of them.

use std::process::ExitCode;

use rakit::program::EXIT_OK;
use rakit::signing::Secret;

use super::leader::ClusterFlag;
use super::screen::say;
use super::{Failure, load_config};

/// Flags of `rakit report-key`.
#[derive(clap::Args, Debug)]
pub struct ReportKeyFlags {
    #[command(flatten)]
    cluster: ClusterFlag,
}

/// Runs `rakit report-key`.
///
/// # Errors
/// The configuration is a bad one, has no secret, or the file holds the report key alone.
pub fn run(flags: &ReportKeyFlags) -> Result<ExitCode, Failure> {
    let config = load_config(&flags.cluster.config)?;
    let wrong = |why: &str| Failure::usage(format!("{}: secret_file: {why}", config.path.display()));
    let content = config.secret.as_deref().ok_or_else(|| wrong("there is none, so reports need no key"))?;
    let secret = Secret::parse(content).map_err(|error| wrong(&error))?;
    let lines = secret.report_key_lines(&config.cluster_name);
    let lines = lines.ok_or_else(|| wrong("the file holds the report key alone: copy it as it is"))?;
    lines.iter().for_each(|line| say(line));
    Ok(ExitCode::from(EXIT_OK))
}
