//! upcall-shim
fn main() {}
