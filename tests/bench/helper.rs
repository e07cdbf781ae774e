//! The helper as QEMU runs it: from fork to the descriptor in hand.
//!
//! All contestants are started by the same unprivileged process with the same
//! arguments, each with the privilege that it is installed with (inside.sh):
//! vmbr-helper and the floor by file capability, qemu-bridge-helper setuid.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::unistd::close;

use crate::lab::{Lab, Migration, Outcome, Programs, host, run, text};
use crate::report::{Key, Report};
use crate::trace;

/// Where inside.sh puts them.
pub const DIRECTORY: &str = "/run/bench/bin";
/// The file and the name in the tables.
pub const CONTESTANTS: [(&str, &str); 3] = [
    ("minimal", "system calls only"),
    ("qemu-bridge-helper", "qemu-bridge-helper"),
    ("vmbr-helper", "vmbr-helper"),
];
const OURS: &str = "vmbr-helper";
/// The unprivileged caller: nobody.
const CALLER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
/// A start takes a millisecond or two: a sample is the median of this many.
const STARTS: usize = 41;

/// Measures time, system calls, size and memory.
pub fn measure(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    let lab = prepare(programs)?;
    let case = "fork to descriptor received";
    for turn in 1..=runs {
        // The starter is this program again, without privilege.
        let medians = started()?;
        eprintln!("bench: helper: {turn}/{runs}: {medians:?}");
        for (median, (_, contestant)) in medians.into_iter().zip(CONTESTANTS) {
            let key = Key {
                part: "helper",
                case: case.into(),
                contestant,
                metric: "ms",
            };
            report.add(key, median);
        }
    }
    let key = |against| {
        (
            Key {
                part: "helper",
                case: case.into(),
                contestant: OURS,
                metric: "ms",
            },
            against,
        )
    };
    for ((key, against), reach) in [(key("qemu-bridge-helper"), 0.55), (key("system calls only"), 1.2)] {
        report.compare(key, against, reach);
    }
    for (file, contestant) in CONTESTANTS {
        let seen = trace_one(file)?;
        let key = Key {
            part: "helper",
            case: "system calls".into(),
            contestant,
            metric: "calls",
        };
        report.add(key, seen.system_calls as f64);
    }
    measure_policy(runs, report)?;
    drop(lab);
    Ok(())
}

/// One start of each contestant, in ms. The starter is this program again,
/// without privilege.
fn started() -> Outcome<Vec<f64>> {
    let own = std::env::current_exe()?;
    let output = run(host(&[&CALLER[..], &[text(&own)?, "--start-helpers"]].concat()))?;
    output.lines().map(|line| Ok(line.parse()?)).collect()
}

/// What a long ACL and a full bridge cost: acl.conf with one rule and nobody
/// there, against 1,000 rules, of which the last is the caller's, and 500
/// ports. The kernel's own part of it is what the floor takes more.
fn measure_policy(runs: usize, report: &mut Report) -> Outcome<()> {
    const ALONE: &str = "one rule, no port";
    const MANY: &str = "1,000 rules, 500 ports";
    const FLOOR: &str = "system calls only, 500 ports";
    const ACL: &str = "/etc/vmbr/acl.conf";
    let key = |contestant| Key {
        part: "helper",
        case: "fork to descriptor received, by acl.conf".into(),
        contestant,
        metric: "ms",
    };
    let others = (1..1000).map(|n| format!("allow br{} user=u{n},{n}0000 taps=3 isolated\n", n % 50));
    let rule = "allow br0 user=65534 taps=1000\n";
    fs::create_dir_all("/etc/vmbr")?;
    for (contestant, text) in [
        (ALONE, rule.to_owned()),
        (MANY, others.collect::<String>() + rule),
    ] {
        fs::write(ACL, text)?;
        if contestant == MANY {
            let lines = (0..500)
                .map(|n| format!("tuntap add dev bench{n} mode tap\nlink set bench{n} master br0 up\n"));
            fs::write("/run/bench/batch", lines.collect::<String>())?;
            run(host(&["ip", "-batch", "/run/bench/batch"]))?;
        }
        for turn in 1..=runs {
            let medians = started()?;
            eprintln!("bench: helper: {contestant}: {turn}/{runs}: {medians:?}");
            for (median, (_, who)) in medians.into_iter().zip(CONTESTANTS) {
                match (who, contestant) {
                    (OURS, _) => report.add(key(contestant), median),
                    ("system calls only", MANY) => report.add(key(FLOOR), median),
                    _ => {}
                }
            }
        }
    }
    fs::remove_file(ACL)?;
    report.compare(key(MANY), ALONE, 1.3);
    Ok(())
}

/// File size and peak memory.
pub fn measure_size(programs: &Programs, runs: usize, report: &mut Report) -> Outcome<()> {
    let lab = prepare(programs)?;
    let key = |contestant, metric| Key {
        part: "size",
        case: "of the helper".into(),
        contestant,
        metric,
    };
    for turn in 0..runs {
        for (file, contestant) in CONTESTANTS {
            if turn == 0 {
                let size = fs::metadata(Path::new(DIRECTORY).join(file))?.len();
                report.add(key(contestant, "file kB"), size as f64 / 1000.0);
            }
            report.add(key(contestant, "peak kB"), trace_one(file)?.peak_kb as f64);
        }
    }
    for metric in ["file kB", "peak kB"] {
        report.compare(key(OURS, metric), "qemu-bridge-helper", 1.0);
    }
    drop(lab);
    Ok(())
}

fn prepare(programs: &Programs) -> Outcome<Lab<'_>> {
    for (file, _) in CONTESTANTS {
        fs::metadata(Path::new(DIRECTORY).join(file)).map_err(|error| format!("{file}: {error}"))?;
    }
    let lab = Lab::new(programs, Migration::Control)?;
    run(host(&["ip", "link", "add", "br0", "type", "bridge"]))?;
    run(host(&["ip", "link", "set", "br0", "up"]))?;
    Ok(lab)
}

fn trace_one(file: &str) -> Outcome<trace::Seen> {
    let (ours, theirs) = pair()?;
    let mut line = CALLER.to_vec();
    let path = Path::new(DIRECTORY).join(file);
    let arguments = arguments(&theirs);
    line.extend(trace::STOPPED);
    line.push(text(&path)?);
    line.extend(arguments.iter().map(String::as_str));
    let seen = trace::follow(host(&line)).map_err(|failure| format!("{file}: {failure}"))?;
    drop(theirs);
    let tap = receive(&ours)?;
    // A helper that did only half would win.
    let ports = run(host(&["ip", "-o", "link", "show", "master", "br0", "up"]))?;
    if ports.lines().count() != 1 {
        return Err(format!("{file} put no TAP on br0: {ports}").into());
    }
    drop(tap);
    Ok(seen)
}

/// What `--start-helpers` does: prints one median a contestant, in ms.
pub fn start_helpers() -> Outcome<()> {
    let mut times = CONTESTANTS.map(|_| Vec::with_capacity(STARTS));
    // The first turn fills the page cache, and does not count.
    for turn in 0..=STARTS {
        for ((file, _), times) in CONTESTANTS.iter().zip(&mut times) {
            let time =
                start(&Path::new(DIRECTORY).join(file)).map_err(|failure| format!("{file}: {failure}"))?;
            if turn > 0 {
                times.push(time);
            }
        }
    }
    for times in &mut times {
        times.sort_unstable();
        println!("{:.4}", times[STARTS / 2].as_secs_f64() * 1e3);
    }
    Ok(())
}

fn start(helper: &Path) -> Outcome<Duration> {
    let (ours, theirs) = pair()?;
    let mut command = Command::new(helper);
    command.args(arguments(&theirs)).stdin(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn()?;
    // Else a helper that ends without a word would be waited for forever.
    drop(theirs);
    let tap = receive(&ours);
    let took = began.elapsed();
    let status = child.wait()?;
    let tap = tap?;
    if !status.success() {
        return Err(format!("{status} after it sent the descriptor").into());
    }
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", tap.0))?;
    if !about.contains("iff:\ttap") {
        return Err(format!("what it sent is no TAP: {about}").into());
    }
    Ok(took)
}

/// A socket pair as QEMU makes it: the helper inherits the second one.
fn pair() -> Outcome<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok((ours, theirs))
}

/// A received descriptor; the TAP is gone when it is closed.
struct Tap(RawFd);

impl Drop for Tap {
    fn drop(&mut self) {
        // Nothing could be done about a failure, and the next start would
        // show it: the port would still be there.
        let _ = close(self.0);
    }
}

fn arguments(socket: &OwnedFd) -> [String; 3] {
    [
        "--use-vnet".into(),
        format!("--fd={}", socket.as_raw_fd()),
        "--br=br0".into(),
    ]
}

fn receive(socket: &OwnedFd) -> Outcome<Tap> {
    let mut byte = [1];
    let mut room = nix::cmsg_space!(RawFd);
    let mut data = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut data,
        Some(&mut room),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(fds) = control else {
            continue;
        };
        if let [fd] = fds[..] {
            return Ok(Tap(fd));
        }
    }
    Err("no descriptor came".into())
}
