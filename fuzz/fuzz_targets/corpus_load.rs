#![no_main]

#[path = "../checks/frame.rs"]
mod frame;
#[path = "../checks/corpus_load.rs"]
mod corpus_load;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| corpus_load::check(bytes));
