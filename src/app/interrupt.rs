//! Ctrl-C: the first one asks the work under way to stop, the second one ends the process.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use aded::CancelFlag;
use anyhow::{Context as _, Result};

use super::failure::INTERRUPTED;
use super::output;

/// Something that looks at the flag is under way.
static IS_WATCHED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C (and a request to terminate) and gives the flag that it raises. To be called once.
///
/// Until [`watched`] is called, and where the work does not stop, the process ends at once.
pub(crate) fn install() -> Result<CancelFlag> {
    let flag = CancelFlag::new();
    let raised = flag.clone();
    ctrlc::set_handler(move || {
        if !IS_WATCHED.load(Ordering::Relaxed) || raised.is_cancelled() {
            output::reset_colour();
            process::exit(INTERRUPTED.into());
        }
        raised.cancel();
    })
    .context("cannot take over Ctrl-C")?;
    Ok(flag)
}

/// From now on the flag is looked at often.
pub(crate) fn watched() {
    IS_WATCHED.store(true, Ordering::Relaxed);
}

/// From now on nothing looks at the flag: an interrupt ends the process.
pub(crate) fn unwatched() {
    IS_WATCHED.store(false, Ordering::Relaxed);
}
