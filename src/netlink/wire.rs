//! A small synchronous netlink socket for what changes the kernel.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::nexthop::{self, NexthopMessage};
use super::{KernelError, dump};

/// `NLM_F_ACK_TLVS`: attributes follow an error (include/uapi/linux/netlink.h).
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's sentence.
const ATTR_MSG: u16 = 1;
/// Length of `struct nlmsghdr`, which an error repeats from the request.
const HEADER_LEN: usize = 16;
/// What a socket's buffers hold at least (half of `net.core.wmem_default`,
/// 208 KiB): most datagrams are smaller, and need no privilege to be sent.
const COMMON_ROOM: usize = 64 * 1024;
/// What an answer takes of the buffer: `struct sk_buff` with its data, and the
/// kernel's sentence.
const ANSWER: usize = 2048;

/// What a message says.
#[derive(Debug, Clone)]
pub enum Payload {
    /// What netlink-packet-route knows.
    Route(RouteNetlinkMessage),
    /// `RTM_NEWNEXTHOP`
    NewNexthop(NexthopMessage),
    /// `RTM_DELNEXTHOP`
    DeleteNexthop(NexthopMessage),
    /// `RTM_GETNEXTHOP`
    GetNexthop(NexthopMessage),
}

impl From<RouteNetlinkMessage> for Payload {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(message)
    }
}

impl NetlinkSerializable for Payload {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::NewNexthop(_) => nexthop::NEW,
            Self::DeleteNexthop(_) => nexthop::DELETE,
            Self::GetNexthop(_) => nexthop::GET,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => message.buffer_len(),
            Self::NewNexthop(m) | Self::DeleteNexthop(m) | Self::GetNexthop(m) => m.bytes().len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::NewNexthop(m) | Self::DeleteNexthop(m) | Self::GetNexthop(m) => {
                buffer.copy_from_slice(&m.bytes());
            }
        }
    }
}

impl NetlinkDeserializable for Payload {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let short = || DecodeError::from("a nexthop object's message is cut short");
        match header.message_type {
            nexthop::NEW => Ok(Self::NewNexthop(
                NexthopMessage::parse(payload).ok_or_else(short)?,
            )),
            _ => RouteNetlinkMessage::deserialize(header, payload).map(Self::Route),
        }
    }
}

/// A message to the kernel with the flags of its verb (`NLM_F_CREATE`, ...).
pub type Message = (Payload, u16);

/// The socket.
pub struct Wire {
    socket: Socket,
    sequence: u32,
    /// Bytes that can be sent at once, and bytes of answers that can wait.
    room: (usize, usize),
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
        Ok(Self {
            socket,
            sequence: 0,
            room: (COMMON_ROOM, COMMON_ROOM),
        })
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
        self.make_room(datagram.len(), last + 1)?;
        let sent = self.socket.send(&datagram, 0)?;
        if sent != datagram.len() {
            return Err(io::Error::other("the kernel took a part of a netlink datagram").into());
        }
        self.answers(first, last)
    }

    /// Makes room for a datagram, which must fit into the socket's buffer
    /// whole (`netlink_sendmsg()`), and for an answer to each of its messages.
    /// The flip of a host with thousands of routes is some hundred kilobytes.
    fn make_room(&mut self, bytes: usize, messages: usize) -> io::Result<()> {
        if bytes > self.room.0 {
            setsockopt(&self.socket, sockopt::SndBufForce, &bytes.saturating_mul(2))?;
            self.room.0 = bytes;
        }
        let answers = messages.saturating_mul(ANSWER);
        if answers > self.room.1 {
            setsockopt(&self.socket, sockopt::RcvBufForce, &answers)?;
            self.room.1 = answers;
        }
        Ok(())
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
        self.ask(RouteNetlinkMessage::GetLink(request).into(), 0)?;
        let buffer = self.receive()?;
        match parse(&buffer)?.payload {
            NetlinkPayload::InnerMessage(Payload::Route(RouteNetlinkMessage::NewLink(link))) => Ok(link),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            _ => Err(
                io::Error::other("the kernel answered a question for a device with something else").into(),
            ),
        }
    }

    /// Asks for every nexthop object, again where they change in the middle.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn nexthops(&mut self) -> Result<Vec<NexthopMessage>, KernelError> {
        for _ in 0..dump::TRIES {
            if let Some(whole) = self.try_nexthops()? {
                return Ok(whole);
            }
        }
        Err(dump::torn("nexthop objects").into())
    }

    /// One look at them; none where it is torn.
    fn try_nexthops(&mut self) -> Result<Option<Vec<NexthopMessage>>, KernelError> {
        self.ask(Payload::GetNexthop(NexthopMessage::default()), NLM_F_DUMP)?;
        let mut found = Vec::new();
        let mut torn = false;
        loop {
            let buffer = self.receive()?;
            let mut rest = buffer.as_slice();
            while rest.len() >= HEADER_LEN {
                let message = parse(rest)?;
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(Payload::NewNexthop(object)) => found.push(object),
                    NetlinkPayload::Done(_) => return Ok((!torn).then_some(found)),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    _ => {}
                }
                let length = message.header.length as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    fn ask(&mut self, question: Payload, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = NLM_F_REQUEST | flags;
        let mut datagram = Vec::new();
        append(
            &mut datagram,
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question)),
        );
        self.socket.send(&datagram, 0)?;
        Ok(())
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
fn append(datagram: &mut Vec<u8>, mut message: NetlinkMessage<Payload>) {
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

fn parse(bytes: &[u8]) -> io::Result<NetlinkMessage<Payload>> {
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
