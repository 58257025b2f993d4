// SPDX-License-Identifier: GPL-2.0

//! The device that is measured: its types, and what it has.

use contents::{find_type, size_of_type, smallest_type, types_by_size, Place, Register};
use mdma::regs::{Reg, BAR_REGISTERS};
use vfio_client::mdev::Sysfs;
use vfio_client::{Device, Error, Mapping};

use crate::device::{Bare, PAGE};
use crate::error::{fail, Result};
use crate::need::Need;

/// The device that has an engine.
const MDMA: &str = "mdma";
/// Its type with much memory.
const MDMA_LARGE: &str = "256M";
/// The least mapped memory for tables about it.
const MAPPED_MIN: u64 = 16 << 20;
/// Bytes of the type for tables about more.
const LARGE: u64 = 1 << 30;
/// Bytes that are written at once.
const STEP: u64 = 16 * PAGE;

/// What is measured.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Name of the device, and of its module.
    pub(crate) name: String,
    /// Type for tables about all of the memory.
    pub(crate) kind: String,
    /// Type with 1 GiB of memory, if there is one.
    pub(crate) large: Option<String>,
    /// Type for the others.
    pub(crate) small: String,
    /// The register that is read.
    pub(crate) read: Register,
    /// The register that is written, which keeps the value.
    pub(crate) write: Register,
    /// Where it has memory.
    pub(crate) memory: Option<Place>,
}

impl Subject {
    /// Finds out what a device has, of this type or of one that is best for measurements.
    pub(crate) fn find(name: &str, kind: Option<&str>) -> Result<Self> {
        let sysfs = Sysfs::default();
        let small = smallest_type(&sysfs, name)?.id;
        let kind = match (kind, name) {
            (Some(kind), _) => find_type(&sysfs, name, kind)?.id,
            (None, MDMA) => find_type(&sysfs, name, MDMA_LARGE)?.id,
            (None, _) => small.clone(),
        };
        let large = types_by_size(&sysfs, name)?
            .into_iter()
            .find(|kind| size_of_type(&sysfs, name, kind) == Some(LARGE));
        let bare = Bare::new(&small, "v1")?;
        bare.device.config()?.enable()?;
        let (read, write) = match name {
            MDMA => (register(Reg::Id), register(Reg::Scratch)),
            _ => {
                let found = Register::find(&bare.device)?;
                (found, found)
            }
        };
        Ok(Subject {
            memory: Place::find(&bare.device)?,
            name: name.into(),
            kind,
            large: large.map(|kind| kind.id),
            small,
            read,
            write,
        })
    }

    /// Returns whether it has what a table is about.
    pub(crate) fn has(&self, need: Need) -> bool {
        match need {
            Need::Migration => true,
            Need::Memory => self.memory.is_some(),
            Need::Mapped => {
                matches!(self.memory, Some(Place::Bar(memory)) if memory.size >= MAPPED_MIN)
            }
            Need::Large => self.has(Need::Mapped) && self.large.is_some(),
            Need::Engine => self.name == MDMA,
        }
    }

    /// Returns where it has memory, for a table that needs it.
    pub(crate) fn place(&self) -> Result<Place> {
        let none = || Error::not_found(self.name.clone(), "it has no device memory");
        Ok(self.memory.ok_or_else(none)?)
    }

    /// Maps device memory, for a table that needs it.
    pub(crate) fn map(&self, device: &Device) -> Result<Mapping> {
        match self.place()? {
            Place::Bar(memory) => Ok(device.region(memory.bar)?.map_all()?),
            Place::Storage => fail!("{}: its storage cannot be mapped", self.name),
        }
    }

    /// Fills memory, if there is any, with bytes that differ from page to page. Returns its size.
    pub(crate) fn populate(&self, device: &Device) -> Result<u64> {
        let Some(place) = self.memory else {
            return Ok(0);
        };
        let mut memory = place.open(device)?;
        let size = memory.size();
        let mut bytes = vec![0; STEP as usize];
        for at in (0..size).step_by(STEP as usize) {
            let bytes = &mut bytes[..STEP.min(size - at) as usize];
            fill(at, bytes);
            memory.write(at, bytes)?;
        }
        memory.close()?;
        Ok(size)
    }

    /// Returns a value for the register that is written: not the one at power-on.
    fn mark(&self) -> u32 {
        const MARK: u32 = 0x0123_4567;
        match self.write.kept(MARK) == self.write.power_on {
            true => !MARK,
            false => MARK,
        }
    }

    /// Writes the register that keeps the value.
    pub(crate) fn set_mark(&self, device: &Device) -> Result<()> {
        device.config()?.enable()?;
        Ok(self.write.write(&self.write.region(device)?, self.mark())?)
    }

    /// Checks that a device has what [`populate`](Self::populate) and [`set_mark`](Self::set_mark) have written to
    /// another one.
    pub(crate) fn check(&self, device: &Device) -> Result<()> {
        device.config()?.enable()?;
        let found = self.write.read(&self.write.region(device)?)?;
        let want = self.write.kept(self.mark());
        if found != want {
            fail!("the register did not arrive: it is {found:#x}, not {want:#x}");
        }
        let Some(place) = self.memory else {
            return Ok(());
        };
        let mut memory = place.open(device)?;
        let size = memory.size();
        let (mut want, mut found) = (vec![0; STEP as usize], vec![0; STEP as usize]);
        for at in (0..size).step_by(STEP as usize) {
            let len = STEP.min(size - at) as usize;
            fill(at, &mut want[..len]);
            memory.read(at, &mut found[..len])?;
            if want[..len] != found[..len] {
                fail!("{} from {at:#x} on did not arrive", place.name());
            }
        }
        Ok(memory.close()?)
    }
}

/// Sets bytes to what memory has from an offset on. All words differ.
fn fill(at: u64, bytes: &mut [u8]) {
    for (word, number) in bytes.chunks_exact_mut(8).zip(at / 8..) {
        // Not 0 even for the first word, because a page of zeroes is not sent.
        let value = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Returns a register of `mdma`.
fn register(reg: Reg) -> Register {
    Register {
        bar: BAR_REGISTERS,
        offset: reg.row().offset,
        width: 4,
        power_on: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contents::Mappable;

    fn subject(name: &str, memory: Option<Place>) -> Subject {
        Subject {
            name: name.into(),
            kind: "1".into(),
            large: Some("1G".into()),
            small: "1".into(),
            read: register(Reg::Id),
            write: register(Reg::Scratch),
            memory,
        }
    }

    fn bar(size: u64) -> Option<Place> {
        Some(Place::Bar(Mappable { bar: 2, size }))
    }

    #[test]
    fn what_devices_have() {
        let needs = [
            Need::Migration,
            Need::Memory,
            Need::Mapped,
            Need::Large,
            Need::Engine,
        ];
        for (subject, has) in [
            (subject("mdma", bar(16 << 20)), [true; 5]),
            (
                subject("mnvme", Some(Place::Storage)),
                [true, true, false, false, false],
            ),
            (
                subject("other", bar(4096)),
                [true, true, false, false, false],
            ),
            (subject("scratch", None), [true, false, false, false, false]),
        ] {
            assert_eq!(needs.map(|need| subject.has(need)), has, "{subject:?}");
        }
    }

    #[test]
    fn the_mark_is_not_the_value_at_power_on() {
        let mut subject = subject("scratch", None);
        for power_on in [0, 0x67, 0x98, 0x0123_4567] {
            for width in [1, 2, 4] {
                subject.write.width = width;
                subject.write.power_on = subject.write.kept(power_on);
                let kept = subject.write.kept(subject.mark());
                assert_ne!(kept, subject.write.power_on, "{subject:?}");
            }
        }
    }
}
