//! The `matchtape` binary.

fn main() -> std::process::ExitCode {
    matchtape::cli::main()
}
