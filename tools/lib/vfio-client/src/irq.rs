// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a device: `VFIO_DEVICE_GET_IRQ_INFO` and `VFIO_DEVICE_SET_IRQS`.

use std::os::fd::{AsFd, AsRawFd};

use vfio_bindings::bindings::vfio::{
    vfio_irq_info, vfio_irq_set, VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_EVENTFD,
    VFIO_IRQ_INFO_MASKABLE, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
};

use crate::caps::read_u32;
use crate::device::Device;
use crate::error::{Context, Result};
use crate::eventfd::EventFd;
use crate::info::info_ioctl;
use crate::sys;

/// The action of `VFIO_DEVICE_SET_IRQS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mask.
    Mask,
    /// Unmask.
    Unmask,
    /// With eventfds: connect them. Otherwise: fire now.
    Trigger,
}

impl Action {
    fn flag(self) -> u32 {
        match self {
            Action::Mask => VFIO_IRQ_SET_ACTION_MASK,
            Action::Unmask => VFIO_IRQ_SET_ACTION_UNMASK,
            Action::Trigger => VFIO_IRQ_SET_ACTION_TRIGGER,
        }
    }
}

/// Result of `VFIO_DEVICE_GET_IRQ_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// `flags`.
    pub flags: u32,
    /// Its index.
    pub index: u32,
    /// Number of vectors.
    pub count: u32,
}

impl IrqInfo {
    /// Returns whether it supports eventfds.
    pub fn eventfd(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_EVENTFD != 0
    }

    /// Returns whether it can be masked.
    pub fn maskable(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_MASKABLE != 0
    }

    /// Returns whether it masks itself when it fires.
    pub fn automasked(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_AUTOMASKED != 0
    }

    /// Returns whether its vectors can only be enabled all at once.
    pub fn noresize(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_NORESIZE != 0
    }
}

/// An interrupt index of an opened device.
#[derive(Clone, Debug)]
pub struct Irq {
    device: Device,
    info: IrqInfo,
}

impl Device {
    /// Returns the interrupt of this index.
    pub fn irq(&self, index: u32) -> Result<Irq> {
        Irq::new(self.clone(), index)
    }
}

impl Irq {
    fn new(device: Device, index: u32) -> Result<Self> {
        let size = size_of::<vfio_irq_info>();
        let bytes = info_ioctl(device.as_fd(), sys::nr(9), index, size, true)
            .field(|| format!("VFIO_DEVICE_GET_IRQ_INFO {index}"))?;
        let info = IrqInfo {
            flags: read_u32(&bytes, 4).unwrap(),
            index,
            count: read_u32(&bytes, 12).unwrap(),
        };
        Ok(Irq { device, info })
    }

    /// Returns its properties.
    pub fn info(&self) -> IrqInfo {
        self.info
    }

    /// Connects vectors from `start` on to eventfds; `None` disconnects.
    pub fn set_eventfds(&self, start: u32, fds: &[Option<&EventFd>]) -> Result<()> {
        self.eventfds(Action::Trigger, start, fds)
    }

    /// Makes a signal of the eventfd unmask the vector; `None` disconnects.
    pub fn set_unmask_eventfd(&self, vector: u32, fd: Option<&EventFd>) -> Result<()> {
        self.eventfds(Action::Unmask, vector, &[fd])
    }

    /// Makes a signal of the eventfd mask the vector; `None` disconnects.
    pub fn set_mask_eventfd(&self, vector: u32, fd: Option<&EventFd>) -> Result<()> {
        self.eventfds(Action::Mask, vector, &[fd])
    }

    /// Disables all vectors.
    pub fn disable(&self) -> Result<()> {
        self.set_none(Action::Trigger, 0, 0)
    }

    /// Masks, unmasks or fires vectors, with `DATA_NONE`.
    pub fn set_none(&self, action: Action, start: u32, count: u32) -> Result<()> {
        self.set_raw(
            None,
            VFIO_IRQ_SET_DATA_NONE | action.flag(),
            start,
            count,
            &[],
        )
    }

    /// Masks, unmasks or fires the vectors from `start` on that are true, with `DATA_BOOL`.
    pub fn set_bool(&self, action: Action, start: u32, which: &[bool]) -> Result<()> {
        let data: Vec<u8> = which.iter().map(|b| u8::from(*b)).collect();
        let flags = VFIO_IRQ_SET_DATA_BOOL | action.flag();
        self.set_raw(None, flags, start, data.len() as u32, &data)
    }

    fn eventfds(&self, action: Action, start: u32, fds: &[Option<&EventFd>]) -> Result<()> {
        let number = |fd: &Option<&EventFd>| fd.map_or(-1, |fd| fd.as_fd().as_raw_fd());
        let data: Vec<u8> = fds.iter().flat_map(|fd| number(fd).to_ne_bytes()).collect();
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | action.flag();
        self.set_raw(None, flags, start, fds.len() as u32, &data)
    }

    /// `VFIO_DEVICE_SET_IRQS` with every value as given; `None` as `argsz` stands for the right
    /// value.
    pub fn set_raw(
        &self,
        argsz: Option<u32>,
        flags: u32,
        start: u32,
        count: u32,
        data: &[u8],
    ) -> Result<()> {
        let index = self.info.index;
        let fixed = size_of::<vfio_irq_set>();
        let argsz = argsz.unwrap_or((fixed + data.len()) as u32);
        let mut arg = Vec::with_capacity(fixed + data.len());
        for value in [argsz, flags, index, start, count] {
            arg.extend(value.to_ne_bytes());
        }
        arg.extend_from_slice(data);
        sys::ioctl(self.device.as_fd(), sys::nr(10), &mut arg)
            .map(drop)
            .field(|| {
                format!(
                    "VFIO_DEVICE_SET_IRQS index {index} flags {flags:#x} start {start} count {count}"
                )
            })
    }
}
