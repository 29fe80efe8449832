//! The program `aded`: parse, dispatch, exit code.

mod app;
#[cfg(feature = "server")]
mod server;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _};

use app::flags::{Cli, Command};
use app::{argv, bench, chat, doctor, failure, inspect, learn, man, memory, models, quantize, replay, run, version};

fn main() -> ExitCode {
    match parse(env::args_os()).and_then(|cli| dispatch(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

/// The command line as clap understands it; llama.cpp's names and environment stand in.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli> {
    let matches = argv::matches(Cli::command(), argv::normalise(arguments)?)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

fn dispatch(cli: &Cli) -> Result<()> {
    if cli.version {
        io::stdout().lock().write_all(version::text().as_bytes())?;
        return Ok(());
    }
    match &cli.command {
        Some(Command::Run(args)) => run::run(args),
        #[cfg(feature = "server")]
        Some(Command::Serve(args)) => server::serve(args),
        Some(Command::Chat(args)) => chat::chat(args),
        Some(Command::Bench(args)) => bench::bench(args),
        Some(Command::Replay(args)) => replay::replay(args),
        Some(Command::Inspect(args)) => inspect::inspect(args),
        Some(Command::Learn(args)) => learn::learn(args),
        Some(Command::Quantize(args)) => quantize::quantize(args),
        Some(Command::Memory(command)) => memory::memory(command),
        Some(Command::Models(args)) => models::models(args),
        Some(Command::Doctor(args)) => doctor::doctor(args),
        Some(Command::Completions { shell }) => {
            // In memory first: the generator panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "aded", &mut script);
            io::stdout().lock().write_all(&script)?;
            Ok(())
        }
        Some(Command::Man { names }) => man::man(names),
        None => Err(Cli::command().error(clap::error::ErrorKind::MissingSubcommand, "give a subcommand").into()),
    }
}
