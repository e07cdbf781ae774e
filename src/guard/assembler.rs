//! Classic BPF (Linux Documentation/networking/filter.rst), written with
//! labels.
//!
//! A conditional jump reaches 255 instructions, `ja` any number: a test skips
//! one `ja`, or does not. All jumps go forward, as the kernel demands.

/// `struct sock_filter` of include/uapi/linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip where a test holds.
    pub jt: u8,
    /// How many where it does not.
    pub jf: u8,
    /// The number that goes with it.
    pub k: u32,
}

// include/uapi/linux/bpf_common.h
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const TAX: u16 = MISC;
const TXA: u16 = MISC | 0x80;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const MSH: u16 = 0xa0;
const ADD: u16 = 0x00;
const AND: u16 = 0x50;
const LSH: u16 = 0x60;
const JA: u16 = 0x00;
const JEQ: u16 = 0x10;
const JGT: u16 = 0x20;
const BY_X: u16 = 0x08;

/// How much is loaded.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// One byte.
    Byte = 0x10,
    /// Two bytes.
    Half = 0x08,
    /// Four bytes.
    Word = 0x00,
}

/// Where a load begins.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// At this byte of the frame.
    Frame(u32),
    /// So many bytes behind where X points.
    Behind(u32),
}

/// A place in the program.
#[derive(Debug, Clone, Copy)]
pub struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label is, once it is known.
    places: Vec<Option<usize>>,
    /// Jumps whose `k` is still to be filled in.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn put(&mut self, code: u16, k: u32) {
        self.instructions.push(Instruction {
            code,
            jt: 0,
            jf: 0,
            k,
        });
    }

    /// A label without a place yet.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Gives a label its place: here.
    pub fn here(&mut self, label: Label) {
        let here = self.instructions.len();
        if let Some(place) = self.places.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// A label that is here.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.put(JMP | JA, 0);
    }

    /// A = a part of the frame.
    pub fn load(&mut self, size: Size, at: At) {
        match at {
            At::Frame(k) => self.put(LD | size as u16 | ABS, k),
            At::Behind(k) => self.put(LD | size as u16 | IND, k),
        }
    }

    /// A = a number.
    pub fn set(&mut self, number: u32) {
        self.put(LD | IMM, number);
    }

    /// A = a cell of the program's memory.
    pub fn recall(&mut self, cell: u32) {
        self.put(LD | MEM, cell);
    }

    /// A cell = A.
    pub fn keep(&mut self, cell: u32) {
        self.put(ST, cell);
    }

    /// X = a number.
    pub fn point(&mut self, number: u32) {
        self.put(LDX | IMM, number);
    }

    /// X = a cell of the program's memory.
    pub fn point_from(&mut self, cell: u32) {
        self.put(LDX | MEM, cell);
    }

    /// X = the length of the IPv4 header that begins at this byte.
    pub fn point_by_ihl(&mut self, at: u32) {
        self.put(LDX | Size::Byte as u16 | MSH, at);
    }

    /// X = A.
    pub fn tax(&mut self) {
        self.put(TAX, 0);
    }

    /// A = X.
    pub fn txa(&mut self) {
        self.put(TXA, 0);
    }

    /// A = A + a number.
    pub fn add(&mut self, number: u32) {
        self.put(ALU | ADD, number);
    }

    /// A = A + X.
    pub fn add_x(&mut self) {
        self.put(ALU | ADD | BY_X, 0);
    }

    /// A = A & a number.
    pub fn and(&mut self, number: u32) {
        self.put(ALU | AND, number);
    }

    /// A = A << a number.
    pub fn shift(&mut self, number: u32) {
        self.put(ALU | LSH, number);
    }

    fn test(&mut self, code: u16, k: u32, holds: bool, to: Label) {
        let (jt, jf) = if holds { (0, 1) } else { (1, 0) };
        self.instructions.push(Instruction {
            code: JMP | code,
            jt,
            jf,
            k,
        });
        self.jump(to);
    }

    /// Goes to `to` if A is the number.
    pub fn if_equal(&mut self, number: u32, to: Label) {
        self.test(JEQ, number, true, to);
    }

    /// Goes to `to` if A is not the number.
    pub fn unless_equal(&mut self, number: u32, to: Label) {
        self.test(JEQ, number, false, to);
    }

    /// Goes to `to` if A is X.
    pub fn if_equal_x(&mut self, to: Label) {
        self.test(JEQ | BY_X, 0, true, to);
    }

    /// Goes to `to` if A is larger than X.
    pub fn if_above_x(&mut self, to: Label) {
        self.test(JGT | BY_X, 0, true, to);
    }

    /// Ends the program.
    pub fn answer(&mut self, number: u32) {
        self.put(RET, number);
    }

    /// The program; none where a label has no place, or lies behind a jump to
    /// it: a defect of who wrote it.
    pub fn finish(mut self) -> Option<Vec<Instruction>> {
        for (from, Label(label)) in self.jumps {
            let to = (*self.places.get(label)?)?;
            let skipped = to.checked_sub(from + 1)?;
            self.instructions.get_mut(from)?.k = u32::try_from(skipped).ok()?;
        }
        Some(self.instructions)
    }
}

impl Instruction {
    /// `struct sock_filter` in memory.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        let (code, k) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        let parts = code.into_iter().chain([self.jt, self.jf]).chain(k);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The same read.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [c0, c1, jt, jf, k0, k1, k2, k3] = bytes;
        Self {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        }
    }

    /// A number that is only there to be read: `LD A, k`.
    pub fn note(number: u32) -> Self {
        Self {
            code: LD | IMM,
            jt: 0,
            jf: 0,
            k: number,
        }
    }

    /// The number of a [`note`](Self::note).
    pub fn noted(self) -> Option<u32> {
        (self == Self::note(self.k)).then_some(self.k)
    }

    /// Skips the next `number` instructions.
    pub fn skip(number: u32) -> Self {
        Self {
            code: JMP | JA,
            jt: 0,
            jf: 0,
            k: number,
        }
    }
}

/// What the kernel does with a program, to test one without a kernel.
#[cfg(test)]
pub mod interpreter {
    use super::*;

    /// The program's answer to a frame; `tagged` is what the kernel says of
    /// its VLAN tag. A load beyond the frame's end is 0, as in the kernel.
    pub fn run(program: &[Instruction], frame: &[u8], tagged: bool) -> u32 {
        let (mut a, mut x, mut cells, mut at) = (0_u32, 0_u32, [None::<u32>; 16], 0);
        let load = |size: u16, offset: u64| -> Option<u32> {
            let offset = usize::try_from(offset).ok()?;
            let bytes = |n: usize| frame.get(offset..offset + n);
            Some(match size {
                0x10 => u32::from(bytes(1)?[0]),
                0x08 => u32::from(u16::from_be_bytes(bytes(2)?.try_into().unwrap())),
                _ => u32::from_be_bytes(bytes(4)?.try_into().unwrap()),
            })
        };
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let class = code & 7;
            match (class, code & 0xe0) {
                (LD, IMM) => a = k,
                (LD, MEM) => a = cells[k as usize].unwrap(),
                (LD, ABS) if k == super::super::program::VLAN_TAG_PRESENT => a = u32::from(tagged),
                (LD, ABS) => match load(code & 0x18, k.into()) {
                    Some(value) => a = value,
                    None => return 0,
                },
                (LD, IND) => match load(code & 0x18, u64::from(x) + u64::from(k)) {
                    Some(value) => a = value,
                    None => return 0,
                },
                (LDX, IMM) => x = k,
                (LDX, MEM) => x = cells[k as usize].unwrap(),
                (LDX, MSH) => match load(0x10, k.into()) {
                    Some(value) => x = (value & 15) * 4,
                    None => return 0,
                },
                (ST, _) => cells[k as usize] = Some(a),
                (MISC, 0x80) => a = x,
                (MISC, _) => x = a,
                (RET, _) => return k,
                (ALU, _) => {
                    let by = if code & BY_X != 0 { x } else { k };
                    a = match code & 0xf0 {
                        ADD => a.wrapping_add(by),
                        AND => a & by,
                        LSH => a << by,
                        _ => panic!("{code:#x}"),
                    }
                }
                (JMP, _) => {
                    let by = if code & BY_X != 0 { x } else { k };
                    at += match code & 0xf0 {
                        JA => k as usize,
                        JEQ => usize::from(if a == by { jt } else { jf }),
                        JGT => usize::from(if a > by { jt } else { jf }),
                        _ => panic!("{code:#x}"),
                    }
                }
                _ => panic!("{code:#x}"),
            }
        }
    }
}
