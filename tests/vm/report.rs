//! The virtual machines that run cases and report: booting one, and reading what
//! it said (tests/vm/steps).

// Each test file compiles its own copy of this module and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the machine reported.
pub struct Report {
    steps: BTreeMap<(String, String), Step>,
}

/// One step of a case.
pub struct Step {
    pub status: i32,
    pub output: String,
}

/// Boots a machine and waits until it has switched itself off. `prepare` is
/// given the tree, its target directory and where the initial file system shall
/// be made, and adds to QEMU's arguments.
pub fn boot(
    name: &str,
    limit: Duration,
    prepare: impl FnOnce(&Path, &Path, &Path, &mut Command) -> Result<(), String>,
) -> Result<Report, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let work = target.join(format!("vm-{name}-{}", std::process::id()));
    fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let initrd = work.join("initrd");
    let mut qemu = Command::new("qemu-system-x86_64");
    // Software emulation even where there is a /dev/kvm: it opens on
    // machines whose guests then hang.
    qemu.args("-M q35 -accel tcg,thread=multi -cpu max -display none -nodefaults -no-reboot".split(' '))
        .arg("-kernel")
        .arg(target.join("guest/vmlinuz"))
        .arg("-initrd")
        .arg(&initrd);
    let made = prepare(root, &target, &initrd, &mut qemu).and_then(|()| run(&mut qemu, &work, limit));
    let _ = fs::remove_dir_all(&work);
    made
}

fn run(qemu: &mut Command, work: &Path, limit: Duration) -> Result<Report, String> {
    let (console, report) = (work.join("console"), work.join("report"));
    let mut qemu = qemu
        .args(["-serial", &format!("file:{}", console.display())])
        .args(["-serial", &format!("file:{}", report.display())])
        .stdin(Stdio::null())
        .stderr(File::create(work.join("qemu")).unwrap())
        .spawn()
        .map_err(|e| format!("qemu-system-x86_64: {e} (apt-get install qemu-system-x86)"))?;
    let end = Instant::now() + limit;
    let mut over = false;
    while !over && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        over = qemu.try_wait().unwrap().is_some();
    }
    if !over {
        let _ = qemu.kill();
        let _ = qemu.wait();
    }
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let text = read(&report);
    // A failure that no step reports is said here; it shows when a test fails.
    eprint!("{}", read(&console));
    if over && text.lines().any(|line| line == "@over") {
        return Ok(Report::parse(&text));
    }
    let last = text
        .lines()
        .rfind(|line| line.starts_with('@'))
        .unwrap_or("nothing");
    Err(format!(
        "the machine {}, its last report is {last:?}; QEMU: {}\nits console:\n{}",
        if over { "ended early" } else { "took too long" },
        read(&work.join("qemu")),
        read(&console)
    ))
}

impl Report {
    fn parse(text: &str) -> Self {
        let mut steps = BTreeMap::new();
        let mut output = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["@begin", ..] => output.clear(),
                ["@end", case, name, status, _] => {
                    let step = Step {
                        status: status.parse().unwrap(),
                        output: std::mem::take(&mut output),
                    };
                    let twice = steps.insert(((*case).to_owned(), (*name).to_owned()), step);
                    assert!(twice.is_none(), "two steps {case} {name}");
                }
                _ => {
                    output.push_str(line);
                    output.push('\n');
                }
            }
        }
        Self { steps }
    }

    /// What a step came to.
    pub fn step(&self, case: &str, name: &str) -> &Step {
        let key = (case.to_owned(), name.to_owned());
        self.steps
            .get(&key)
            .unwrap_or_else(|| panic!("{case}: no step {name}"))
    }

    /// Asserts the exit status of a step, and gives its words.
    pub fn ended(&self, case: &str, name: &str, status: i32) -> &str {
        let step = self.step(case, name);
        assert_eq!(step.status, status, "{case} {name}: {}", step.output);
        &step.output
    }

    /// Asserts that each of the steps succeeded.
    pub fn all_well(&self, case: &str, names: &[&str]) {
        for name in names {
            self.ended(case, name, 0);
        }
    }
}

/// Runs a command; where it fails, its words.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}
