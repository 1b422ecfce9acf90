//! upcall-enter
fn main() {}
