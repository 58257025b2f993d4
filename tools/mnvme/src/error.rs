// SPDX-License-Identifier: GPL-2.0

//! Errors of the driver.

use std::path::PathBuf;
use std::{fmt, io};

/// An error of the driver.
#[derive(Debug)]
pub enum Error {
    /// VFIO failed.
    Vfio(vfio_client::Error),
    /// The device is another one.
    Foreign {
        /// PCI vendor id.
        vendor: u16,
        /// PCI device id.
        device: u16,
    },
    /// The controller did not do in time what it was told to.
    Expired(String),
    /// A command failed.
    Status {
        /// What was done.
        what: &'static str,
        /// The status field without the phase tag.
        status: u16,
    },
    /// A file failed.
    File {
        /// The file.
        path: PathBuf,
        /// Its error.
        error: io::Error,
    },
    /// An image is larger than the namespace.
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Its bytes.
        len: u64,
        /// The bytes of the namespace.
        size: u64,
    },
}

/// The result of an operation.
pub type Result<T = ()> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Vfio(error) => error.fmt(f),
            Error::Foreign { vendor, device } => {
                write!(f, "PCI device {vendor:04x}:{device:04x} is no mnvme device")
            }
            Error::Expired(what) => write!(f, "limit reached while waiting for {what}"),
            Error::Status { what, status } => {
                let row = mnvme_model::status::STATUSES
                    .iter()
                    .find(|row| row.status.field() == *status);
                let name = row.map_or("unknown status", |row| row.name);
                write!(f, "{what}: status {status:#06x}: {name}")
            }
            Error::File { path, error } => write!(f, "{}: {error}", path.display()),
            Error::TooLarge { path, len, size } => {
                let path = path.display();
                write!(f, "{path}: {len} bytes, the namespace has {size}")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<vfio_client::Error> for Error {
    fn from(error: vfio_client::Error) -> Self {
        Error::Vfio(error)
    }
}
