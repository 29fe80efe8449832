#![no_main]

#[path = "../checks/frame.rs"]
mod frame;
#[path = "../checks/store_load.rs"]
mod store_load;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| store_load::check(bytes));
