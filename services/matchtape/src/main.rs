//! The `matchtape` binary.

fn main() {}
