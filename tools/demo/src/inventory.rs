// SPDX-License-Identifier: GPL-2.0

//! What a device of any kind holds: its registers and its memory, with what they must read.

use contents::{Memory, Place, Register};
use vfio_client::Device;
use vfio_migrate::format::bytes;

use crate::compare::{chunks, differ};
use crate::error::{fail, Result};
use crate::out::count;
use crate::rng::Rng;

/// Memory is written by blocks of this size.
const BLOCK: u64 = 64 << 10;
/// The most registers whose values are shown.
const SHOWN: usize = 4;
/// One block of this many is written again while the source runs.
const PART: u64 = 16;

/// What a device has.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Registers that keep what is written, all of one width.
    pub(crate) registers: Vec<Register>,
    /// Where it has memory.
    pub(crate) memory: Option<Place>,
    /// Bytes of the memory.
    pub(crate) size: u64,
}

/// An amount of registers and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Amount {
    pub(crate) registers: usize,
    /// Bytes.
    pub(crate) memory: u64,
    #[serde(skip)]
    pub(crate) place: Option<Place>,
}

impl Amount {
    /// Lists what it is.
    pub(crate) fn list(&self) -> Vec<String> {
        let mut list = Vec::new();
        match self.registers {
            0 => {}
            1 => list.push("1 register".into()),
            n => list.push(format!("{} registers", count(n as u64))),
        }
        if let (Some(place), 1..) = (self.place, self.memory) {
            list.push(format!("{} of {}", bytes(self.memory), place.name()));
        }
        list
    }

    /// Describes it: `2 registers and 48.0 MiB of storage`.
    pub(crate) fn text(&self) -> String {
        self.list().join(" and ")
    }
}

impl Parts {
    /// Finds out what a device has. It is reset.
    pub(crate) fn find(device: &Device) -> Result<Self> {
        device.config()?.enable()?;
        let registers = Register::all(device)?;
        let memory = Place::find(device)?;
        let mut size = 0;
        if let Some(place) = memory {
            let memory = place.open(device)?;
            size = memory.size();
            memory.close()?;
        }
        if registers.is_empty() && size == 0 {
            fail!("the device has no register and no memory that keeps what is written");
        }
        Ok(Parts {
            registers,
            memory,
            size,
        })
    }

    /// Describes the registers: `2 keep what is written: 4 bytes at 0x2c and 0x34 of BAR 0`.
    pub(crate) fn describe_registers(&self) -> String {
        let [first, ..] = self.registers[..] else {
            return "none keeps what is written".into();
        };
        let verb = match self.registers.len() {
            1 => "1 keeps".into(),
            n => format!("{n} keep"),
        };
        let unit = if first.width == 1 { "byte" } else { "bytes" };
        let mut bars: Vec<(u32, Vec<String>)> = Vec::new();
        for register in &self.registers {
            let offset = format!("{:#x}", register.offset);
            match bars.last_mut() {
                Some((bar, offsets)) if *bar == register.bar => offsets.push(offset),
                _ => bars.push((register.bar, vec![offset])),
            }
        }
        let bars: Vec<_> = bars
            .iter()
            .map(|(bar, offsets)| format!("{} of BAR {bar}", listed(offsets)))
            .collect();
        format!(
            "{verb} what is written: {} {unit} at {}",
            first.width,
            listed(&bars)
        )
    }
}

/// Joins words: `a, b and c`.
pub(crate) fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// What a device holds.
pub(crate) struct Inventory<'a> {
    parts: &'a Parts,
    /// The values of the registers.
    values: Vec<u32>,
    /// How often each block of memory was written.
    versions: Vec<u32>,
    seed: u64,
    rng: Rng,
}

impl<'a> Inventory<'a> {
    /// Starts with a device at power-on, of whose memory this much is used.
    pub(crate) fn new(parts: &'a Parts, used: u64, seed: u64) -> Self {
        Inventory {
            parts,
            values: parts.registers.iter().map(|r| r.power_on).collect(),
            versions: vec![0; (used.min(parts.size) / BLOCK) as usize],
            seed,
            rng: Rng::new(seed),
        }
    }

    /// Returns all that is used.
    pub(crate) fn amount(&self) -> Amount {
        self.amount_of(self.versions.len())
    }

    fn amount_of(&self, blocks: usize) -> Amount {
        Amount {
            registers: self.parts.registers.len(),
            memory: blocks as u64 * BLOCK,
            place: self.parts.memory,
        }
    }

    /// Describes the values of the registers: `0x41 at 0x3 and 0x7f at 0x7`; `None` if there are no registers.
    pub(crate) fn describe_values(&self) -> Option<String> {
        let registers = self.parts.registers.iter().zip(&self.values);
        let mut texts: Vec<_> = registers
            .take(SHOWN)
            .map(|(register, value)| format!("{value:#x} at {:#x}", register.offset))
            .collect();
        if let more @ 1.. = self.values.len().saturating_sub(SHOWN) {
            texts.push(format!("{} more", count(more as u64)));
        }
        (!texts.is_empty()).then(|| listed(&texts))
    }

    /// Writes all of it.
    pub(crate) fn fill(&mut self, device: &Device) -> Result<()> {
        let all: Vec<_> = (0..self.versions.len()).collect();
        self.write(device, &all)
    }

    /// Writes all registers and a part of the memory. Returns how much.
    pub(crate) fn change(&mut self, device: &Device) -> Result<Amount> {
        let blocks = self.versions.len() as u64;
        let some: Vec<_> = (0..blocks.div_ceil(PART))
            .map(|_| self.rng.below(blocks) as usize)
            .collect();
        self.write(device, &some)?;
        Ok(self.amount_of(some.len()))
    }

    /// Writes these blocks of memory, then all registers: a controller uses some of them while its storage is open.
    fn write(&mut self, device: &Device, blocks: &[usize]) -> Result<()> {
        device.config()?.enable()?;
        if let (Some(place), [_, ..]) = (self.parts.memory, blocks) {
            let mut memory = place.open(device)?;
            for block in blocks {
                self.versions[*block] += 1;
                memory.write(*block as u64 * BLOCK, &self.block(*block))?;
            }
            memory.close()?;
        }
        for (register, value) in self.parts.registers.iter().zip(&mut self.values) {
            *value = next_value(&mut self.rng, register, *value);
            register.write(&register.region(device)?, *value)?;
        }
        Ok(())
    }

    /// Returns what a block must read.
    fn block(&self, block: usize) -> Vec<u8> {
        match self.versions[block] {
            0 => vec![0; BLOCK as usize],
            version => {
                let seed = self.seed ^ ((block as u64) << 32) ^ u64::from(version);
                Rng::new(seed).bytes(BLOCK as usize)
            }
        }
    }

    /// Compares all of a device with what it must hold. Memory that is not used must read 0.
    pub(crate) fn check(&self, device: &Device) -> Result<()> {
        device.config()?.enable()?;
        for (register, value) in self.parts.registers.iter().zip(&self.values) {
            let found = register.read(&register.region(device)?)?;
            if found != *value {
                fail!(
                    "the register at {:#x} of BAR {} is {found:#x}, expected {value:#x}",
                    register.offset,
                    register.bar
                );
            }
        }
        let Some(place) = self.parts.memory else {
            return Ok(());
        };
        let mut memory = place.open(device)?;
        self.check_memory(place, &mut memory)?;
        Ok(memory.close()?)
    }

    fn check_memory(&self, place: Place, memory: &mut Memory) -> Result<()> {
        let mut found = vec![0; BLOCK as usize];
        for block in 0..self.versions.len() {
            let at = block as u64 * BLOCK;
            memory.read(at, &mut found)?;
            differ(place.name(), at, &self.block(block), &found)?;
        }
        let used = self.versions.len() as u64 * BLOCK;
        chunks(self.parts.size - used, |at, len| {
            let mut found = vec![0; len];
            memory.read(used + at, &mut found)?;
            differ(place.name(), used + at, &vec![0; len], &found)
        })
    }
}

/// Returns a value that the register keeps, other than the last one and the one at power-on.
fn next_value(rng: &mut Rng, register: &Register, last: u32) -> u32 {
    loop {
        let value = register.kept(rng.next() as u32);
        if value != last && value != register.power_on {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(registers: &[(u32, u64, usize)], memory: Option<Place>, size: u64) -> Parts {
        let register = |&(bar, offset, width)| Register {
            bar,
            offset,
            width,
            power_on: 0,
        };
        Parts {
            registers: registers.iter().map(register).collect(),
            memory,
            size,
        }
    }

    #[test]
    fn registers_in_words() {
        for (registers, text) in [
            (&[][..], "none keeps what is written"),
            (
                &[(0, 0, 4)],
                "1 keeps what is written: 4 bytes at 0x0 of BAR 0",
            ),
            (
                &[(0, 3, 1), (0, 7, 1)],
                "2 keep what is written: 1 byte at 0x3 and 0x7 of BAR 0",
            ),
            (
                &[(0, 4, 2), (0, 6, 2), (0, 8, 2), (1, 2, 2)],
                "4 keep what is written: 2 bytes at 0x4, 0x6 and 0x8 of BAR 0 and 0x2 of BAR 1",
            ),
        ] {
            assert_eq!(parts(registers, None, 0).describe_registers(), text);
        }
    }

    #[test]
    fn amounts_in_words() {
        let amount = |registers, memory| Amount {
            registers,
            memory,
            place: Some(Place::Storage),
        };
        for (amount, text) in [
            (amount(1, 0), "1 register"),
            (amount(2, 0), "2 registers"),
            (amount(0, 1 << 20), "1.00 MiB of storage"),
            (amount(1, 48 << 20), "1 register and 48.0 MiB of storage"),
        ] {
            assert_eq!(amount.text(), text);
        }
    }

    #[test]
    fn values_in_words() {
        let text = |count: u64| {
            let registers: Vec<_> = (0..count).map(|at| (0, 4 * at, 4)).collect();
            let parts = parts(&registers, None, 0);
            let mut inventory = Inventory::new(&parts, 0, 1);
            inventory.values = (0..count as u32).map(|at| 0x10 + at).collect();
            inventory.describe_values()
        };
        assert_eq!(text(0), None);
        assert_eq!(text(1).unwrap(), "0x10 at 0x0");
        assert_eq!(
            text(4).unwrap(),
            "0x10 at 0x0, 0x11 at 0x4, 0x12 at 0x8 and 0x13 at 0xc"
        );
        assert_eq!(
            text(6).unwrap(),
            "0x10 at 0x0, 0x11 at 0x4, 0x12 at 0x8, 0x13 at 0xc and 2 more"
        );
    }

    #[test]
    fn no_more_memory_is_used_than_there_is() {
        let with = parts(&[(0, 0, 4)], Some(Place::Storage), 1 << 20);
        assert_eq!(Inventory::new(&with, 1 << 30, 1).amount().memory, 1 << 20);
        assert_eq!(Inventory::new(&with, 100_000, 1).amount().memory, BLOCK);
        let without = parts(&[(0, 0, 4)], None, 0);
        assert_eq!(Inventory::new(&without, 1 << 30, 1).amount().memory, 0);
    }

    #[test]
    fn blocks_differ_and_change() {
        let parts = parts(&[], Some(Place::Storage), 4 * BLOCK);
        let mut inventory = Inventory::new(&parts, 4 * BLOCK, 1);
        assert_eq!(inventory.block(0), vec![0; BLOCK as usize]);
        inventory.versions = vec![1, 1, 2, 1];
        let blocks: Vec<_> = (0..4).map(|block| inventory.block(block)).collect();
        for i in 0..4 {
            assert_eq!(blocks[i], inventory.block(i));
            assert!((0..i).all(|j| blocks[i] != blocks[j]), "block {i}");
        }
        inventory.versions[0] = 2;
        assert_ne!(blocks[0], inventory.block(0));
    }

    #[test]
    fn values_always_change() {
        let parts = parts(&[(0, 7, 1)], None, 0);
        let (mut rng, mut last) = (Rng::new(1), 0);
        for _ in 0..1000 {
            let value = next_value(&mut rng, &parts.registers[0], last);
            assert!(value != last && value != 0 && value < 256, "{value}");
            last = value;
        }
    }
}
