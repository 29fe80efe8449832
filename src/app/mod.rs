//! The program: one file for each subcommand, and what they share.

pub(crate) mod argv;
pub(crate) mod flags;

use clap::FromArgMatches;

use flags::Cli;

/// Parses a command line.
pub(crate) fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> anyhow::Result<Cli> {
    use clap::CommandFactory;
    let arguments = argv::normalise(arguments)?;
    let matches = argv::with_environment(Cli::command()).try_get_matches_from(arguments)?;
    Ok(Cli::from_arg_matches(&matches)?)
}
