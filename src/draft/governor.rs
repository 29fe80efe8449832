//! The last guard against being slower than plain decoding: it looks at what drafting really gained.
//!
//! The budget drafts only what promises to pay. Where promises are not kept (a text unlike all before, a machine whose times jump), the
//! governor stops drafting for a while, longer each time, and looks again at negligible cost.

/// Drafting rounds over which gains are summed, roughly.
const WINDOW: f32 = 64.0;

/// Drafting rounds before a verdict.
const LEAST_ROUNDS: u32 = 24;

/// Rounds of the first pause and of the longest.
const PAUSE: (u32, u32) = (64, 4096);

/// Watches gains and pauses drafting.
#[derive(Clone, Debug)]
pub struct Governor {
    gained_ms: f32,
    n_rounds: u32,
    pause: u32,
    paused: u32,
}

impl Default for Governor {
    fn default() -> Self {
        Self { gained_ms: 0.0, n_rounds: 0, pause: PAUSE.0, paused: 0 }
    }
}

impl Governor {
    /// True if this round may draft. Counts a pause down.
    pub fn may_draft(&mut self) -> bool {
        if self.paused > 0 {
            self.paused -= 1;
        }
        self.paused == 0
    }

    /// Learns what a drafting round gained: the milliseconds that its tokens would have taken one by one, less those that it took.
    pub fn observe(&mut self, plain_ms: f32, ms: f32) {
        // One interrupted round proves nothing; count it as if it had gained or lost two plain rounds at most.
        let gain = (plain_ms - ms).max(-2.0 * plain_ms);
        self.gained_ms = self.gained_ms * (1.0 - 1.0 / WINDOW) + gain;
        self.n_rounds += 1;
        if self.n_rounds < LEAST_ROUNDS {
            return;
        }
        if self.gained_ms < 0.0 {
            self.paused = self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
            (self.gained_ms, self.n_rounds) = (0.0, 0);
        } else if self.n_rounds > 4 * LEAST_ROUNDS {
            self.pause = PAUSE.0;
        }
    }

    /// True while drafting is paused.
    pub fn is_paused(&self) -> bool {
        self.paused > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_pause_longer_each_time_and_gains_reset_that() {
        let mut governor = Governor::default();
        let mut drafted = 0;
        for _ in 0..20_000 {
            if governor.may_draft() {
                drafted += 1;
                governor.observe(1.0, 1.2);
            }
        }
        assert!(drafted < 500, "{drafted} rounds drafted at a loss");
        for _ in 0..10_000 {
            if governor.may_draft() {
                governor.observe(2.0, 1.2);
            }
        }
        assert!(!governor.is_paused());
        assert_eq!(governor.pause, PAUSE.0);
    }
}
