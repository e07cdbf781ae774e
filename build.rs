//! Compiles the kernel's part of MAC-NAT, by clang.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/mac_nat/mac_nat.bpf.c";
const HEADERS: [&str; 5] = ["bpf.h", "state.h", "learn.h", "ipv4.h", "ipv6.h"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    // vmbr-helper is built without it, and without clang.
    if env::var_os("CARGO_FEATURE_MAC_NAT").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo::rerun-if-changed={SOURCE}");
    for header in HEADERS {
        println!("cargo::rerun-if-changed=src/mac_nat/{header}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("cargo::error={what}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let object = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo has set no OUT_DIR")?).join("mac_nat.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let atomic = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|machine| machine == "x86_64");
    // The third version of the instructions is that of Linux 5.1, atomics that
    // answer aside. Paths of the machine that it is built on have no place in
    // the object.
    let done = Command::new(&clang)
        .args([
            "-target",
            "bpf",
            "-mcpu=v3",
            "-g",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fdebug-compilation-dir=.",
            "-c",
            SOURCE,
            "-o",
        ])
        .arg(&object)
        .args(atomic.then_some("-DVMBR_ATOMIC"))
        .status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{clang} could not compile {SOURCE} ({status})")),
        Err(error) => Err(format!(
            "MAC-NAT's programs for the kernel are compiled by clang, and running {clang} failed: {error}. \
             Install it (apt-get install clang, dnf install clang, apk add clang), say where it is by CLANG=, \
             or build without MAC-NAT: --no-default-features --features cli"
        )),
    }
}
