//! A flag that stops work from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag shared by whoever waits and whoever works. Clones are the same flag.
///
/// The worker looks at it between rounds, and a target that can (llama.cpp on a CPU) also inside a decode call.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the worker to stop. Safe from any thread and from a signal handler.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Takes the request back, so that the flag serves the next piece of work.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// True once [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The number of clones alive does not matter to the address: a target hands it to foreign code.
    #[cfg(feature = "llama")]
    pub(crate) fn as_atomic(&self) -> &AtomicBool {
        &self.0
    }
}
