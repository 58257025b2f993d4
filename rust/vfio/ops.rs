// SPDX-License-Identifier: GPL-2.0

//! The operations of a VFIO device, and the callbacks of `struct vfio_device_ops`.
//!
//! Each callback unpacks its arguments, calls [`DeviceOps`] and logs what it refuses. VFIO calls them
//! from many threads at once; only open and close exclude each other.
//!
//! C header: [`include/linux/vfio.h`](srctree/include/linux/vfio.h)

#[cfg(CONFIG_IOMMUFD_DRIVER)]
pub(crate) mod logging;
pub(crate) mod migration;

use crate::{
    device::Device,
    dma::Dma,
    irq::{
        Irq,
        NUM_IRQS, //
    },
    log::Refusal,
    position::Position,
    refuse,
    trace, //
};
use core::{
    fmt,
    marker::PhantomData,
    mem::size_of,
    ptr::NonNull, //
};
use kernel::{
    ffi::{
        c_long,
        c_ulong, //
    },
    fs::File,
    ioctl::_IO,
    prelude::*,
    sync::aref::ARef,
    uaccess::UserSlice, //
};
use vfio_bindings as bindings;

/// Number of a `VFIO_DEVICE_*` ioctl.
const fn nr(offset: u32) -> u32 {
    _IO(bindings::VFIO_TYPE as u32, bindings::VFIO_BASE + offset)
}

const VFIO_DEVICE_GET_INFO: u32 = nr(7);
const VFIO_DEVICE_GET_IRQ_INFO: u32 = nr(9);
const VFIO_DEVICE_SET_IRQS: u32 = nr(10);
const VFIO_DEVICE_RESET: u32 = nr(11);

/// The operations of a VFIO device: `struct vfio_device_ops` and `struct vfio_migration_ops`.
///
/// # Context
///
/// All functions may sleep. They are called concurrently and from any thread, except that
/// [`DeviceOps::open`] and [`DeviceOps::close`] alternate. All others are called between the two.
pub trait DeviceOps: Send + Sync + Sized + 'static {
    /// `vfio_device_ops.name`.
    const NAME: &'static CStr;

    /// Number of regions in `VFIO_DEVICE_GET_INFO`.
    const NUM_REGIONS: usize;

    /// Returns `vfio_device.migration_flags`: `VFIO_MIGRATION_*` (P38); 0 for a device that does not migrate
    /// by v2. Called once, before the device is registered.
    fn migration_flags(&self) -> u32;

    /// Returns the interrupts, for `VFIO_DEVICE_SET_IRQS`.
    fn irq(&self) -> &Irq;

    /// Returns guest memory. The caller opens and closes it with the device.
    fn dma(&self) -> &Dma;

    /// Logs why something was refused: one line, rate-limited. Use it through
    /// [`refuse!`](crate::refuse).
    fn refuse(&self, reason: fmt::Arguments<'_>);

    /// The first user opens the device. An error is the errno of the ioctl.
    fn open(&self) -> Result;

    /// The last user has closed the device. Guest memory can still be unpinned, and is not accessible
    /// after this.
    fn close(&self);

    /// Reads at most `len` bytes of a region into the user's `buf`, and returns how many.
    fn read(&self, at: Position, buf: UserPtr, len: usize) -> Result<usize, Refusal>;

    /// Writes at most `len` bytes of the user's `buf` to a region, and returns how many.
    fn write(&self, at: Position, buf: UserPtr, len: usize) -> Result<usize, Refusal>;

    /// Maps `len` bytes of a region.
    ///
    /// # Safety
    ///
    /// `vma` is being set up by `mmap()` of this device's file.
    unsafe fn mmap(
        &self,
        at: Position,
        len: usize,
        vma: *mut bindings::vm_area_struct,
    ) -> Result<(), Refusal>;

    /// Fills in `VFIO_DEVICE_GET_REGION_INFO`, for the region with `info.index`.
    ///
    /// # Safety
    ///
    /// `caps` points to the capabilities that belong to `info`.
    unsafe fn region_info(
        &self,
        info: &mut bindings::vfio_region_info,
        caps: *mut bindings::vfio_info_cap,
    ) -> Result<(), Refusal>;

    /// `VFIO_DEVICE_RESET`. An error was logged.
    fn reset(&self) -> Result;

    /// Changes the migration state to the one with number `to`. Returns the data file if a session
    /// began. An error was logged.
    fn set_migration_state(dev: &Device<Self>, to: u32) -> Result<Option<ARef<File>>>;

    /// Returns the number of the migration state.
    fn migration_state(&self) -> Result<u32>;

    /// Returns how many bytes a save would move if the device stopped now (P47).
    fn migration_data_size(&self) -> Result<u64>;
}

/// The operations of the devices with data `T`.
pub(crate) struct VTable<T: DeviceOps>(PhantomData<T>);

impl<T: DeviceOps> VTable<T> {
    /// The operations for `vfio_device.ops`.
    pub(crate) const OPS: &'static bindings::vfio_device_ops = &bindings::vfio_device_ops {
        name: kernel::str::as_char_ptr_in_const_context(T::NAME).cast_mut(),
        release: Some(release::<T>),
        #[cfg(CONFIG_IOMMUFD)]
        bind_iommufd: Some(bindings::vfio_iommufd_emulated_bind),
        #[cfg(CONFIG_IOMMUFD)]
        unbind_iommufd: Some(bindings::vfio_iommufd_emulated_unbind),
        #[cfg(CONFIG_IOMMUFD)]
        attach_ioas: Some(bindings::vfio_iommufd_emulated_attach_ioas),
        #[cfg(CONFIG_IOMMUFD)]
        detach_ioas: Some(bindings::vfio_iommufd_emulated_detach_ioas),
        open_device: Some(open_device::<T>),
        close_device: Some(close_device::<T>),
        read: Some(read::<T>),
        write: Some(write::<T>),
        ioctl: Some(ioctl::<T>),
        get_region_info_caps: Some(get_region_info_caps::<T>),
        mmap: Some(mmap::<T>),
        request: Some(request::<T>),
        dma_unmap: Some(dma_unmap::<T>),
        ..pin_init::zeroed()
    };
}

/// The operations of a device that is not initialised: its release drops nothing.
pub(crate) fn uninitialised() -> &'static bindings::vfio_device_ops {
    const OPS: &bindings::vfio_device_ops = &bindings::vfio_device_ops {
        ..pin_init::zeroed()
    };
    OPS
}

/// Logs a refusal of `what` and turns it into an errno.
macro_rules! refused {
    ($device:expr, $refusal:expr, $($what:tt)+) => {{
        let Refusal(errno, reason) = $refusal;
        if !reason.is_empty() {
            refuse!(
                $device,
                "{}: {} ({:?})",
                format_args!($($what)+),
                reason,
                errno
            );
        }
        errno.to_errno()
    }};
}

/// # Safety
///
/// Called by VFIO at the last put of an initialised device, which it frees afterwards.
unsafe extern "C" fn release<T: DeviceOps>(vdev: *mut bindings::vfio_device) {
    // SAFETY: By the requirement of this function the device is not used any more.
    unsafe { vdev.cast::<Device<T>>().drop_in_place() }
}

/// # Safety
///
/// Called by VFIO for the first open of a registered device.
unsafe extern "C" fn open_device<T: DeviceOps>(vdev: *mut bindings::vfio_device) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };

    // SAFETY: VFIO has opened the device. `close_device()` and the failure below clear it again.
    unsafe { this.dma().set_device(NonNull::new(vdev)) };
    match this.open() {
        Ok(()) => 0,
        Err(e) => {
            // SAFETY: `None` is always allowed.
            unsafe { this.dma().set_device(None) };
            refused!(this, e.into(), "open")
        }
    }
}

/// # Safety
///
/// Called by VFIO for the last close of a registered device.
unsafe extern "C" fn close_device<T: DeviceOps>(vdev: *mut bindings::vfio_device) {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };

    this.close();
    // SAFETY: `None` is always allowed.
    unsafe { this.dma().set_device(None) };
}

/// # Safety
///
/// Called by VFIO for an open device; `ppos` is the file offset of the call.
unsafe extern "C" fn read<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    buf: *mut c_char,
    count: usize,
    ppos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: The device is registered, and `ppos` is valid.
    let (this, ppos) = unsafe { (Device::<T>::from_raw(vdev), &mut *ppos) };
    let at = Position::new(*ppos as u64);

    match this.read(at, UserPtr::from_ptr(buf.cast()), count) {
        Ok(done) => {
            *ppos += done as bindings::loff_t;
            done as isize
        }
        Err(refusal) => refused!(
            this,
            refusal,
            "read of {} bytes at {:#x} of region {}",
            count,
            at.offset,
            at.index
        ) as isize,
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `ppos` is the file offset of the call.
unsafe extern "C" fn write<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    buf: *const c_char,
    count: usize,
    ppos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: The device is registered, and `ppos` is valid.
    let (this, ppos) = unsafe { (Device::<T>::from_raw(vdev), &mut *ppos) };
    let at = Position::new(*ppos as u64);

    match this.write(at, UserPtr::from_ptr(buf.cast_mut().cast()), count) {
        Ok(done) => {
            *ppos += done as bindings::loff_t;
            done as isize
        }
        Err(refusal) => refused!(
            this,
            refusal,
            "write of {} bytes at {:#x} of region {}",
            count,
            at.offset,
            at.index
        ) as isize,
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `vma` is being set up.
unsafe extern "C" fn mmap<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: The device is registered, and `vma` is valid.
    let (this, start, end, pgoff) = unsafe {
        let range = (*vma).__bindgen_anon_1.__bindgen_anon_1;
        (
            Device::<T>::from_raw(vdev),
            range.vm_start,
            range.vm_end,
            (*vma).vm_pgoff,
        )
    };
    // A file offset has 64 bits, so no region is at or above page 2^52.
    let pos = (pgoff as u64)
        .checked_mul(kernel::page::PAGE_SIZE as u64)
        .unwrap_or(u64::MAX);
    let at = Position::new(pos);
    let len = end - start;

    // SAFETY: By the requirement of this function.
    match unsafe { this.mmap(at, len, vma) } {
        Ok(()) => 0,
        Err(refusal) => refused!(
            this,
            refusal,
            "mmap of {} bytes at {:#x} of region {}",
            len,
            at.offset,
            at.index
        ),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `info` and `caps` are valid.
unsafe extern "C" fn get_region_info_caps<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    info: *mut bindings::vfio_region_info,
    caps: *mut bindings::vfio_info_cap,
) -> c_int {
    // SAFETY: The device is registered, and `info` is valid.
    let (this, info) = unsafe { (Device::<T>::from_raw(vdev), &mut *info) };

    // SAFETY: `caps` are those of `info`.
    match unsafe { this.region_info(info, caps) } {
        Ok(()) => 0,
        Err(refusal) => refused!(this, refusal, "GET_REGION_INFO of region {}", info.index),
    }
}

/// # Safety
///
/// Called by VFIO when it asks the user to give up a registered device.
unsafe extern "C" fn request<T: DeviceOps>(vdev: *mut bindings::vfio_device, count: c_uint) {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };

    if !this.irq().request() && count == 0 {
        refuse!(
            this,
            "remove: in use, and no request eventfd to tell the user; waiting for the close"
        );
    }
}

/// # Safety
///
/// Called by VFIO when a range that an open device may use is unmapped.
unsafe extern "C" fn dma_unmap<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    iova: u64,
    length: u64,
) {
    #[cfg(CONFIG_IOMMUFD)]
    // SAFETY: The device is open, and VFIO changes the field only when it opens and closes it.
    let by_iommufd = unsafe { !(*vdev).iommufd_access.is_null() };
    #[cfg(not(CONFIG_IOMMUFD))]
    let by_iommufd = false;

    // SAFETY: The device is valid.
    unsafe { trace::unmap(vdev, iova, length) };
    // SAFETY: The device is registered.
    unsafe { Device::<T>::from_raw(vdev) }
        .dma()
        .unmap(iova, length, by_iommufd);
}

/// # Safety
///
/// Called by VFIO for an open device.
unsafe extern "C" fn ioctl<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    let arg = UserPtr::from_addr(arg);

    let result = match cmd {
        VFIO_DEVICE_GET_INFO => get_info(arg, T::NUM_REGIONS).map_err(|r| (r, "GET_INFO")),
        VFIO_DEVICE_GET_IRQ_INFO => get_irq_info(this.irq(), arg).map_err(|r| (r, "GET_IRQ_INFO")),
        VFIO_DEVICE_SET_IRQS => set_irqs(this.irq(), arg).map_err(|r| (r, "SET_IRQS")),
        VFIO_DEVICE_RESET => this.reset().map_err(|e| (Refusal::logged(e), "RESET")),
        _ => Err((Refusal(ENOTTY, "not known to this device"), "ioctl")),
    };

    match result {
        Ok(()) => 0,
        Err((refusal, what)) => refused!(this, refusal, "{} ({:#x})", what, cmd) as c_long,
    }
}

/// Fetches the first `N` words of an ioctl's argument, the first of which is its `argsz`.
fn fetch<const N: usize>(arg: UserPtr) -> Result<[u32; N], Refusal> {
    let mut reader = UserSlice::new(arg, 4 * N).reader();
    let mut words = [0; N];

    for word in &mut words {
        *word = reader.read::<u32>()?;
    }
    if (words[0] as usize) < 4 * N {
        return Err(Refusal(EINVAL, "argsz is too small"));
    }
    Ok(words)
}

/// Stores words to an ioctl's argument.
fn store(arg: UserPtr, words: &[u32]) -> Result<(), Refusal> {
    let mut writer = UserSlice::new(arg, 4 * words.len()).writer();

    for word in words {
        writer.write::<u32>(word)?;
    }
    Ok(())
}

/// `VFIO_DEVICE_GET_INFO`.
fn get_info(arg: UserPtr, regions: usize) -> Result<(), Refusal> {
    let [argsz, ..] = fetch::<4>(arg)?;
    let info = [
        argsz,
        bindings::VFIO_DEVICE_FLAGS_RESET | bindings::VFIO_DEVICE_FLAGS_PCI,
        regions as u32,
        NUM_IRQS as u32,
        // `cap_offset` and padding, which older users do not have room for.
        0,
        0,
    ];
    let words = if argsz as usize >= size_of::<bindings::vfio_device_info>() {
        6
    } else {
        4
    };

    store(arg, &info[..words])
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
fn get_irq_info(irq: &Irq, arg: UserPtr) -> Result<(), Refusal> {
    let [argsz, _, index, _] = fetch::<4>(arg)?;
    let mut info = bindings::vfio_irq_info {
        argsz,
        index,
        ..Default::default()
    };

    irq.info(&mut info)?;
    store(arg, &[info.argsz, info.flags, info.index, info.count])
}

/// `VFIO_DEVICE_SET_IRQS`.
fn set_irqs(irq: &Irq, arg: UserPtr) -> Result<(), Refusal> {
    let [argsz, flags, index, start, count] = fetch::<5>(arg)?;
    let mut hdr = bindings::vfio_irq_set {
        argsz,
        flags,
        index,
        start,
        count,
        ..Default::default()
    };

    irq.set(
        &mut hdr,
        arg.wrapping_byte_add(size_of::<bindings::vfio_irq_set>()),
    )
}
