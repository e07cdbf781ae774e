//! Where the programs run: as a plain program under the sanitizers, and in the
//! kernel, where BPF_PROG_TEST_RUN shows them one frame.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key as TrieKey, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::util::nr_cpus;
use vmbr::mac_nat::REASONS;

use super::cases::Program;
use super::world::*;

/// Of `struct __sk_buff`.
const CONTEXT: usize = 192;
const CONTEXT_MARK: usize = 8;
const CONTEXT_INGRESS: usize = 36;

/// What came of a frame, as far as both can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned.
    pub verdict: i32,
    /// The mark afterwards.
    pub mark: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// What the plain program can tell beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Where the frame was redirected: the device, and BPF_F_INGRESS.
    pub redirect: Option<(u32, u64)>,
    /// Where copies went: the device, BPF_F_INGRESS, the mark, the frame.
    pub clones: Vec<(u32, u64, u32, Vec<u8>)>,
}

/// What was learned, and counted, without the time of it.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    /// Whose MAC an address has, and behind which port it is.
    pub guests: BTreeMap<[u8; 16], ([u8; 8], u32)>,
    /// How often, by reason.
    pub counters: Vec<u64>,
}

/// Time stands still: no refusal of a move ever ends, and no address is too old.
const STILL: (u64, u64) = (1 << 40, 1 << 62);

/// The settings, with a second and an age in jiffies.
fn settings(chaddr: bool, (second, age): (u64, u64)) -> [u8; 48] {
    let mut mac = [0; 8];
    mac[..6].copy_from_slice(&W);
    let all = [
        &UPLINK.to_ne_bytes()[..],
        &AIR.to_ne_bytes(),
        &mac,
        &second.to_ne_bytes(),
        &age.to_ne_bytes(),
        &63_u32.to_ne_bytes(),
        &u32::from(chaddr).to_ne_bytes(),
        &7_u64.to_ne_bytes(),
    ];
    all.concat().try_into().unwrap()
}

/// `struct guest` of one to whom the gateway and the host have spoken.
fn guest(mac: [u8; 6], port: u32) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..6].copy_from_slice(&mac);
    bytes[8..12].copy_from_slice(&port.to_ne_bytes());
    if port == PORT_A {
        for peer in [GATEWAY, W] {
            let at = 32 + 8 * usize::from(peer[5] & 3);
            bytes[at..at + 6].copy_from_slice(&peer);
        }
    }
    bytes
}

/// What is known before each frame: entries of maps.
struct Known {
    guests: Vec<([u8; 16], [u8; 64])>,
    protected: Vec<([u8; 16], u32)>,
    pins: Vec<([u8; 16], [u8; 8])>,
    prefixes: Vec<(u32, [u8; 16], u32)>,
    xids: Vec<(u32, [u8; 16])>,
}

fn known() -> Known {
    let mac = |mac: [u8; 6]| -> [u8; 8] { [&mac[..], &[0, 0]].concat().try_into().unwrap() };
    let transaction = |of, port: u32| -> [u8; 16] {
        [&mac(of)[..], &port.to_ne_bytes(), &[0; 4]]
            .concat()
            .try_into()
            .unwrap()
    };
    Known {
        guests: vec![
            (key(v4(50).into()), guest(A, PORT_A)),
            (key(v6(50).into()), guest(A, PORT_A)),
            (key(v4(51).into()), guest(B, PORT_B)),
            (key(v6(51).into()), guest(B, PORT_B)),
            (key(v4(52).into()), guest(W, PORT_B)),
            (key(beyond(7).into()), guest(B, PORT_B)),
        ],
        protected: vec![
            (key(v4(1).into()), 1),
            (key(v4(21).into()), 1),
            (key(v6(1).into()), 1),
            (key(v6(21).into()), 1),
            (key(v4(255).into()), 2),
        ],
        pins: vec![(key(v4(60).into()), mac(P)), (key(v6(60).into()), mac(P))],
        prefixes: vec![
            (96 + 24, key(v4(0).into()), 1),
            (64, key(v6(0).into()), 1),
            (64, key(local(0).into()), 1),
            (96 + 24, key(elsewhere(0).into()), 2),
        ],
        xids: vec![
            (0x7777_7777, transaction(B, PORT_B)),
            (0x2121_2121, transaction(W, 0)),
        ],
    }
}

/// The name of a program in the object.
pub fn name(program: Program) -> &'static str {
    match program {
        Program::AirOut => "vmbr_air_out",
        Program::UplinkIn => "vmbr_uplink_in",
        Program::UplinkOut => "vmbr_uplink_out",
    }
}

/// The plain program.
pub struct Native {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Compiles it once, with the sanitizers.
fn compiled() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = directory.join("mac-nat");
        // Another run may be using it.
        let made = directory.join(format!("mac-nat-{}", std::process::id()));
        let done = Command::new("cc")
            .args(["-DVMBR_NATIVE", "-g", "-O1", "-Wall", "-Wextra", "-Werror"])
            .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
            .arg("-I")
            .arg(root.join("tests/mac_nat"))
            .arg("-I")
            .arg(root.join("src/mac_nat"))
            .arg("-o")
            .arg(&made)
            .arg(root.join("tests/mac_nat/native.c"))
            .status()
            .expect("running cc (apt-get install gcc)");
        assert!(done.success(), "cc could not compile tests/mac_nat/native.c");
        std::fs::rename(&made, &program).unwrap();
        program
    })
}

impl Native {
    /// Starts it.
    pub fn start() -> Self {
        let mut process = Command::new(compiled())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            input,
            output,
        }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap_or_else(|e| panic!("{line}: {e}"));
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the plain program ended at: {line}");
        answer.trim_end().to_owned()
    }

    /// Forgets everything, and knows what is known before each frame.
    pub fn reset(&mut self, chaddr: bool) {
        self.ask("clear");
        self.ask(&format!("settings {}", hex(&settings(chaddr, STILL))));
        let known = known();
        for (key, value) in known.guests {
            self.put("guests", &key, &value);
        }
        for (key, value) in known.protected {
            self.put("protected", &key, &value.to_ne_bytes());
        }
        for (key, value) in known.pins {
            self.put("pins", &key, &value);
        }
        for (length, address, value) in known.prefixes {
            let key = [&length.to_ne_bytes()[..], &address].concat();
            self.put("prefixes", &key, &value.to_ne_bytes());
        }
        for (xid, value) in known.xids {
            self.put("xids", &xid.to_be_bytes(), &value);
        }
    }

    /// Has a second and an age, in jiffies: what is known was heard at 0.
    pub fn let_time_pass(&mut self, times: (u64, u64)) {
        self.let_time_pass_with(times, false);
    }

    /// The same with the client's MAC within DHCP replaced, or not.
    pub fn let_time_pass_with(&mut self, times: (u64, u64), chaddr: bool) {
        self.ask(&format!("settings {}", hex(&settings(chaddr, times))));
    }

    /// An address is the host's no more.
    pub fn reset_protected(&mut self, address: std::net::Ipv4Addr) {
        self.ask(&format!("remove protected {}", hex(&key(address.into()))));
    }

    /// Knows no uplink any more.
    pub fn stop(&mut self) {
        let mut stopped = settings(false, STILL);
        stopped[..4].fill(0);
        self.ask(&format!("settings {}", hex(&stopped)));
    }

    /// Leaves the checksum of each frame to the hardware: it ends there. 0: no
    /// more.
    pub fn leave_checksum(&mut self, end: usize) {
        self.ask(&format!("left {end}"));
    }

    fn put(&mut self, map: &str, key: &[u8], value: &[u8]) {
        self.ask(&format!("put {map} {} {}", hex(key), hex(value)));
    }

    /// Shows it a frame.
    pub fn run(&mut self, program: Program, ingress: u32, mark: u32, frame: &[u8]) -> (Outcome, Sent) {
        read_run(&self.ask(&show(program, ingress, mark, frame)))
    }

    /// Shows it many frames, and waits for the end only.
    pub fn run_all(
        &mut self,
        program: Program,
        ingress: u32,
        mark: u32,
        frames: &[Vec<u8>],
    ) -> Vec<(Outcome, Sent)> {
        let Self { input, output, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut lines = String::new();
                for frame in frames {
                    lines.push_str(&show(program, ingress, mark, frame));
                    lines.push('\n');
                }
                // Where it ends in the middle, that is found out below.
                let _ = input.write_all(lines.as_bytes());
            });
            let read = frames.iter().map(|frame| {
                let mut answer = String::new();
                output.read_line(&mut answer).unwrap();
                assert!(!answer.is_empty(), "the plain program ended at: {}", hex(frame));
                read_run(answer.trim_end())
            });
            read.collect()
        })
    }

    fn list(&mut self, map: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let answer = self.ask(&format!("list {map}"));
        let entries = answer.split_whitespace();
        entries
            .map(|entry| {
                let (key, value) = entry.split_once('=').unwrap();
                (unhex(key), unhex(value))
            })
            .collect()
    }

    /// What it has learned and counted.
    pub fn state(&mut self) -> State {
        let guests = self.list("guests").into_iter();
        let mut counters = vec![0; REASONS.len()];
        for (key, value) in self.list("counters") {
            let reason = u32::from_ne_bytes(key.try_into().unwrap()) as usize;
            counters[reason] = u64::from_ne_bytes(value.try_into().unwrap());
        }
        State {
            guests: guests
                .map(|(key, value)| (key.try_into().unwrap(), learned(&value)))
                .collect(),
            counters,
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn show(program: Program, ingress: u32, mark: u32, frame: &[u8]) -> String {
    format!("run {} {ingress} {mark} {}", name(program), hex(frame))
}

fn read_run(answer: &str) -> (Outcome, Sent) {
    let mut words = answer.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let outcome = Outcome {
        verdict: next().parse().unwrap(),
        mark: next().parse().unwrap(),
        frame: unhex(next()),
    };
    let mut sent = Sent::default();
    while let Some(kind) = words.next() {
        let parts: Vec<&str> = words.next().unwrap().split(':').collect();
        let to = (parts[0].parse().unwrap(), parts[1].parse().unwrap());
        if kind == "redirect" {
            sent.redirect = Some(to);
        } else {
            sent.clones
                .push((to.0, to.1, parts[2].parse().unwrap(), unhex(parts[3])));
        }
    }
    (outcome, sent)
}

fn learned(value: &[u8]) -> ([u8; 8], u32) {
    (
        value[..8].try_into().unwrap(),
        u32::from_ne_bytes(value[8..12].try_into().unwrap()),
    )
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The kernel. It must run in a network namespace without devices: copies of
/// frames really go to the devices whose indices the settings say.
pub struct Kernel(Ebpf);

impl Kernel {
    /// Loads the programs.
    pub fn load() -> Self {
        Self(vmbr::mac_nat::load().unwrap_or_else(|error| panic!("{error}")))
    }

    /// As of [`Native::reset`].
    pub fn reset(&mut self, chaddr: bool) {
        let known = known();
        self.set(settings(chaddr, STILL));
        for name in [".data.gateways", ".data.probers"] {
            let mut all: Array<_, [u8; 64]> = self.0.map_mut(name).unwrap().try_into().unwrap();
            all.set(0, [0; 64], 0).unwrap();
        }
        self.fill::<[u8; 16], [u8; 64]>("guests", known.guests);
        self.fill::<[u8; 16], u32>("protected", known.protected);
        self.fill::<[u8; 16], [u8; 8]>("pins", known.pins);
        let mut all: LpmTrie<_, [u8; 16], u32> = self.0.map_mut("prefixes").unwrap().try_into().unwrap();
        for (length, address, value) in known.prefixes {
            all.insert(&TrieKey::new(length, address), value, 0).unwrap();
        }
        self.fill::<u32, [u8; 1096]>("ports", Vec::new());
        let xids = known.xids.into_iter().map(|(xid, value)| (xid.to_be(), value));
        self.fill::<u32, [u8; 16]>("xids", xids.collect());
        let mut counters: PerCpuArray<_, u64> = self.0.map_mut("counters").unwrap().try_into().unwrap();
        for reason in 0..REASONS.len() {
            let zero = vec![0; nr_cpus().unwrap()];
            counters
                .set(reason as u32, PerCpuValues::try_from(zero).unwrap(), 0)
                .unwrap();
        }
    }

    fn set(&mut self, settings: [u8; 48]) {
        let mut map: Array<_, [u8; 48]> = self.0.map_mut(".data.settings").unwrap().try_into().unwrap();
        map.set(0, settings, 0).unwrap();
    }

    /// As of [`Native::let_time_pass`].
    pub fn let_time_pass(&mut self, times: (u64, u64)) {
        self.set(settings(false, times));
    }

    fn fill<K: aya::Pod + Ord, V: aya::Pod>(&mut self, name: &str, entries: Vec<(K, V)>) {
        let mut map: HashMap<_, K, V> = self.0.map_mut(name).unwrap().try_into().unwrap();
        let old: BTreeSet<K> = map.keys().map(Result::unwrap).collect();
        for key in old {
            map.remove(&key).unwrap();
        }
        for (key, value) in entries {
            map.insert(key, value, 0).unwrap();
        }
    }

    /// Shows it a frame; none where the kernel does not take it as one.
    pub fn run(&mut self, program: Program, ingress: u32, mark: u32, frame: &[u8]) -> Option<Outcome> {
        let program: &SchedClassifier = self.0.program(name(program)).unwrap().try_into().unwrap();
        let mut context = [0; CONTEXT];
        context[CONTEXT_MARK..CONTEXT_MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        context[CONTEXT_INGRESS..CONTEXT_INGRESS + 4].copy_from_slice(&ingress.to_ne_bytes());
        let mut after = [0; CONTEXT];
        let mut out = vec![0; frame.len() + 64];
        let ran = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        });
        let ran = match ran {
            Ok(ran) => ran,
            // It must have an Ethernet header, and behind its type a whole one.
            Err(_) if frame.len() < 54 => return None,
            Err(error) => panic!("{error:?}: {}", hex(frame)),
        };
        out.truncate(ran.data_size_out as usize);
        Some(Outcome {
            verdict: ran.return_value.cast_signed(),
            mark: u32::from_ne_bytes(after[CONTEXT_MARK..CONTEXT_MARK + 4].try_into().unwrap()),
            frame: out,
        })
    }

    /// As of [`Native::state`].
    pub fn state(&self) -> State {
        let guests: HashMap<_, [u8; 16], [u8; 64]> = self.0.map("guests").unwrap().try_into().unwrap();
        let counters: PerCpuArray<_, u64> = self.0.map("counters").unwrap().try_into().unwrap();
        State {
            guests: guests
                .iter()
                .map(|entry| entry.map(|(key, value)| (key, learned(&value))).unwrap())
                .collect(),
            counters: (0..REASONS.len())
                .map(|reason| counters.get(&(reason as u32), 0).unwrap().iter().sum())
                .collect(),
        }
    }
}
