// SPDX-License-Identifier: GPL-2.0

//! The identity of a device as text, for a check before a migration.
//!
//! One line of `field=value`, with the fields of the IDENTITY record, and the oldest version of the device
//! that a stream may have.

use crate::error::Error;
use crate::format::VERSION;
use crate::identity::{device_type, Identity};
use core::fmt;

/// An identity that is printed as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityText {
    /// The identity.
    pub identity: Identity,
    /// The oldest version of the device whose state is accepted.
    pub oldest_version: u32,
}

impl fmt::Display for IdentityText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            device_type,
            device_version,
            features,
            memory_size,
            page_size,
            state_size_max,
        } = &self.identity;
        let end = device_type.iter().position(|byte| *byte == 0);
        let name = device_type.get(..end.unwrap_or(device_type.len()));
        write!(
            f,
            "stream_version={VERSION} device_type={} device_version={device_version} \
             oldest_version={} features={features:#x} memory_size={memory_size} \
             page_size={page_size} state_size_max={state_size_max}",
            name.unwrap_or_default().escape_ascii(),
            self.oldest_version
        )
    }
}

/// The numbers, in the order of the text.
const NUMBERS: [&str; 7] = [
    "stream_version",
    "device_version",
    "oldest_version",
    "features",
    "memory_size",
    "page_size",
    "state_size_max",
];

impl IdentityText {
    /// Parses the text, in which the fields may have any order. [`Error::Text`] names the field that is
    /// missing, twice there, too large or no number; [`Error::Version`] if the stream has another version.
    pub fn parse(text: &str) -> Result<IdentityText, Error> {
        let mut name = None;
        let mut numbers = [None; NUMBERS.len()];
        for token in text.split_ascii_whitespace() {
            let (field, value) = token.split_once('=').ok_or(Error::Text { field: "name" })?;
            if field == "device_type" {
                let error = Error::Text {
                    field: "device_type",
                };
                if name.is_some() || value.is_empty() || value.len() > 16 {
                    return Err(error);
                }
                name = Some(device_type(value));
                continue;
            }
            let slot = NUMBERS.iter().zip(&mut numbers).find(|n| *n.0 == field);
            let (field, slot) = slot.ok_or(Error::Text { field: "name" })?;
            let error = Error::Text { field };
            if slot.is_some() {
                return Err(error);
            }
            *slot = Some(number(value).ok_or(error)?);
        }
        let [stream, version, oldest, features, memory_size, page_size, state] = numbers;
        let stream = small(stream, "stream_version")?;
        if stream != VERSION {
            return Err(Error::Version { found: stream });
        }
        Ok(IdentityText {
            identity: Identity {
                device_type: name.ok_or(Error::Text {
                    field: "device_type",
                })?,
                device_version: small(version, "device_version")?,
                features: small(features, "features")?,
                memory_size: memory_size.ok_or(Error::Text {
                    field: "memory_size",
                })?,
                page_size: small(page_size, "page_size")?,
                state_size_max: small(state, "state_size_max")?,
            },
            oldest_version: small(oldest, "oldest_version")?,
        })
    }
}

/// Returns a number, decimal or with `0x`.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // A sign is accepted by the function, and is no digit.
    let unsigned = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    u64::from_str_radix(digits, radix).ok().filter(|_| unsigned)
}

/// Returns the value of a field of 32 bits.
fn small(value: Option<u64>, field: &'static str) -> Result<u32, Error> {
    value
        .and_then(|value| u32::try_from(value).ok())
        .ok_or(Error::Text { field })
}
