//! The library's and llama.cpp's log events, handed to the host's callback.

use std::ffi::{CString, c_char, c_void};

use tracing::Level;
use tracing::level_filters::LevelFilter;

use super::boundary::{Answer, Failure, aded_status, call};
use crate::log::{LineSink, Lines};

/// Takes a line of the log: a level from 1 (error) to 5 (trace), and the text, which is gone when the function returns. It may be called
/// from any thread, from several at once, and must not call the library.
pub type aded_log_callback = Option<unsafe extern "C" fn(level: i32, text: *const c_char, user_data: *mut c_void)>;

/// Has log lines up to `max_level` (1 errors, 2 warnings, 3 information, 4 and 5 everything) handed to `callback`, together with
/// `user_data`. Without this call nothing is logged. Once for each process: a second call is ADED_WRONG_STATE. Safe from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aded_log_set(
    callback: aded_log_callback,
    user_data: *mut c_void,
    max_level: i32,
) -> aded_status {
    call(|| {
        let callback = callback.ok_or_else(|| Failure::invalid("the callback is NULL"))?;
        install(Log { callback, user_data, max_level: level(max_level)? })
    })
}

fn level(number: i32) -> Answer<LevelFilter> {
    Ok(match number {
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        5 => LevelFilter::TRACE,
        _ => return Err(Failure::invalid(format!("the log level is {number}; give a number from 1 to 5"))),
    })
}

fn install(log: Log) -> Answer {
    tracing::subscriber::set_global_default(Lines(log))
        .map_err(|_| Failure::state("the log has a receiver already; it is set once for each process"))
}

struct Log {
    callback: unsafe extern "C" fn(i32, *const c_char, *mut c_void),
    user_data: *mut c_void,
    max_level: LevelFilter,
}

// SAFETY: the pointer is only handed back to the host, whose callback may be called from any thread, as its documentation says.
unsafe impl Send for Log {}
// SAFETY: the same.
unsafe impl Sync for Log {}

impl LineSink for Log {
    fn filter(&self, _: &str) -> LevelFilter {
        self.max_level
    }

    fn line(&self, level: Level, text: &str) {
        let number = match level {
            Level::ERROR => 1,
            Level::WARN => 2,
            Level::INFO => 3,
            Level::DEBUG => 4,
            Level::TRACE => 5,
        };
        let Ok(text) = CString::new(text.replace('\0', "")) else { return };
        // SAFETY: the text ends with a zero and lives for the call; the pointer is the one that the host gave.
        unsafe { (self.callback)(number, text.as_ptr(), self.user_data) }
    }
}
