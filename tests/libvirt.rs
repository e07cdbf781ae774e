//! The real libvirtd, whose hook makes and removes the TAPs of its domains.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/machine.rs"]
mod machine;

use std::fs;
use std::path::Path;

use serde_json::Value;

use common::{run, wait_until};
use host::Host;
use machine::Machine;

const VMBR: &str = env!("CARGO_BIN_EXE_vmbr");
const STATIC: &str =
    "ip link set eth0 up; ip addr add 192.0.2.21/24 brd + dev eth0; ip route add default via 192.0.2.1";
const UUID: &str = "6c3f0a3e-0000-4000-8000-000000000001";

/// What libvirt's packages do when they are installed, and our hook as
/// scripts/install puts it there.
const SETUP: &str = "
    for directory in cache log; do mount -t tmpfs tmpfs /var/$directory; done
    mkdir -p /var/cache/libvirt/qemu /var/log/libvirt/qemu /var/lib/libvirt/qemu /run/guest /etc/libvirt/hooks/qemu.d /etc/libvirt/hooks/network.d
    for name in libvirt-qemu:64055 libvirt:64056; do
        grep -q ^${name%:*}: /etc/passwd || echo ${name%:*}:x:${name#*:}:${name#*:}::/nonexistent:/bin/false >>/etc/passwd
        grep -q ^${name%:*}: /etc/group || echo ${name%:*}:x:${name#*:}: >>/etc/group
    done
    ip link set lo up
    # There are machines whose KVM opens and hangs: libvirt tries it for long. And
    # one that its user may open and that is none it tries again for each domain.
    mknod /run/no-kvm c 1 3
    chmod 0 /run/no-kvm
    [ ! -e /dev/kvm ] || mount --bind /run/no-kvm /dev/kvm
    for kind in qemu network; do
        sed s:/usr/local/bin/vmbr:$VMBR: $QEMU_DIR/libvirt-hook >/etc/libvirt/hooks/$kind.d/vmbr
        chmod 755 /etc/libvirt/hooks/$kind.d/vmbr
    done
    cp $GUEST/vmlinuz $GUEST/initrd /run/guest";

/// A host on a bridge, with a libvirtd.
struct Lab {
    host: Host,
    machine: Machine,
}

impl Lab {
    fn new() -> Self {
        let lab = Self::without_bridge();
        lab.sh("$VMBR up eth0");
        lab
    }

    fn without_bridge() -> Self {
        let host = Host::new("libvirt", STATIC);
        let machine = Machine::new(&host.ns);
        let lab = Self { host, machine };
        lab.sh(SETUP);
        lab.libvirtd();
        lab
    }

    /// Runs a script, with the places of things in variables.
    fn sh(&self, script: &str) -> String {
        let target = Path::new(VMBR).ancestors().nth(2).unwrap().display();
        let source = env!("CARGO_MANIFEST_DIR");
        self.machine.sh(&format!(
            "VMBR={VMBR} GUEST={target}/guest QEMU_DIR={source}/qemu\n{script}"
        ))
    }

    fn libvirtd(&self) {
        self.sh("pidof virtlogd >/dev/null || virtlogd -d; libvirtd -d");
        self.machine.until("virsh -c qemu:///system version");
    }

    fn virsh(&self, command: &str) -> String {
        self.sh(&format!("virsh -q -c qemu:///system {command}"))
    }

    /// Gives virsh a command with a document, for what it answers.
    fn virsh_with(&self, command: &str, document: &str) -> String {
        fs::write(self.file("document.xml"), document).unwrap();
        self.virsh(&format!("{command} {}", self.file("document.xml").display()))
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.host.records().join(name)
    }

    /// The TAPs that are there.
    fn taps(&self) -> Vec<Value> {
        let listed: Value = serde_json::from_str(&self.sh("$VMBR --json tap list")).unwrap();
        listed["taps"].as_array().unwrap().clone()
    }

    /// Waits until there are so many TAPs.
    fn until_taps(&self, count: usize) {
        let there = wait_until(std::time::Duration::from_secs(60), || self.taps().len() == count);
        assert!(there, "not {count}: {:?}", self.taps());
    }

    /// Runs the hook as libvirt does: its exit status and what it wrote to
    /// both.
    fn hook(&self, arguments: &[&str], document: &str) -> common::Ended {
        let file = self.file("stdin.xml");
        fs::write(&file, document).unwrap();
        let mut command = self.machine.command("sh");
        command.args(["-c", "exec \"$@\" <\"$0\""]).arg(&file);
        run(command.args([VMBR, "hook"]).args(arguments))
    }
}

fn domain(name: &str, uuid: &str, metadata: &str, interface: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>
         <metadata><vmbr:taps xmlns:vmbr='https://github.com/vmbr/vmbr/libvirt/1'>{metadata}</vmbr:taps></metadata>
         <memory unit='MiB'>192</memory><vcpu>2</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type>
           <kernel>/run/guest/vmlinuz</kernel><initrd>/run/guest/initrd</initrd>
           <cmdline>console=ttyS0 quiet vmbr.addr=192.0.2.50/24</cmdline></os>
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{interface}
           <serial type='pty'/><memballoon model='none'/></devices></domain>"
    )
}

fn interface(dev: &str, mac: &str) -> String {
    format!(
        "<interface type='ethernet'><mac address='{mac}'/><target dev='{dev}' managed='no'/>
         <model type='virtio'/><driver queues='2'/></interface>"
    )
}

/// A guest of libvirt's: started, pinged, paused, resumed, ended in each way.
#[test]
fn a_domain_gets_its_tap_and_loses_it() {
    let lab = Lab::new();
    let text = domain(
        "web",
        UUID,
        "<vmbr:tap bridge='br0' guard='mac' isolated='yes'/>",
        &interface("web0", "52:54:00:00:00:50"),
    );
    lab.virsh_with("define", &text);
    assert_eq!(lab.taps(), Vec::<Value>::new());
    lab.virsh("start web");
    let taps = lab.taps();
    let [tap] = taps.as_slice() else {
        panic!("one TAP: {taps:?}")
    };
    for (key, value) in [
        ("name", Value::from("web0")),
        ("bridge", "br0".into()),
        ("owner", 64055.into()),
        ("queues", 2.into()),
        ("isolated", true.into()),
        ("in_use", true.into()),
    ] {
        assert_eq!(tap[key], value, "{key}: {tap}");
    }
    assert_eq!(tap["guard"]["mac"], "52:54:00:00:00:50", "{tap}");

    let ping = |count: u32| {
        let mut ping = lab.host.lan.command("ping");
        run(ping.args([
            "-q",
            "-c",
            &count.to_string(),
            "-i",
            "0.2",
            "-w",
            "1",
            "192.0.2.50",
        ]))
        .status
        .success()
    };
    let patience = std::time::Duration::from_secs(60);
    assert!(wait_until(patience, || ping(1)), "the guest does not answer");
    lab.virsh("suspend web");
    assert!(!ping(2), "a guest that is paused answers");
    lab.virsh("resume web");
    assert!(
        wait_until(patience, || ping(1)),
        "the guest does not answer any more"
    );

    // libvirtd is started anew beside the guest, which goes on.
    lab.sh("kill -9 $(pidof libvirtd); while pidof libvirtd >/dev/null; do sleep 0.05; done; rm -f /run/libvirtd.pid");
    lab.libvirtd();
    lab.machine
        .until("virsh -q -c qemu:///system domstate web | grep -q running");
    assert!(ping(3), "the guest was harmed");
    lab.virsh("destroy web");
    lab.until_taps(0);

    // QEMU dies.
    lab.virsh("start web");
    lab.until_taps(1);
    lab.sh("kill -9 $(pidof qemu-system-x86_64)");
    lab.until_taps(0);

    // QEMU and libvirtd die together; the next start finds what is left.
    lab.virsh("start web");
    lab.sh("kill -9 $(pidof libvirtd) $(pidof qemu-system-x86_64); while pidof libvirtd >/dev/null; do sleep 0.05; done; rm -f /run/libvirtd.pid");
    lab.until_taps(1);
    lab.libvirtd();
    lab.virsh("start web 2>/dev/null || virsh -q -c qemu:///system domstate web | grep -q running");
    lab.until_taps(1);
    assert_eq!(lab.taps()[0]["in_use"], true);
    lab.virsh("destroy web");
    lab.until_taps(0);
    lab.sh("$VMBR down");
}

/// Twenty at once, none of which disturbs another.
#[test]
fn twenty_domains_start_at_once() {
    let lab = Lab::new();
    for number in 0..20 {
        let text = domain(
            &format!("many{number}"),
            &format!("6c3f0a3e-0000-4000-8000-0000000001{number:02}"),
            "",
            &interface(&format!("many{number}"), &format!("52:54:00:00:01:{number:02x}")),
        );
        // They are many, and what they would run is of no interest.
        fs::write(
            lab.file(&format!("many{number}.xml")),
            text.replace("192</memory>", "16</memory>"),
        )
        .unwrap();
    }
    let files = lab.host.records().display().to_string();
    lab.sh(&format!(
        "for n in $(seq 0 19); do
             virsh -q -c qemu:///system create --paused {files}/many$n.xml >{files}/said$n 2>&1 &
         done; wait; cat {files}/said* >&2"
    ));
    let taps = lab.taps();
    assert_eq!(taps.len(), 20, "{taps:?}");
    for tap in &taps {
        assert_eq!(
            (&tap["bridge"], &tap["in_use"]),
            (&"br0".into(), &true.into()),
            "{tap}"
        );
    }
    lab.sh("for n in $(seq 0 19); do virsh -q -c qemu:///system destroy many$n & done; wait");
    lab.until_taps(0);
}

/// What libvirt calls the hook with, and the answers that matter to it.
#[test]
fn the_hook_answers_as_libvirt_needs_it() {
    let lab = Lab::new();
    let one = domain(
        "web",
        UUID,
        "<vmbr:tap bridge='br0'/>",
        &interface("web0", "52:54:00:00:00:50"),
    );
    let prepare = ["qemu", "web", "prepare", "begin", "-"];
    let release = ["qemu", "web", "release", "end", "stopped"];
    // Again and again: it stands.
    for _ in 0..2 {
        let ended = lab.hook(&prepare, &one);
        assert_eq!((ended.code(), ended.stdout.as_str()), (0, ""), "{ended:?}");
        assert_eq!(lab.taps().len(), 1);
    }
    let index = lab.taps()[0]["ifindex"].clone();
    // The domain was changed while it was not running.
    let isolated = one.replace("bridge='br0'/>", "isolated='yes'/>");
    lab.hook(&prepare, &isolated).ok();
    assert_eq!(lab.taps()[0]["isolated"], true);
    assert_ne!(lab.taps()[0]["ifindex"], index);
    // Another domain wants the same TAP.
    let other = one.replace(UUID, "6c3f0a3e-0000-4000-8000-000000000002");
    let refused = lab.hook(&["qemu", "other", "prepare", "begin", "-"], &other);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("another domain's"), "{refused:?}");
    lab.hook(&["qemu", "other", "release", "end", "failed"], &other)
        .ok();
    assert_eq!(lab.taps().len(), 1, "it is not the other domain's to remove");
    for _ in 0..2 {
        lab.hook(&release, &one).ok();
        assert_eq!(lab.taps(), Vec::<Value>::new());
    }

    // What others made is theirs, and of use only if it is what is asked for.
    lab.sh("ip tuntap add dev web0 mode tap; ip link set web0 master br0 up");
    let refused = lab.hook(&prepare, &one);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("its owner is none"), "{refused:?}");
    lab.hook(&release, &one).ok();
    assert_eq!(lab.taps().len(), 1);
    lab.sh("ip link del dev web0; ip link add web0 type bridge");
    let refused = lab.hook(&prepare, &one);
    assert!(
        refused.code() == 3 && refused.stderr.contains("no TAP"),
        "{refused:?}"
    );
    lab.sh("ip link del dev web0; $VMBR tap add web0 --bridge br0 --owner 64055 --queues 2");
    lab.hook(&prepare, &one).ok();
    let refused = lab.hook(&prepare, &isolated);
    assert!(
        refused.code() == 3 && refused.stderr.contains("not isolated"),
        "{refused:?}"
    );
    lab.hook(&release, &one).ok();
    assert_eq!(lab.taps().len(), 1);
    lab.sh("$VMBR tap del web0");

    // One of two cannot be: none is made.
    let two = domain(
        "web",
        UUID,
        "<vmbr:tap dev='web0' bridge='br0'/><vmbr:tap dev='web1' bridge='nowhere'/>",
        &[
            interface("web0", "52:54:00:00:00:50"),
            interface("web1", "52:54:00:00:00:51"),
        ]
        .concat(),
    );
    let refused = lab.hook(&prepare, &two);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("nowhere"), "{refused:?}");
    assert_eq!(lab.taps(), Vec::<Value>::new());

    // A failure of these would kill a running guest, or be nobody's.
    for (operation, suboperation) in [
        ("reconnect", "begin"),
        ("start", "begin"),
        ("started", "begin"),
        ("stopped", "end"),
        ("migrate", "begin"),
        ("restore", "begin"),
        ("something", "new"),
    ] {
        for document in [two.as_str(), "", "<domain", "\u{0}\u{1}"] {
            let ended = lab.hook(&["qemu", "-x", operation, suboperation, "-"], document);
            assert_eq!(
                (ended.code(), ended.stdout.as_str()),
                (0, ""),
                "{operation} {suboperation}: {ended:?}"
            );
        }
    }
    assert_eq!(lab.taps(), Vec::<Value>::new());
    // The domain itself does not start without what it asks for, and says why.
    let refused = lab.hook(&prepare, &one.replace("bridge='br0'", "brigde='br0'"));
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(
        refused.stderr.contains("brigde") && refused.stderr.contains("virsh dumpxml web"),
        "{refused:?}"
    );
}

/// libvirt's network on a bridge that is not there yet.
#[test]
fn a_network_waits_for_its_bridge() {
    let lab = Lab::without_bridge();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/network.xml")).unwrap();
    lab.virsh_with("net-define", &text);
    let said = lab.sh("virsh -c qemu:///system net-start lan 2>&1 && exit 1 || true");
    assert!(
        said.contains("there is no such bridge") && said.contains("vmbr up --bridge br0"),
        "{said}"
    );
    lab.sh("$VMBR up eth0");
    lab.virsh("net-start lan");
    assert!(lab.virsh("net-list").contains("lan"));
}

/// The example is a domain that libvirt takes; its TAP is made as it says.
#[test]
fn the_example_is_a_domain() {
    let lab = Lab::new();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/domain.xml")).unwrap();
    // Under KVM it would run anywhere but where there is none.
    let text = text
        .replace("type='kvm'", "type='qemu'")
        .replace("<memory unit='GiB'>1<", "<memory unit='MiB'>32<");
    lab.virsh_with("create --paused", &text);
    let taps = lab.taps();
    assert_eq!(taps.len(), 1, "{taps:?}");
    assert_eq!(
        (
            &taps[0]["name"],
            &taps[0]["bridge"],
            &taps[0]["queues"],
            &taps[0]["guard"]["mac"]
        ),
        (
            &"web0".into(),
            &"br0".into(),
            &2.into(),
            &"52:54:00:12:34:56".into()
        ),
        "{taps:?}"
    );
    lab.virsh("destroy web");
    lab.until_taps(0);
}

/// Every piece of XML in libvirt's own description of domains, as a domain
/// that is about to start: none is misunderstood, and only what asks for a TAP
/// gets one.
#[test]
fn libvirts_own_examples_are_understood() {
    let lab = Lab::new();
    let pages = lab.sh("cat /usr/share/doc/libvirt-doc/html/formatdomain.html");
    let pieces: Vec<String> = pages
        .split("<pre class=\"literal-block\">")
        .skip(1)
        .filter_map(|rest| rest.split("</pre>").next())
        .map(|text| {
            text.replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&amp;", "&")
        })
        .collect();
    assert!(pieces.len() > 100, "{} examples", pieces.len());
    let mut asked = 0;
    for piece in pieces {
        // They leave out what is around them, and some have "..." for it.
        let text = piece.replace("...", "");
        let whole = match text.trim_start() {
            start if start.starts_with("<domain ") || start.starts_with("<domain>") => text,
            start if start.starts_with("<devices") => format!("<domain>{text}</domain>"),
            _ => format!("<domain><devices>{text}</devices></domain>"),
        };
        let ended = lab.hook(&["qemu", "doc", "prepare", "begin", "-"], &whole);
        let unmanaged = whole.contains("type='ethernet'") && whole.contains("managed='no'");
        match ended.code() {
            0 => {}
            // Some are no XML on their own.
            3 => assert!(ended.stderr.contains("cannot be read"), "{whole}\n{ended:?}"),
            _ => panic!("{whole}\n{ended:?}"),
        }
        assert_eq!(ended.stdout, "");
        assert_eq!(!lab.taps().is_empty(), unmanaged, "{whole}\n{ended:?}");
        asked += usize::from(unmanaged);
        lab.hook(&["qemu", "doc", "release", "end", "-"], &whole);
    }
    assert!(asked > 0, "no example asks for a TAP");
    assert_eq!(lab.taps(), Vec::<Value>::new());
}
