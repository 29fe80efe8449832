//! The program `aded`.
fn main() {}
