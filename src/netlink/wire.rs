//! A small synchronous netlink socket for what changes the kernel.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::KernelError;

/// `NLM_F_ACK_TLVS`: attributes follow an error (include/uapi/linux/netlink.h).
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's sentence.
const ATTR_MSG: u16 = 1;
/// Length of `struct nlmsghdr`, which an error repeats from the request.
const HEADER_LEN: usize = 16;

/// A message to the kernel with the flags of its verb (`NLM_F_CREATE`, ...).
pub type Message = (RouteNetlinkMessage, u16);

/// The socket.
pub struct Wire {
    socket: Socket,
    sequence: u32,
}

impl Wire {
    /// Opens a socket in the caller's network namespace.
    ///
    /// # Errors
    /// As of socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one message and waits until the kernel has done it.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn send(&mut self, message: Message) -> Result<(), KernelError> {
        match self.send_all(vec![message])?.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Sends all messages as one datagram. The kernel runs them in their order
    /// within the one system call (`netlink_rcv_skb()`, net/netlink/af_netlink.c);
    /// no signal comes between. **A message that fails does not stop those
    /// behind it.** Answered are the failures, with the message's place.
    ///
    /// # Errors
    /// Of the socket itself; what the kernel then did is unknown.
    pub fn send_all(&mut self, messages: Vec<Message>) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(Vec::new());
        };
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for (place, (payload, flags)) in messages.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.sequence_number = self.sequence;
            // Failures are answered anyway; one more answer marks the end.
            header.flags = NLM_F_REQUEST | flags | if place == last { NLM_F_ACK } else { 0 };
            append(
                &mut datagram,
                NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload)),
            );
        }
        let sent = self.socket.send(&datagram, 0)?;
        if sent != datagram.len() {
            return Err(io::Error::other("the kernel took a part of a netlink datagram").into());
        }
        self.answers(first, last)
    }

    /// Reads answers up to that for the last message.
    fn answers(&mut self, first: u32, last: usize) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let mut failures = Vec::new();
        loop {
            let buffer = self.receive()?;
            let mut rest = buffer.as_slice();
            while rest.len() >= HEADER_LEN {
                let message = parse(rest)?;
                let length = message.header.length as usize;
                let NetlinkPayload::Error(error) = message.payload else {
                    return Err(io::Error::other("the kernel answered a request with something else").into());
                };
                let place = message.header.sequence_number.wrapping_sub(first) as usize;
                // A late answer to an earlier request, if ever, is not ours.
                if place <= last {
                    if error.code.is_some() {
                        let detail = (message.header.flags & ACK_TLVS != 0)
                            .then(|| sentence(&error.header))
                            .flatten();
                        failures.push((
                            place,
                            KernelError {
                                source: error.to_io(),
                                detail,
                            },
                        ));
                    }
                    if place == last {
                        return Ok(failures);
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// Asks for one device.
    ///
    /// # Errors
    /// ENODEV where there is none of that number.
    pub fn link(&mut self, index: u32) -> Result<LinkMessage, KernelError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = NLM_F_REQUEST;
        let mut datagram = Vec::new();
        let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetLink(request));
        append(&mut datagram, NetlinkMessage::new(header, payload));
        self.socket.send(&datagram, 0)?;
        let buffer = self.receive()?;
        match parse(&buffer)?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            _ => Err(
                io::Error::other("the kernel answered a question for a device with something else").into(),
            ),
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        // Larger than any answer: a device's description is a few kilobytes.
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => return Ok(buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Appends a message, filled up to four bytes as netlink wants it.
fn append(datagram: &mut Vec<u8>, mut message: NetlinkMessage<RouteNetlinkMessage>) {
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

fn parse(bytes: &[u8]) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    NetlinkMessage::deserialize(bytes).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("cannot read the kernel's answer: {error}"),
        )
    })
}

/// The kernel's sentence from an error's attributes, which follow the header
/// of the request.
fn sentence(error: &[u8]) -> Option<String> {
    let attributes = NlasIterator::new(error.get(HEADER_LEN..)?);
    let said = |nla: &NlaBuffer<&[u8]>| nla.kind() == ATTR_MSG;
    let nla = attributes.flatten().find(said)?;
    let text = String::from_utf8_lossy(nla.value());
    Some(text.trim_end_matches('\0').to_owned())
}
