// SPDX-License-Identifier: GPL-2.0

//! Checks of the device's own file and of its binding to an iommufd.

use std::fs::OpenOptions;
use std::os::fd::AsFd;

use vfio_client::{raw, Device};

use crate::check::{Check, Line};
use crate::fault::{require, require_invalid, Fault};
use crate::subject::Subject;

pub(crate) const READS: &[Check] = &[
    Check::reads(
        "cdev.unbound",
        Line::vfio(
            "VFIO_DEVICE_BIND_IOMMUFD",
            "User is restricted from accessing the device before the binding operation is completed.",
        ),
        "Before the binding, VFIO_DEVICE_GET_INFO and a read fail.",
        unbound,
    ),
    Check::reads(
        "cdev.bind",
        Line::vfio(
            "VFIO_DEVICE_BIND_IOMMUFD",
            "Unbind is automatically conducted when device fd is closed.",
        ),
        "The device is bound, refuses a second binding, and is bound again after a close.",
        bind,
    ),
    Check::reads(
        "cdev.attach",
        Line::vfio(
            "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            "Undo by VFIO_DEVICE_DETACH_IOMMUFD_PT or device fd close.",
        ),
        "The device is attached to an address space and detached, twice.",
        attach,
    ),
];

/// Numbers of ioctls.
const GET_INFO: u32 = 7;
const BIND: u32 = 18;
const ATTACH: u32 = 19;
const DETACH: u32 = 20;

fn unbound(subject: &Subject) -> Result<(), Fault> {
    let path = subject.cdev()?;
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(|e| vfio_client::Error::new(path.display().to_string(), e))?;
    let mut arg = [0; 64];
    arg[0] = 64;
    let info = raw::ioctl(file.as_fd(), raw::nr(GET_INFO), &mut arg);
    let what = "an error of VFIO_DEVICE_GET_INFO before the binding";
    require(info.is_err(), what, format!("{info:?}"))?;
    let read = std::io::Read::read(&mut &file, &mut [0; 4]);
    let what = "an error of a read before the binding";
    require(read.is_err(), what, format!("{read:?}"))
}

/// Opens the file of the device.
fn open(subject: &Subject) -> Result<Device, Fault> {
    Ok(Device::open_cdev(&subject.cdev()?, subject.name())?)
}

fn bind(subject: &Subject) -> Result<(), Fault> {
    for _ in 0..2 {
        let device = open(subject)?;
        let mut arg = [0; 16];
        arg[0] = 16;
        arg[8..12].copy_from_slice(&device.iommufd_number().to_ne_bytes());
        require_invalid(
            "a second binding",
            device.raw_ioctl(raw::nr(BIND), &mut arg),
        )?;
    }
    Ok(())
}

fn attach(subject: &Subject) -> Result<(), Fault> {
    let device = open(subject)?;
    for _ in 0..2 {
        let space = device.new_address_space()?;
        let mut arg = [0; 12];
        arg[0] = 12;
        arg[8..12].copy_from_slice(&space.to_ne_bytes());
        let attached = device.raw_ioctl(raw::nr(ATTACH), &mut arg);
        let what = "an attachment to an address space";
        require(attached.is_ok(), what, format!("{attached:?}"))?;
        let mut arg = [0; 8];
        arg[0] = 8;
        let detached = device.raw_ioctl(raw::nr(DETACH), &mut arg);
        require(detached.is_ok(), "a detachment", format!("{detached:?}"))?;
    }
    Ok(())
}
