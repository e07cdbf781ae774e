//! What happened to the guests of others, told as in `stories`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/story.rs"]
mod story;

use common::{Namespace, VethEnd, veth_pair, wait_until};
use host::{Host, ping, script_in};
use story::{SILENCE, STATIC, down, tutorial, up};

const GUEST: &str = "192.0.2.50";

/// What Docker does to a host: frames of bridges pass the IP firewall, and its
/// FORWARD chain drops what is not Docker's.
fn docker(host: &Host) {
    host.ns.set_sysctl("net/bridge/bridge-nf-call-iptables", "1");
    host.sh("nft add table ip filter
         nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
         nft add rule ip filter FORWARD iifname docker0 accept
         nft add rule ip filter FORWARD oifname docker0 ct state established,related accept");
}

/// A guest on the bridge.
fn guest(host: &Host) -> Namespace {
    let guest = Namespace::new("guest");
    let end = |namespace, name| VethEnd {
        namespace,
        name,
        mac: None,
    };
    veth_pair(&end(&host.ns, "port0"), &end(&guest, "eth0"));
    host.sh("ip link set port0 master br0 up");
    script_in(
        &guest,
        &format!("ip link set eth0 up; ip addr add {GUEST}/24 dev eth0"),
    );
    guest
}

/// docker/for-linux #949 and moby #48365: Docker is installed, and the guests
/// of the bridge reach nobody but their host.
#[test]
fn docker_for_linux_949_moby_48365_guests_pass_dockers_firewall() {
    let host = Host::new("docker-script", STATIC);
    docker(&host);
    tutorial(&host);
    let own = guest(&host);
    assert!(wait_until(SILENCE, || ping(&own, "192.0.2.21")), "no guest");
    assert!(!ping(&own, "192.0.2.1"), "the script's guest passes the firewall");

    let host = Host::new("docker-vmbr", STATIC);
    docker(&host);
    let rules = || host.sh("nft list ruleset");
    let before = rules();
    let ended = host.vmbr(&["up", "eth0"]);
    // Before a guest is there to miss anything.
    assert!(ended.stderr.contains("FORWARD"), "{ended:?}");
    ended.ok();
    let own = guest(&host);
    host.vmbr(&["doctor", "--fix"]);
    assert!(wait_until(SILENCE, || ping(&own, "192.0.2.1")), "{}", rules());
    assert!(ping(&host.lan, GUEST));
    host.sh("ip link set port0 nomaster");
    down(&host);
    assert_eq!(rules(), before);

    // Docker comes when the bridge is there.
    up(&host);
    host.sh("nft flush ruleset; ip link set port0 master br0");
    assert!(wait_until(SILENCE, || ping(&own, "192.0.2.1")));
    docker(&host);
    assert!(!ping(&own, "192.0.2.1"), "the firewall lets it through");
    host.vmbr(&["doctor", "--fix"]);
    assert!(ping(&own, "192.0.2.1"), "{}", rules());
}
