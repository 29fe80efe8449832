//! The program `aded`.

// The subcommands that read these flags follow one by one.
#[allow(dead_code)]
mod app;

fn main() {
    if let Err(error) = app::parse(std::env::args_os()) {
        eprintln!("{error}");
    }
}
