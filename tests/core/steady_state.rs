//! No heap allocation per round once the reused memory has grown to its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use aded::config::{Config, DraftConfig, DraftMode, SearchKind};
use aded::model::ScriptedModel;
use aded::sampling::Greedy;
use aded::{Request, Session, Token};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts this thread's allocations: tests run side by side.
struct Counting;

#[allow(unsafe_code)]
// SAFETY: every call is handed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_round_in_the_steady_state_allocates_nothing() {
    for search in [SearchKind::BestFirst, SearchKind::Mcts] {
        let draft = DraftConfig { mode: DraftMode::On, search, budget: Some(8), ..DraftConfig::default() };
        let model = ScriptedModel::new(300, 1, 12.0, 9);
        let mut session = Session::new(model, Config { draft, ..Config::default() }).expect("valid");
        let mut greedy = Greedy;
        let request = Request { prompt: &[Token(1), Token(2)], n_max: 3000, end_tokens: &[] };
        let mut generation = session.generate(&request, &mut greedy).expect("starts");
        let mut n_rounds = 0;
        let (mut before, mut after) = (0, 0);
        while generation.advance().expect("decodes").is_some() {
            n_rounds += 1;
            if n_rounds == 300 {
                before = ALLOCATIONS.get();
            }
            after = ALLOCATIONS.get();
        }
        let own = after - before;
        // The text itself, here and in the target, may double once more each.
        assert!(n_rounds > 320 && own <= 2, "{own} allocations in {} rounds with {search:?}", n_rounds - 300);
    }
}
