// SPDX-License-Identifier: GPL-2.0

//! A VFIO group: the unit that is opened and put into a container. A mediated device has one of its own.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE};

use crate::container::Container;
use crate::error::{Context, Result};
use crate::sys;

/// What `VFIO_GROUP_GET_STATUS` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// All devices of the group are bound to VFIO or to nothing.
    pub viable: bool,
    /// It is in a container.
    pub container_set: bool,
}

/// A group in its container. A clone is the same group; it closes with its last clone and device.
#[derive(Clone, Debug)]
pub struct Group(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Dropped in this order: the group leaves its container by being closed.
    fd: OwnedFd,
    container: Container,
    number: u32,
}

/// An opened group that is in no container yet.
#[derive(Debug)]
pub struct LooseGroup {
    fd: OwnedFd,
    number: u32,
}

impl Group {
    /// Opens `/dev/vfio/NUMBER`, puts it into the container, and sets type1 v2 if it is the first there.
    ///
    /// `EBUSY` says that it is open already: one user at a time.
    pub fn open(number: u32, container: &Container) -> Result<Self> {
        let group = LooseGroup::open(number)?.attach(container)?;
        container.ensure_iommu()?;
        Ok(group)
    }

    /// Takes over the group of this number that another process has opened and put into the container.
    pub fn from_fd(fd: OwnedFd, number: u32, container: &Container) -> Self {
        Group(Arc::new(Inner {
            fd,
            container: container.clone(),
            number,
        }))
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Its container.
    pub fn container(&self) -> &Container {
        &self.0.container
    }

    /// `VFIO_GROUP_GET_STATUS`.
    pub fn status(&self) -> Result<GroupStatus> {
        status(self.as_fd())
    }

    /// Any ioctl with the bytes as given; see [`crate::raw`].
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
