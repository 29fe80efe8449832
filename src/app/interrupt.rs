//! Ctrl-C: the first one asks the work under way to stop, the second one ends the process.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, process};

use aded::CancelFlag;
use anyhow::{Context as _, Result};

use super::failure::INTERRUPTED;
use super::output;

/// Something that looks at the flag is under way.
static IS_WATCHED: AtomicBool = AtomicBool::new(false);

/// A file that is of no use unless the process comes to its end.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The terminal's modes before a line editor changed them.
#[cfg(unix)]
static MODES: Mutex<Option<nix::sys::termios::Termios>> = Mutex::new(None);

/// Takes over Ctrl-C (and a request to terminate) and gives the flag that it raises. To be called once.
///
/// Until [`watched`] is called, and where the work does not stop, the process ends at once.
pub(crate) fn install() -> Result<CancelFlag> {
    #[cfg(target_os = "linux")]
    keep_hangup_ignored();
    let flag = CancelFlag::new();
    let raised = flag.clone();
    ctrlc::set_handler(move || {
        if !IS_WATCHED.load(Ordering::Relaxed) || raised.is_cancelled() {
            output::reset_colour();
            restore_terminal();
            if let Some(path) = UNFINISHED.lock().ok().and_then(|mut path| path.take()) {
                // Where it was not begun yet, there is none.
                let _ = fs::remove_file(path);
            }
            process::exit(INTERRUPTED.into());
        }
        raised.cancel();
    })
    .context("cannot take over Ctrl-C")?;
    Ok(flag)
}

/// Under `nohup` the end of the terminal stays without effect. The handler would take the signal over, so it is blocked, here and in
/// all threads that begin later. Which signals are ignored only Linux tells without unsafe code.
#[cfg(target_os = "linux")]
fn keep_hangup_ignored() {
    use nix::sys::signal::{SigSet, Signal};

    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if ignored & (1 << (Signal::SIGHUP as u32 - 1)) != 0 {
        let mut hangup = SigSet::empty();
        hangup.add(Signal::SIGHUP);
        // It fails for signals that there are not.
        let _ = hangup.thread_block();
    }
}

/// From now on the flag is looked at often.
pub(crate) fn watched() {
    IS_WATCHED.store(true, Ordering::Relaxed);
}

/// From now on nothing looks at the flag: an interrupt ends the process.
pub(crate) fn unwatched() {
    IS_WATCHED.store(false, Ordering::Relaxed);
}

/// Removes a file when an interrupt ends the process.
pub(crate) fn remove_then(path: PathBuf) {
    if let Ok(mut unfinished) = UNFINISHED.lock() {
        *unfinished = Some(path);
    }
}

/// Notes the terminal's modes, for a process that ends while a line is edited: the shell would find a terminal that shows no typing.
pub(crate) fn keep_terminal() {
    #[cfg(unix)]
    if let (Ok(modes), Ok(mut kept)) = (nix::sys::termios::tcgetattr(std::io::stdin()), MODES.lock()) {
        *kept = Some(modes);
    }
}

fn restore_terminal() {
    #[cfg(unix)]
    {
        use std::io::{Write as _, stdin, stdout};

        use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
        use nix::unistd::{getpgrp, tcgetpgrp};

        let Some(kept) = MODES.lock().ok().and_then(|mut kept| kept.take()) else { return };
        // Whoever changes a terminal from the background is stopped for it.
        let is_ours = tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp());
        if is_ours && tcgetattr(stdin()).is_ok_and(|modes| modes != kept) {
            let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &kept);
            // The editor had asked for marks round pasted text, and the cursor stands in its line.
            let _ = stdout().write_all(b"\x1b[?2004l\r\n").and_then(|()| stdout().flush());
        }
    }
}
