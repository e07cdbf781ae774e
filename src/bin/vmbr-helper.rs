//! The program `vmbr-helper`: see `vmbr::helper`.
fn main() -> std::process::ExitCode {
    vmbr::helper::main()
}
