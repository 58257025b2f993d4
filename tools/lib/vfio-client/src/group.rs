// SPDX-License-Identifier: GPL-2.0

//! A VFIO group: the unit that is opened and put into a container. Each mediated device has its own.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE};

use crate::container::Container;
use crate::error::{Context, Result};
use crate::sys;

/// Result of `VFIO_GROUP_GET_STATUS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Every device of the group is bound to VFIO or to no driver.
    pub viable: bool,
    /// It is in a container.
    pub container_set: bool,
}

/// A group in its container. A clone is the same group, which closes with its last clone and device.
#[derive(Clone, Debug)]
pub struct Group(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Dropped in this order: closing the group removes it from its container.
    fd: OwnedFd,
    container: Container,
    number: u32,
}

/// An opened group without a container.
#[derive(Debug)]
pub struct LooseGroup {
    fd: OwnedFd,
    number: u32,
}

impl Group {
    /// Opens `/dev/vfio/NUMBER`, puts it into the container, and sets type1 v2 if it is the first group there.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the group is open already: it has one user at a time.
    pub fn open(number: u32, container: &Container) -> Result<Self> {
        let group = LooseGroup::open(number)?.attach(container)?;
        container.ensure_iommu()?;
        Ok(group)
    }

    /// Takes over the group of this number, which another process has opened and put into the container.
    pub fn from_fd(fd: OwnedFd, number: u32, container: &Container) -> Self {
        Group(Arc::new(Inner {
            fd,
            container: container.clone(),
            number,
        }))
    }

    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Returns its container.
    pub fn container(&self) -> &Container {
        &self.0.container
    }

    /// `VFIO_GROUP_GET_STATUS`.
    pub fn status(&self) -> Result<GroupStatus> {
        status(self.as_fd())
    }

    /// Makes any ioctl with the bytes as given; see [`crate::raw`].
    pub fn raw_ioctl(&self, request: u32, argument: &mut [u8]) -> Result<i32> {
        sys::ioctl(self.as_fd(), request, argument).field(|| format!("ioctl {request:#x}"))
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl LooseGroup {
    /// Opens `/dev/vfio/NUMBER`.
    pub fn open(number: u32) -> Result<Self> {
        let path = format!("/dev/vfio/{number}");
        let fd = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .field(|| format!("open {path}"))?;
        Ok(LooseGroup {
            fd: fd.into(),
            number,
        })
    }

    /// `VFIO_GROUP_GET_STATUS`.
    pub fn status(&self) -> Result<GroupStatus> {
        status(self.fd.as_fd())
    }

    /// `VFIO_GROUP_SET_CONTAINER`.
    pub fn attach(self, container: &Container) -> Result<Group> {
        sys::set_container(self.fd.as_fd(), container.as_fd())
            .field(|| format!("VFIO_GROUP_SET_CONTAINER of group {}", self.number))?;
        Ok(Group(Arc::new(Inner {
            fd: self.fd,
            container: container.clone(),
            number: self.number,
        })))
    }
}

fn status(fd: BorrowedFd<'_>) -> Result<GroupStatus> {
    let mut arg = [0; 8];
    arg[0..4].copy_from_slice(&8u32.to_ne_bytes());
    sys::ioctl(fd, sys::nr(3), &mut arg).field(|| "VFIO_GROUP_GET_STATUS".into())?;
    let flags = u32::from_ne_bytes(arg[4..8].try_into().unwrap());
    Ok(GroupStatus {
        viable: flags & VFIO_GROUP_FLAGS_VIABLE != 0,
        container_set: flags & VFIO_GROUP_FLAGS_CONTAINER_SET != 0,
    })
}
