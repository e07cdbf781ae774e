//! The part of a guard's program that looks at IPv6. What passes is told in
//! [`super::program`].

use super::assembler::{At, Label, Size};
use super::program::{Writer, words};

/// How many extension headers are walked.
const HEADERS: usize = 4;
/// How many options of neighbour discovery.
const OPTIONS: usize = 3;

/// Cells of the program's memory.
mod cell {
    /// Where the IPv6 packet ends, from the frame's beginning.
    pub const END: u32 = 0;
    /// The kind of the header that is next.
    pub const NEXT: u32 = 1;
    /// 1 in a fragment.
    pub const FRAGMENT: u32 = 2;
    /// 1 where the source is the guest's, 0 where it is `::`.
    pub const SOURCE: u32 = 3;
    /// Where the header is, meanwhile.
    pub const PLACE: u32 = 4;
}

/// Extension headers that say their length: hop-by-hop options, routing,
/// destination options (RFC 8200).
const PLAIN: [u32; 3] = [0, 43, 60];
/// Headers in which another stands, and which no guest needs: authentication,
/// mobility, host identity, shim6.
const OPAQUE: [u32; 4] = [51, 135, 139, 140];
/// What must not follow the last header that is walked.
const HIDES: [u32; 8] = [0, 43, 60, 44, 51, 135, 139, 140];

impl Writer {
    /// Goes to `own` if one of the guest's IPv6 addresses is there, else on.
    fn v6_is(&mut self, at: impl Fn(u32) -> At, own: Label) {
        for (address, len) in self.v6.clone() {
            let next = self.code.label();
            let mut left = len;
            for (place, word) in words(address).into_iter().enumerate() {
                if left == 0 {
                    break;
                }
                let bits = left.min(32);
                left -= bits;
                let same = self.code.label();
                self.code.load(Size::Word, at(4 * place as u32));
                self.masked_is(word, bits, same);
                self.code.jump(next);
                self.code.here(same);
            }
            self.code.jump(own);
            self.code.here(next);
        }
    }

    pub(super) fn ipv6(&mut self) {
        const SOURCE: u32 = 22;
        const PAYLOAD: u32 = 54;
        let (source_known, somebody) = (self.code.label(), self.code.label());
        self.code.load(Size::Byte, At::Frame(14));
        self.code.and(0xf0);
        self.code.unless_equal(0x60, self.no);
        for word in 0..4 {
            self.code.load(Size::Word, At::Frame(SOURCE + 4 * word));
            self.code.unless_equal(0, somebody);
        }
        self.code.keep(cell::SOURCE);
        self.code.jump(source_known);
        self.code.here(somebody);
        let own = self.code.label();
        self.v6_is(|word| At::Frame(SOURCE + word), own);
        self.code.jump(self.no);
        self.code.here(own);
        self.code.set(1);
        self.code.keep(cell::SOURCE);
        self.code.here(source_known);
        self.code.set(0);
        self.code.keep(cell::FRAGMENT);
        self.code.load(Size::Half, At::Frame(18));
        self.code.add(PAYLOAD);
        self.code.keep(cell::END);
        self.code.load(Size::Byte, At::Frame(20));
        self.code.keep(cell::NEXT);
        self.code.point(PAYLOAD);
        let (icmp, udp, other) = (self.code.label(), self.code.label(), self.code.label());
        for _ in 0..HEADERS {
            self.extension(icmp, udp, other);
        }
        // What follows the last that is walked, or too many of them.
        self.code.recall(cell::NEXT);
        self.code.if_equal(58, icmp);
        self.code.if_equal(17, udp);
        for hides in HIDES {
            self.code.if_equal(hides, self.no);
        }
        self.code.jump(other);
        self.code.here(udp);
        self.udp6(other);
        self.code.here(icmp);
        self.icmp6(other);
        self.code.here(other);
        self.code.recall(cell::SOURCE);
        self.code.if_equal(1, self.pass);
        self.code.jump(self.no);
    }

    /// One step over an extension header, X being where it is.
    fn extension(&mut self, icmp: Label, udp: Label, other: Label) {
        let (plain, fragment, whole, next) = (
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
        );
        self.code.recall(cell::NEXT);
        self.code.if_equal(58, icmp);
        self.code.if_equal(17, udp);
        self.code.if_equal(44, fragment);
        for kind in PLAIN {
            self.code.if_equal(kind, plain);
        }
        for kind in OPAQUE {
            self.code.if_equal(kind, self.no);
        }
        self.code.jump(other);

        self.code.here(plain);
        self.within();
        self.code.load(Size::Byte, At::Behind(0));
        self.code.keep(cell::NEXT);
        self.code.load(Size::Byte, At::Behind(1));
        self.code.add(1);
        self.code.shift(3);
        self.code.add_x();
        self.code.tax();
        self.code.jump(next);

        self.code.here(fragment);
        self.code.recall(cell::FRAGMENT);
        self.code.unless_equal(0, self.no);
        self.within();
        self.code.load(Size::Half, At::Behind(2));
        self.code.and(0xfff8);
        self.code.if_equal(0, whole);
        // A later fragment has no header; it passes by its source.
        self.code.jump(other);
        self.code.here(whole);
        self.code.set(1);
        self.code.keep(cell::FRAGMENT);
        self.code.load(Size::Byte, At::Behind(0));
        self.code.keep(cell::NEXT);
        self.code.txa();
        self.code.add(8);
        self.code.tax();
        self.code.here(next);
    }

    /// Goes on only if eight bytes of the packet are left at X: in a fragment
    /// the frame's padding could show what the packet does not have.
    fn within(&mut self) {
        self.code.txa();
        self.code.keep(cell::PLACE);
        self.code.add(8);
        self.code.point_from(cell::END);
        self.code.if_above_x(self.no);
        self.code.point_from(cell::PLACE);
    }

    fn udp6(&mut self, other: Label) {
        const DHCP_SERVER: u32 = 547;
        const DHCP_CLIENT: u32 = 546;
        self.within();
        self.code.load(Size::Half, At::Behind(0));
        self.code.if_equal(DHCP_SERVER, self.no);
        self.code.load(Size::Half, At::Behind(2));
        self.code.if_equal(DHCP_CLIENT, self.no);
        self.code.jump(other);
    }

    fn icmp6(&mut self, other: Label) {
        let (router, neighbour, advertisement, target, options, report) = (
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
            self.code.label(),
        );
        self.within();
        self.code.load(Size::Byte, At::Behind(0));
        self.code.if_equal(134, self.no);
        self.code.if_equal(137, self.no);
        self.code.if_equal(133, router);
        self.code.if_equal(135, neighbour);
        self.code.if_equal(136, advertisement);
        for multicast in [131, 132, 143] {
            self.code.if_equal(multicast, report);
        }
        self.code.jump(other);
        self.code.here(report);
        self.code.jump(self.pass);

        self.code.here(router);
        self.code.recall(cell::FRAGMENT);
        self.code.unless_equal(0, self.no);
        self.code.txa();
        self.code.add(8);
        self.code.jump(options);

        self.code.here(advertisement);
        // Never from `::` (RFC 4861, 4.4).
        self.code.recall(cell::SOURCE);
        self.code.unless_equal(1, self.no);
        self.code.jump(target);

        self.code.here(neighbour);
        // By `::` it asks whether the target is taken: only of its own.
        let asks = self.code.label();
        self.code.recall(cell::SOURCE);
        self.code.if_equal(1, asks);
        self.code.here(target);
        self.v6_is(|word| At::Behind(8 + word), asks);
        self.code.jump(self.no);
        self.code.here(asks);
        self.code.recall(cell::FRAGMENT);
        self.code.unless_equal(0, self.no);
        self.code.txa();
        self.code.add(24);
        self.code.here(options);
        self.options();
    }

    /// The options of neighbour discovery from where A says to the packet's
    /// end: link-layer addresses that are the guest's, and nonces (RFC 7527).
    fn options(&mut self) {
        for _ in 0..OPTIONS {
            let (nonce, address, next) = (self.code.label(), self.code.label(), self.code.label());
            self.code.point_from(cell::END);
            self.code.if_equal_x(self.pass);
            self.code.if_above_x(self.no);
            self.code.tax();
            self.code.load(Size::Byte, At::Behind(0));
            self.code.if_equal(14, nonce);
            self.code.if_equal(1, address);
            self.code.if_equal(2, address);
            self.code.jump(self.no);
            self.code.here(address);
            self.code.load(Size::Byte, At::Behind(1));
            self.code.unless_equal(1, self.no);
            self.mac_is(At::Behind(2), At::Behind(4));
            self.code.txa();
            self.code.add(8);
            self.code.jump(next);
            self.code.here(nonce);
            self.code.load(Size::Byte, At::Behind(1));
            self.code.if_equal(0, self.no);
            self.code.shift(3);
            self.code.add_x();
            self.code.here(next);
        }
        self.code.point_from(cell::END);
        self.code.if_equal_x(self.pass);
        self.code.jump(self.no);
    }
}
