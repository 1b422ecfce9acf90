//! upcall-store
fn main() {}
