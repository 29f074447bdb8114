//! The `streampool` command.
fn main() {}
