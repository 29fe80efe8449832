//! `aded man`: manual pages, from the same list of flags as the help.

use std::io::{self, Write as _};

use aded::Error;
use anyhow::Result;
use clap::CommandFactory as _;
use clap_mangen::Man;

use super::argv;
use super::flags::Cli;

/// Prints the page of the program, or of the command of that name.
///
/// # Errors
/// A usage error if there is no such command.
pub(crate) fn man(names: &[String]) -> Result<()> {
    let mut command = argv::with_habits(Cli::command());
    command.build();
    let mut about = &command;
    for name in names {
        about = about
            .find_subcommand(name)
            .ok_or_else(|| Error::usage(format!("there is no command {name:?}; `aded help` lists them")))?;
    }
    // In memory first, so that a reader who leaves is no failure of the generator's.
    let mut page = Vec::new();
    Man::new(about.clone()).source(concat!("aded ", env!("CARGO_PKG_VERSION"))).render(&mut page)?;
    Ok(io::stdout().lock().write_all(&page)?)
}
