//! The program `vmbr`: see `vmbr::cli`.
fn main() -> std::process::ExitCode {
    vmbr::cli::main()
}
