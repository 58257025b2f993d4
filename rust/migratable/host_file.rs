// SPDX-License-Identifier: GPL-2.0

//! The character device by which a program on the host uses the host end of a device.

use crate::{
    device::VfioDevice,
    driver::Driver,
    host_end::HostEnd, //
};
use kernel::{
    fs::File,
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        poll::PollTable,
        Arc,
        Mutex, //
    },
    uaccess::UserPtr, //
};
use kernel_ext::char_device::{
    CharDevice,
    Operations, //
};

/// What an open file serves.
#[pin_data]
struct HostFile<T: Driver> {
    end: Arc<HostEnd>,
    /// The device, whose work is scheduled at each change; `None` when it is gone.
    #[pin]
    device: Mutex<Option<ARef<VfioDevice<T>>>>,
}

impl<T: Driver> HostFile<T> {
    /// Schedules work.
    fn schedule(&self) {
        if let Some(device) = &*self.device.lock() {
            device.schedule();
        }
    }
}

impl<T: Driver> Operations for HostFile<T> {
    fn open(&self) -> Result {
        self.end.open()?;
        self.schedule();
        Ok(())
    }

    fn release(&self) {
        self.end.close();
        self.schedule();
    }

    fn read(&self, buf: UserPtr, len: usize, wait: bool) -> Result<usize> {
        let done = self.end.read(buf, len, wait);
        self.schedule();
        done
    }

    fn write(&self, buf: UserPtr, len: usize, wait: bool) -> Result<usize> {
        let done = self.end.write(buf, len, wait)?;
        self.schedule();
        Ok(done)
    }

    fn poll(&self, file: &File, table: &PollTable<'_>) -> u32 {
        self.end.poll(file, table)
    }
}

/// The character device of a host end, which is removed when this is dropped.
pub(crate) struct HostDevice<T: Driver> {
    // Removed before the device is unregistered.
    _device: CharDevice<HostFile<T>>,
    file: Arc<HostFile<T>>,
}

impl<T: Driver> HostDevice<T> {
    /// Creates `/dev/DRIVER-UUID` for a device.
    pub(crate) fn new(device: &ARef<VfioDevice<T>>) -> Result<Self> {
        let end = device.host_end.clone();
        let reference = device.clone();
        let file = Arc::pin_init(
            pin_init!(HostFile {
                end,
                device <- new_mutex!(Some(reference), "host file"),
            }),
            GFP_KERNEL,
        )?;
        let driver = T::INFO.name.to_str().map_err(|_| EINVAL)?;
        let uuid = device.mdev.name().to_str().map_err(|_| EINVAL)?;
        let name = CString::try_from_fmt(fmt!("{driver}-{uuid}"))?;
        Ok(Self {
            _device: CharDevice::new(name, file.clone())?,
            file,
        })
    }
}

impl<T: Driver> Drop for HostDevice<T> {
    fn drop(&mut self) {
        self.file.end.remove();
        // Not in one expression with the lock: the last reference may go.
        let device = self.file.device.lock().take();
        drop(device);
    }
}
