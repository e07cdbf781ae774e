//! From a [`Guard`] to the program that says which frames may pass.
//!
//! With addresses given, a frame passes if all of this is so:
//!
//! - Its source is the guest's MAC, and it has no VLAN tag, not even one of
//!   priority alone.
//! - It is IPv4, IPv6, ARP, or the RARP announcement that QEMU sends for a
//!   guest that has moved. A family none of whose addresses is given is shut.
//! - **ARP**: a request or reply of Ethernet and IPv4, the sender's MAC that
//!   of the guest, the sender's address a given one, or 0.0.0.0 in a request
//!   for a given one (RFC 5227, a probe).
//! - **IPv4**: the source is a given one, or 0.0.0.0 in a DHCP request to
//!   everyone. Nothing that a DHCP client could take for its server's answer,
//!   by whatever port it is sent, no redirect.
//! - **IPv6**: the source is a given one or the guest's link-local address, or
//!   `::` in what may have it: the question whether an address is taken, a
//!   router solicitation, a multicast report. Nothing that a DHCPv6 client
//!   could take for an answer, no router advertisement, no redirect. An advertised address, and one that is
//!   asked for by `::`, must be the guest's; every link-layer address that is
//!   told must be the guest's MAC; neighbour discovery has the options that it
//!   needs (1, 2, 14) and no others, and is never fragmented (RFC 6980).
//!
//! **Headers cannot hide.** Extension headers are walked, four of them; a
//! header that is not known is the end, but for those in which another could
//! stand. The first fragment must hold what is looked at, within the packet
//! and not in the frame's padding (RFC 7112); later fragments cannot replace
//! it (RFC 5722, and 8 bytes being the unit of IPv4's).
//!
//! **The link-local address** is the one made of the MAC, unless others are
//! given: whoever may take any can take the router's. A guest that makes its
//! own (NetworkManager's `stable-privacy`, Windows) is given that address, or
//! `fe80::/64` where its neighbours are trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use macaddr::MacAddr6;

use super::assembler::{Assembler, At, Instruction, Label, Size};
use super::{Guard, Network};

/// `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT` of include/uapi/linux/filter.h: the
/// kernel has taken the tag out of the frame.
pub const VLAN_TAG_PRESENT: u32 = (-0x1000_i32 + 48).cast_unsigned();

/// "This frame is the filter's": it passes (net/sched/cls_bpf.c).
const PASS: u32 = u32::MAX;
/// "It is not": the next filter is asked.
const NO: u32 = 0;

const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const RARP: u32 = 0x8035;
const IPV6: u32 = 0x86dd;

/// Marks what a program tells of itself: "vmbr", and the version.
const MAGIC: [u32; 2] = [0x766d_6272, 1];

/// The filter that drops: `ret TC_ACT_SHOT`, for a filter that acts itself.
pub const DROP: [Instruction; 1] = [Instruction {
    code: 6,
    jt: 0,
    jf: 0,
    k: 2,
}];

/// The program of a guard. It begins with the guard itself, skipped, so that
/// it can be read back from the kernel ([`read`]).
pub fn write(guard: &Guard) -> Vec<Instruction> {
    let notes = notes(guard);
    let mut program = vec![Instruction::skip(notes.len() as u32)];
    program.extend(notes.into_iter().map(Instruction::note));
    // It is None for a defect that every test would show; then nothing passes.
    program.extend(filter(guard).unwrap_or_else(|| DROP.to_vec()));
    program
}

/// The guard of a program; none of one that vmbr did not write, or that does
/// something else than it says.
pub fn read(program: &[Instruction]) -> Option<Guard> {
    let (first, rest) = program.split_first()?;
    let notes: Vec<u32> = rest
        .get(..usize::try_from(first.k).ok()?)?
        .iter()
        .map(|i| i.noted())
        .collect::<Option<_>>()?;
    let (header, networks) = notes.split_first_chunk::<4>()?;
    let [magic, version, high, low] = *header;
    if [magic, version] != MAGIC {
        return None;
    }
    let [a, b] = u16::try_from(high).ok()?.to_be_bytes();
    let [c, d, e, f] = low.to_be_bytes();
    let networks = networks.chunks(5).map(|chunk| {
        let [kind, w0, w1, w2, w3] = *<&[u32; 5]>::try_from(chunk).ok()?;
        let len = u8::try_from(kind & 0xff).ok()?;
        let address = match kind >> 8 {
            4 => IpAddr::V4(Ipv4Addr::from_bits(w0)),
            6 => {
                let bits = [w0, w1, w2, w3]
                    .into_iter()
                    .fold(0_u128, |bits, word| bits << 32 | u128::from(word));
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
            _ => return None,
        };
        Network::new(address, len)
    });
    let guard = Guard {
        mac: MacAddr6::new(a, b, c, d, e, f),
        networks: networks.collect::<Option<_>>()?,
    };
    (write(&guard) == program).then_some(guard)
}

fn notes(guard: &Guard) -> Vec<u32> {
    let (high, low) = halves(guard.mac);
    let mut notes = vec![MAGIC[0], MAGIC[1], high, low];
    for network in &guard.networks {
        let (family, words) = match network.address() {
            IpAddr::V4(address) => (4, [address.to_bits(), 0, 0, 0]),
            IpAddr::V6(address) => (6, words(address)),
        };
        notes.push(family << 8 | u32::from(network.prefix_len()));
        notes.extend(words);
    }
    notes
}

/// A MAC as its first two bytes and its last four.
fn halves(mac: MacAddr6) -> (u32, u32) {
    let [a, b, c, d, e, f] = mac.into_array();
    (
        u16::from_be_bytes([a, b]).into(),
        u32::from_be_bytes([c, d, e, f]),
    )
}

pub(super) fn words(address: Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

/// What all parts of the program need.
pub(super) struct Writer {
    pub(super) code: Assembler,
    mac: (u32, u32),
    v4: Vec<(u32, u8)>,
    pub(super) v6: Vec<(Ipv6Addr, u8)>,
    pub(super) pass: Label,
    pub(super) no: Label,
}

fn filter(guard: &Guard) -> Option<Vec<Instruction>> {
    let mut code = Assembler::default();
    let (pass, no) = (code.label(), code.label());
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for network in &guard.networks {
        match network.address() {
            IpAddr::V4(address) => v4.push((address.to_bits(), network.prefix_len())),
            IpAddr::V6(address) => v6.push((address, network.prefix_len())),
        }
    }
    if !v6.is_empty() {
        v6.push((guard.link_local(), 128));
    }
    let mut writer = Writer {
        code,
        mac: halves(guard.mac),
        v4,
        v6,
        pass,
        no,
    };
    writer.mac_is(At::Frame(6), At::Frame(8));
    if guard.networks.is_empty() {
        writer.code.jump(pass);
    } else {
        writer.packets();
    }
    writer.code.here(no);
    writer.code.answer(NO);
    writer.code.here(pass);
    writer.code.answer(PASS);
    writer.code.finish()
}

impl Writer {
    /// Goes on only if the guest's MAC is there.
    pub(super) fn mac_is(&mut self, first: At, rest: At) {
        self.code.load(Size::Word, rest);
        self.code.unless_equal(self.mac.1, self.no);
        self.code.load(Size::Half, first);
        self.code.unless_equal(self.mac.0, self.no);
    }

    fn half_is(&mut self, at: At, number: u32) {
        self.code.load(Size::Half, at);
        self.code.unless_equal(number, self.no);
    }

    fn packets(&mut self) {
        self.code.load(Size::Word, At::Frame(VLAN_TAG_PRESENT));
        self.code.unless_equal(0, self.no);
        let (arp, rarp, ipv4, ipv6) = (
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
        );
        self.code.load(Size::Half, At::Frame(12));
        if !self.v4.is_empty() {
            self.code.if_equal(IPV4, ipv4);
            self.code.if_equal(ARP, arp);
        }
        if !self.v6.is_empty() {
            self.code.if_equal(IPV6, ipv6);
        }
        self.code.if_equal(RARP, rarp);
        self.code.jump(self.no);
        self.code.here(rarp);
        self.rarp();
        self.code.here(arp);
        self.arp();
        self.code.here(ipv4);
        self.ipv4();
        self.code.here(ipv6);
        self.ipv6();
    }

    /// What ARP and RARP begin with, and the sender's MAC.
    fn arp_header(&mut self) {
        self.half_is(At::Frame(14), 1);
        self.half_is(At::Frame(16), IPV4);
        self.half_is(At::Frame(18), 0x0604);
        self.mac_is(At::Frame(22), At::Frame(24));
    }

    /// "Who am I", as QEMU asks for a guest that has moved here
    /// (`announce_self_create()`, net/announce.c).
    fn rarp(&mut self) {
        self.arp_header();
        self.half_is(At::Frame(20), 3);
        self.code.load(Size::Word, At::Frame(28));
        self.code.unless_equal(0, self.no);
        self.mac_is(At::Frame(32), At::Frame(34));
        self.code.load(Size::Word, At::Frame(38));
        self.code.unless_equal(0, self.no);
        self.code.jump(self.pass);
    }

    fn arp(&mut self) {
        let (request, reply, probe) = (self.code.label(), self.code.label(), self.code.label());
        self.arp_header();
        self.code.load(Size::Half, At::Frame(20));
        self.code.if_equal(1, request);
        self.code.if_equal(2, reply);
        self.code.jump(self.no);
        self.code.here(request);
        self.code.load(Size::Word, At::Frame(28));
        self.code.if_equal(0, probe);
        self.code.here(reply);
        self.v4_is(28, self.pass);
        self.code.jump(self.no);
        // Whoever is asked for by nobody gives the address up (RFC 5227, 2.1.1):
        // only of its own.
        self.code.here(probe);
        self.v4_is(38, self.pass);
        self.code.jump(self.no);
    }

    /// Goes to `own` if a given IPv4 address is there.
    fn v4_is(&mut self, at: u32, own: Label) {
        for (address, len) in self.v4.clone() {
            self.code.load(Size::Word, At::Frame(at));
            self.masked_is(address, len, own);
        }
    }

    /// Goes to `equal` if the first bits of A are those of the number.
    pub(super) fn masked_is(&mut self, number: u32, bits: u8, equal: Label) {
        if bits < 32 {
            self.code
                .and(u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0));
        }
        self.code.if_equal(number, equal);
    }

    fn ipv4(&mut self) {
        const DHCP_SERVER: u32 = 67;
        const DHCP_CLIENT: u32 = 68;
        const REDIRECT: u32 = 5;
        let (own, first, udp, icmp) = (
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
        );
        self.code.load(Size::Byte, At::Frame(14));
        self.code.and(0xf0);
        self.code.unless_equal(0x40, self.no);
        self.code.point_by_ihl(14);
        // 0.0.0.0 is nobody's, also where every address is given.
        let somebody = self.code.label();
        self.code.load(Size::Word, At::Frame(26));
        self.code.unless_equal(0, somebody);
        // A client that has no address yet: from 68 to 67, to everyone, whole.
        self.code.load(Size::Word, At::Frame(30));
        self.code.unless_equal(u32::MAX, self.no);
        self.code.load(Size::Byte, At::Frame(23));
        self.code.unless_equal(17, self.no);
        self.code.load(Size::Half, At::Frame(20));
        self.code.and(0x3fff);
        self.code.unless_equal(0, self.no);
        self.half_is(At::Behind(14), DHCP_CLIENT);
        self.half_is(At::Behind(16), DHCP_SERVER);
        self.code.jump(self.pass);
        self.code.here(somebody);
        self.v4_is(26, own);
        self.code.jump(self.no);
        self.code.here(own);
        // What is not the first fragment has no header.
        self.code.load(Size::Half, At::Frame(20));
        self.code.and(0x1fff);
        self.code.if_equal(0, first);
        self.code.jump(self.pass);
        self.code.here(first);
        self.code.load(Size::Byte, At::Frame(23));
        self.code.if_equal(17, udp);
        self.code.if_equal(1, icmp);
        self.code.jump(self.pass);
        self.code.here(udp);
        self.code.load(Size::Half, At::Behind(14));
        self.code.if_equal(DHCP_SERVER, self.no);
        // Clients do not look at the port that an answer comes from.
        self.code.load(Size::Half, At::Behind(16));
        self.code.if_equal(DHCP_CLIENT, self.no);
        self.code.jump(self.pass);
        self.code.here(icmp);
        self.code.load(Size::Byte, At::Behind(14));
        self.code.if_equal(REDIRECT, self.no);
        self.code.jump(self.pass);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::super::assembler::interpreter::run;
    use super::*;

    fn guard(rule: &str) -> Guard {
        let rule: Rule = rule.parse().unwrap();
        rule.of(MacAddr6::new(0x52, 0x54, 0, 0x12, 0x34, 0x56))
    }

    #[test]
    fn a_guard_is_read_back_from_its_program() {
        for rule in [
            "mac",
            "192.0.2.5",
            "192.0.2.0/24,2001:db8::5,2001:db8:1::/48,0.0.0.0/0,::/0",
        ] {
            let guard = guard(rule);
            let program = write(&guard);
            assert_eq!(read(&program), Some(guard));
            let mut changed = program.clone();
            changed.last_mut().unwrap().k = 1;
            assert_eq!(read(&changed), None, "a program that does not do what it says");
            assert_eq!(read(&program[..program.len() - 1]), None);
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&DROP), None);
    }

    #[test]
    fn the_largest_guard_fits_the_kernel_and_a_netlink_answer() {
        let many: Vec<String> = (1..=super::super::NETWORKS_MAX)
            .map(|n| format!("2001:db8::{n}"))
            .collect();
        let length = write(&guard(&many.join(","))).len();
        assert!(length < 2048, "{length}"); // BPF_MAXINSNS is 4096
    }

    #[test]
    fn a_frame_that_is_cut_short_anywhere_does_not_pass() {
        let program = write(&guard("192.0.2.5,2001:db8::5"));
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        // A neighbour advertisement of its own address, behind hop-by-hop and
        // destination options.
        let mut frame = [&[0x33, 0x33, 0, 0, 0, 1][..], &mac, &[0x86, 0xdd]].concat();
        let own = "2001:db8::5".parse::<Ipv6Addr>().unwrap().octets();
        frame.extend([0x60, 0, 0, 0, 0, 48, 0, 255]);
        frame.extend(own);
        frame.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend([58, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        frame.extend(own);
        frame.extend([2, 1]);
        frame.extend(mac);
        assert_eq!(run(&program, &frame, false), PASS);
        assert_eq!(run(&program, &frame, true), NO, "tagged");
        for end in 0..frame.len() {
            assert_eq!(run(&program, &frame[..end], false), NO, "cut to {end} bytes");
        }
        // Each single bit that matters, and none that does not.
        let matters = |at: usize| match at {
            0..6 => false,        // to whom
            14 => true,           // version (its low bits are the traffic class)
            15..18 | 21 => false, // flow, hop limit
            38..54 => false,      // to whom
            _ => true,
        };
        for at in (0..frame.len()).filter(|at| !matters(*at)) {
            frame[at] ^= 0x01;
            assert_eq!(run(&program, &frame, false), PASS, "byte {at}");
            frame[at] ^= 0x01;
        }
        for at in (6..14).chain(22..38).chain(78..94).chain(94..102) {
            frame[at] ^= 0x01;
            assert_eq!(run(&program, &frame, false), NO, "byte {at}");
            frame[at] ^= 0x01;
        }
    }
}
