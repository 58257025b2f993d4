// SPDX-License-Identifier: GPL-2.0

//! Options on the kernel command line.

use serde::Serialize;

/// A kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Irq {
    /// INTx.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

impl Irq {
    /// Returns the name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Irq::Intx => "intx",
            Irq::Msi => "msi",
            Irq::Msix => "msix",
        }
    }
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `mdma`, by UIO.
    Mdma,
    /// `mserial`, by the kernel's driver.
    Mserial,
}

/// The options; see `Documentation/guest.rst`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Options {
    /// `guest.kind`: the kind of the devices.
    pub kind: Kind,
    /// `guest.irq`: the kind of interrupt.
    pub irq: Irq,
    /// `guest.devices`: number of devices that must exist.
    pub devices: usize,
    /// `guest.seed`: seed of the random jobs.
    pub seed: u64,
    /// `guest.memory`: bytes of memory that devices and processor write, over all devices.
    pub memory: u64,
    /// `guest.device`: bytes of each device's memory that are written.
    pub device: u64,
    /// `guest.rate`: jobs per second and device; 0 for no limit.
    pub rate: u64,
    /// `guest.throttle`: the most microseconds that a device waits after a unit.
    pub throttle: u32,
    /// `guest.registered`: bytes of that memory that each device registers.
    pub registered: u64,
    /// `guest.written`: bytes of that memory that are written, for each device; the rest is only there.
    pub written: u64,
    /// `guest.peers`: whether each device also writes to memory of the next one.
    pub peers: bool,
    /// `guest.remap`: whether blocks are mapped at other addresses all the time.
    pub remap: bool,
    /// `guest.patience`: seconds after which an interrupt counts as lost.
    pub patience: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            kind: Kind::Mdma,
            irq: Irq::Msix,
            devices: 1,
            seed: 1,
            memory: 64 << 20,
            device: 16 << 20,
            rate: 100,
            throttle: 4000,
            registered: 2 << 20,
            written: u64::MAX,
            peers: false,
            remap: false,
            patience: 60,
        }
    }
}

impl Options {
    /// Parses a command line. Ignores words that do not begin with `guest.`.
    pub fn parse(line: &str) -> Result<Options, String> {
        let mut options = Options::default();
        for word in line.split_ascii_whitespace() {
            let Some(word) = word.strip_prefix("guest.") else {
                continue;
            };
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let illegal = || format!("guest.{name}={value} is out of range or malformed");
            let flag = || match value {
                "0" => Ok(false),
                "1" => Ok(true),
                _ => Err(illegal()),
            };
            let number = || value.parse::<u64>().map_err(|_| illegal());
            match name {
                "irq" => {
                    options.irq = [Irq::Intx, Irq::Msi, Irq::Msix]
                        .into_iter()
                        .find(|irq| irq.name() == value)
                        .ok_or_else(illegal)?;
                }
                "kind" => {
                    options.kind = match value {
                        "mdma" => Kind::Mdma,
                        "mserial" => Kind::Mserial,
                        _ => return Err(illegal()),
                    }
                }
                "devices" => options.devices = number()?.try_into().map_err(|_| illegal())?,
                "seed" => options.seed = number()?,
                "memory" => options.memory = size(value).ok_or_else(illegal)?,
                "registered" => options.registered = size(value).ok_or_else(illegal)?,
                "written" => options.written = size(value).ok_or_else(illegal)?,
                "device" => options.device = size(value).ok_or_else(illegal)?,
                "rate" => options.rate = number()?,
                "throttle" => options.throttle = number()?.try_into().map_err(|_| illegal())?,
                "peers" => options.peers = flag()?,
                "remap" => options.remap = flag()?,
                "patience" => options.patience = number()?,
                _ => return Err(format!("guest.{name}: no such option")),
            }
            if matches!(name, "devices" | "memory" | "device" | "written") && number() == Ok(0) {
                return Err(illegal());
            }
        }
        Ok(options)
    }
}

/// Parses a size: a number of bytes, optionally with K, M or G.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'K' | 'k') => (&text[..at], 10),
        (at, 'M' | 'm') => (&text[..at], 20),
        (at, 'G' | 'g') => (&text[..at], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_options_are_theirs() {
        let options =
            Options::parse("console=ttyS0 guest.irq=msi quiet guest.memory=3M guest.peers=1\n")
                .unwrap();
        let expected = Options {
            irq: Irq::Msi,
            memory: 3 << 20,
            peers: true,
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "guest.irq=pin",
            "guest.kind=nvme",
            "guest.devices=0",
            "guest.devices",
            "guest.memory=0",
            "guest.memory=16Q",
            "guest.written=0",
            "guest.registered=some",
            "guest.memory=99999999999G",
            "guest.rate=-1",
            "guest.peers=2",
            "guest.peers",
            "guest.throttle=4294967296",
            "guest.sede=1",
        ] {
            assert!(Options::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("5"), Some(5));
        assert_eq!(size("2K"), Some(2048));
        assert_eq!(size("1g"), Some(1 << 30));
        assert_eq!(size(""), None);
        assert_eq!(size("M"), None);
    }
}
