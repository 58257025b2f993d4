// SPDX-License-Identifier: GPL-2.0

//! The identity of a saved device (P49).

use crate::error::Error;
use crate::format::{Kind, IDENTITY_SIZE, MAGIC, VERSION};
use crate::record::pack;
use crate::state_codec::Reader;

/// Type, version and geometry of a saved device. A destination accepts only a stream whose identity
/// equals its own in every field (P49).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the device type, padded with NUL: see [`device_type`].
    pub device_type: [u8; 16],
    /// Version of the device and of the layout of its state.
    pub device_version: u32,
    /// Feature bits of the device.
    pub features: u32,
    /// Size of device memory in bytes, 0 if it has none; a multiple of `page_size`.
    pub memory_size: u64,
    /// Unit of MEMORY and ZERO records in bytes; a power of two.
    pub page_size: u32,
    /// Upper bound of the device's own state in bytes.
    pub state_size_max: u32,
}

impl Identity {
    /// Returns the number of pages of device memory.
    pub const fn pages(&self) -> u64 {
        match self.memory_size.checked_div(self.page_size as u64) {
            Some(pages) => pages,
            None => 0,
        }
    }

    /// Checks that a device can have this identity. [`Error::Geometry`] if `page_size` is not a power
    /// of two or `memory_size` not a multiple of it.
    pub fn validate(&self) -> Result<(), Error> {
        if !self.page_size.is_power_of_two() {
            return Err(Error::Geometry {
                field: "page_size",
                expected: u64::from(self.page_size),
                found: 0,
            });
        }
        let rest = self.memory_size & u64::from(self.page_size).saturating_sub(1);
        if rest != 0 {
            return Err(Error::Geometry {
                field: "memory_size",
                expected: self.memory_size,
                found: rest,
            });
        }
        Ok(())
    }

    /// Returns the payload of the IDENTITY record.
    pub fn encode(&self) -> [u8; IDENTITY_SIZE] {
        pack(&[
            &MAGIC,
            &VERSION.to_le_bytes(),
            &[0; 4],
            &self.device_type,
            &self.device_version.to_le_bytes(),
            &self.features.to_le_bytes(),
            &self.memory_size.to_le_bytes(),
            &self.page_size.to_le_bytes(),
            &self.state_size_max.to_le_bytes(),
        ])
    }

    /// Decodes the payload of an IDENTITY record: `payload` is its beginning, `length` its length in
    /// bytes.
    ///
    /// Checks the magic and the version first, so that a stream of another version returns
    /// [`Error::Version`], whatever else that version changed. [`Error::Foreign`] without the magic,
    /// [`Error::Length`] or [`Error::Reserved`] if the rest is malformed.
    pub fn decode(payload: &[u8], length: u32) -> Result<Identity, Error> {
        let mut r = Reader::new(payload);
        if r.get_array::<8>() != Ok(MAGIC) {
            return Err(Error::Foreign);
        }
        let version = r.get_u32().map_err(|_| Error::Foreign)?;
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        if length as usize != IDENTITY_SIZE {
            return Err(Error::Length {
                kind: Kind::Identity,
                found: u64::from(length),
            });
        }
        let reserved = r.get_u32()?;
        if reserved != 0 {
            return Err(Error::Reserved {
                kind: Kind::Identity,
                found: u64::from(reserved),
            });
        }
        Ok(Identity {
            device_type: r.get_array()?,
            device_version: r.get_u32()?,
            features: r.get_u32()?,
            memory_size: r.get_u64()?,
            page_size: r.get_u32()?,
            state_size_max: r.get_u32()?,
        })
    }

    /// Compares `found` with this identity (P49). The error, [`Error::DeviceType`] or
    /// [`Error::Identity`], names the first field that differs.
    pub fn accept(&self, found: &Identity) -> Result<(), Error> {
        self.accept_since(self.device_version, found)
    }

    /// As [`Identity::accept`], but also accepts the versions of the device from `oldest` on. The state of an
    /// older version may be smaller.
    pub fn accept_since(&self, oldest: u32, found: &Identity) -> Result<(), Error> {
        let is_older = (oldest..self.device_version).contains(&found.device_version);
        let mut found = *found;
        if is_older {
            found.device_version = self.device_version;
            if found.state_size_max < self.state_size_max {
                found.state_size_max = self.state_size_max;
            }
        }
        self.compare(&found)
    }

    /// Compares all fields.
    fn compare(&self, found: &Identity) -> Result<(), Error> {
        if self.device_type != found.device_type {
            return Err(Error::DeviceType {
                expected: self.device_type,
                found: found.device_type,
            });
        }
        let fields = [
            (
                "device_version",
                u64::from(self.device_version),
                u64::from(found.device_version),
            ),
            (
                "features",
                u64::from(self.features),
                u64::from(found.features),
            ),
            ("memory_size", self.memory_size, found.memory_size),
            (
                "page_size",
                u64::from(self.page_size),
                u64::from(found.page_size),
            ),
            (
                "state_size_max",
                u64::from(self.state_size_max),
                u64::from(found.state_size_max),
            ),
        ];
        for (field, expected, found) in fields {
            if expected != found {
                return Err(Error::Identity {
                    field,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Returns `name` as a `device_type`: padded with NUL, or cut off after 16 bytes.
pub const fn device_type(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let mut from: &[u8] = name.as_bytes();
    let mut to: &mut [u8] = &mut out;
    while let (Some((byte, from_rest)), Some((slot, to_rest))) =
        (from.split_first(), to.split_first_mut())
    {
        *slot = *byte;
        from = from_rest;
        to = to_rest;
    }
    out
}
