#![no_main]

#[path = "../checks/draft_verify.rs"]
mod draft_verify;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| draft_verify::check(bytes));
