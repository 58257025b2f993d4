// SPDX-License-Identifier: GPL-2.0

//! `VFIO_DEVICE_SET_IRQS` and `VFIO_DEVICE_GET_IRQ_INFO`.
//!
//! The semantics are those of vfio-pci, except that a refused request changes nothing: all eventfds are
//! looked up before the first is set.

use crate::{
    irq::{
        signal,
        Irq,
        Mode,
        State,
        Trigger,
        NUM_IRQS, //
    },
    log::Refusal, //
};
use core::mem::swap;
use kernel::{
    prelude::*,
    uaccess::UserSlice, //
};
use kernel_ext::{
    eventfd::EventFd,
    nospec, //
};
use vfio_bindings as bindings;

const INTX: u32 = bindings::VFIO_PCI_INTX_IRQ_INDEX;
const MSI: u32 = bindings::VFIO_PCI_MSI_IRQ_INDEX;
const MSIX: u32 = bindings::VFIO_PCI_MSIX_IRQ_INDEX;
const ERR: u32 = bindings::VFIO_PCI_ERR_IRQ_INDEX;
const REQ: u32 = bindings::VFIO_PCI_REQ_IRQ_INDEX;

/// The data after `struct vfio_irq_set`.
enum Data {
    /// `VFIO_IRQ_SET_DATA_NONE`.
    None,
    /// `VFIO_IRQ_SET_DATA_BOOL`, one for each interrupt.
    Bool(KVec<u8>),
    /// `VFIO_IRQ_SET_DATA_EVENTFD`, one for each interrupt.
    Eventfd(KVec<i32>),
}

/// A checked request.
struct Request {
    index: u32,
    start: usize,
    count: usize,
    /// The one `VFIO_IRQ_SET_ACTION_*` flag.
    action: u32,
    data: Data,
}

impl Request {
    /// Returns whether this disables the whole index.
    fn disables(&self) -> bool {
        self.count == 0 && matches!(self.data, Data::None)
    }

    /// Returns whether the action applies to interrupt `i`, counted from the start of the request.
    fn wants(&self, i: usize) -> bool {
        match &self.data {
            Data::None => true,
            Data::Bool(bools) => bools.get(i).is_some_and(|b| *b != 0),
            Data::Eventfd(_) => false,
        }
    }
}

/// Looks up an eventfd by file descriptor. -1 means none.
fn eventfd(fd: i32) -> Result<Trigger, Refusal> {
    match fd {
        -1 => Ok(None),
        fd => EventFd::from_fd(fd)
            .map(Some)
            .map_err(|e| Refusal(e, "not the descriptor of an eventfd")),
    }
}

impl Irq {
    /// Fills in `VFIO_DEVICE_GET_IRQ_INFO`.
    pub(crate) fn info(&self, info: &mut bindings::vfio_irq_info) -> Result<(), Refusal> {
        if info.index as usize >= NUM_IRQS {
            return Err(Refusal(EINVAL, "no such interrupt index"));
        }
        let index = nospec::index(info.index as usize, NUM_IRQS);

        info.count = self.count(index);
        info.flags = bindings::VFIO_IRQ_INFO_EVENTFD
            | match info.index {
                INTX => bindings::VFIO_IRQ_INFO_MASKABLE | bindings::VFIO_IRQ_INFO_AUTOMASKED,
                MSI | MSIX => bindings::VFIO_IRQ_INFO_NORESIZE,
                _ => 0,
            };
        Ok(())
    }

    /// Carries out `VFIO_DEVICE_SET_IRQS`. `data` follows the header.
    pub(crate) fn set(
        &self,
        hdr: &mut bindings::vfio_irq_set,
        data: UserPtr,
    ) -> Result<(), Refusal> {
        let request = self.parse(hdr, data)?;
        let _setup = self.setup.lock();

        match (request.index, request.action) {
            (INTX, bindings::VFIO_IRQ_SET_ACTION_MASK) => self.intx_mask(&request),
            (INTX, bindings::VFIO_IRQ_SET_ACTION_UNMASK) => self.intx_unmask(&request),
            (INTX, bindings::VFIO_IRQ_SET_ACTION_TRIGGER) => self.intx_trigger(&request),
            (MSI | MSIX, bindings::VFIO_IRQ_SET_ACTION_TRIGGER) => self.msi_trigger(&request),
            (ERR, bindings::VFIO_IRQ_SET_ACTION_TRIGGER) => {
                self.single_trigger(&request, |state| &mut state.err)
            }
            (REQ, bindings::VFIO_IRQ_SET_ACTION_TRIGGER) => {
                self.single_trigger(&request, |state| &mut state.req)
            }
            _ => Err(Refusal(ENOTTY, "the index does not have that action")),
        }
    }

    /// Checks the header and fetches the data.
    fn parse(&self, hdr: &mut bindings::vfio_irq_set, data: UserPtr) -> Result<Request, Refusal> {
        let index = nospec::index(hdr.index as usize, NUM_IRQS);
        let count = if (hdr.index as usize) < NUM_IRQS {
            self.count(index)
        } else {
            0
        };
        let mut size = 0;

        // SAFETY: Both pointers are to live values; the function reads the first and writes the second.
        kernel::error::to_result(unsafe {
            bindings::vfio_set_irqs_validate_and_prepare(
                hdr,
                count as c_int,
                NUM_IRQS as c_int,
                &mut size,
            )
        })
        .map_err(|e| Refusal(e, "argsz, flags, index, start or count is wrong"))?;

        let mut bytes = KVec::new();
        UserSlice::new(data, size).read_all(&mut bytes, GFP_KERNEL_ACCOUNT)?;

        let data = match hdr.flags & bindings::VFIO_IRQ_SET_DATA_TYPE_MASK {
            bindings::VFIO_IRQ_SET_DATA_BOOL => Data::Bool(bytes),
            bindings::VFIO_IRQ_SET_DATA_EVENTFD => {
                let mut fds = KVec::with_capacity(bytes.len() / 4, GFP_KERNEL_ACCOUNT)?;
                for fd in bytes.chunks_exact(4) {
                    fds.push(
                        i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]),
                        GFP_KERNEL_ACCOUNT,
                    )?;
                }
                Data::Eventfd(fds)
            }
            _ => Data::None,
        };

        Ok(Request {
            index: index as u32,
            // Checked above to be below the number of interrupts.
            start: nospec::index(hdr.start as usize, count as usize),
            count: hdr.count as usize,
            action: hdr.flags & bindings::VFIO_IRQ_SET_ACTION_TYPE_MASK,
            data,
        })
    }

    /// Checks that INTx, which is one interrupt, is in use.
    fn check_intx(&self, request: &Request) -> Result<(), Refusal> {
        if self.state.lock().mode != Mode::Intx {
            return Err(Refusal(EINVAL, "INTx is not in use"));
        }
        if request.count != 1 {
            return Err(Refusal(EINVAL, "INTx is one interrupt"));
        }
        Ok(())
    }

    /// `VFIO_IRQ_SET_ACTION_MASK` of INTx.
    fn intx_mask(&self, request: &Request) -> Result<(), Refusal> {
        self.check_intx(request)?;
        if let Data::Eventfd(_) = request.data {
            return Err(Refusal(ENOTTY, "INTx cannot be masked by an eventfd"));
        }
        if request.wants(0) {
            self.mask();
        }
        Ok(())
    }

    /// `VFIO_IRQ_SET_ACTION_UNMASK` of INTx.
    fn intx_unmask(&self, request: &Request) -> Result<(), Refusal> {
        self.check_intx(request)?;
        match request.data {
            Data::Eventfd(ref fds) => match fds.first() {
                None | Some(-1) => self.disable_unmask(),
                Some(&fd) => self
                    .enable_unmask(fd)
                    .map_err(|e| Refusal(e, "cannot be unmasked by that descriptor"))?,
            },
            _ if request.wants(0) => self.unmask(),
            _ => {}
        }
        Ok(())
    }

    /// Disables the mode in use.
    ///
    /// QEMU 7.2 disables MSI-X before it enables it. vfio-pci returns `EINVAL` if no mode is in use, and
    /// QEMU ignores that. This does the same and logs nothing.
    fn disable_mode(&self, mode: Mode) -> Result<(), Refusal> {
        if mode == Mode::Off {
            return Err(Refusal(EINVAL, ""));
        }
        self.disable();
        Ok(())
    }

    /// `VFIO_IRQ_SET_ACTION_TRIGGER` of INTx.
    fn intx_trigger(&self, request: &Request) -> Result<(), Refusal> {
        let mode = self.state.lock().mode;

        if matches!(mode, Mode::Off | Mode::Intx) && request.disables() {
            return self.disable_mode(mode);
        }
        if !matches!(mode, Mode::Off | Mode::Intx) {
            return Err(Refusal(EINVAL, "MSI or MSI-X is in use"));
        }
        if request.count != 1 {
            return Err(Refusal(EINVAL, "INTx is one interrupt"));
        }

        if let Data::Eventfd(ref fds) = request.data {
            let mut trigger = eventfd(fds.first().copied().unwrap_or(-1))?;
            let due = self.state.lock().set_intx(&mut trigger);
            signal(due);
            return Ok(());
        }
        if mode == Mode::Off {
            return Err(Refusal(EINVAL, "INTx is not in use"));
        }
        if request.wants(0) {
            let trigger = self.state.lock().loop_intx();
            signal(trigger);
        }
        Ok(())
    }

    /// `VFIO_IRQ_SET_ACTION_TRIGGER` of MSI and MSI-X.
    fn msi_trigger(&self, request: &Request) -> Result<(), Refusal> {
        let wanted = match request.index {
            MSI => Mode::Msi,
            _ => Mode::Msix,
        };
        let (mode, enabled) = {
            let state = self.state.lock();
            (state.mode, state.vectors.len())
        };

        if (mode == Mode::Off || mode == wanted) && request.disables() {
            return self.disable_mode(mode);
        }
        if mode != Mode::Off && mode != wanted {
            return Err(Refusal(EINVAL, "another kind of interrupt is in use"));
        }
        if let Data::Eventfd(ref fds) = request.data {
            return self.set_vectors(request, fds, wanted, enabled);
        }
        if mode == Mode::Off {
            return Err(Refusal(EINVAL, "no vector is in use"));
        }
        for i in (0..request.count).filter(|i| request.wants(*i)) {
            let trigger = self.state.lock().vectors.get(request.start + i).cloned();
            signal(trigger.flatten());
        }
        Ok(())
    }

    /// Sets the eventfds of vectors, and enables MSI or MSI-X if it is disabled.
    fn set_vectors(
        &self,
        request: &Request,
        fds: &[i32],
        mode: Mode,
        enabled: usize,
    ) -> Result<(), Refusal> {
        let vectors = request.start..request.start + request.count;

        if vectors.is_empty() {
            return Err(Refusal(EINVAL, "no vectors given"));
        }
        if enabled != 0 && vectors.end > enabled {
            return Err(Refusal(EINVAL, "more vectors than were enabled"));
        }

        // What can fail comes first. The former eventfds are dropped after the lock.
        let mut triggers = KVec::with_capacity(fds.len(), GFP_KERNEL_ACCOUNT)?;
        for fd in fds {
            triggers.push(eventfd(*fd)?, GFP_KERNEL_ACCOUNT)?;
        }
        let mut fresh = KVec::new();
        if enabled == 0 {
            fresh.resize(vectors.end, None, GFP_KERNEL_ACCOUNT)?;
        }

        {
            let mut state = self.state.lock();
            if enabled == 0 {
                swap(&mut state.vectors, &mut fresh);
                state.mode = mode;
            }
            state.set_triggers(request.start, &mut triggers);
        }
        self.send_pending();
        Ok(())
    }

    /// `VFIO_IRQ_SET_ACTION_TRIGGER` of the error and request notifications.
    fn single_trigger(
        &self,
        request: &Request,
        field: fn(&mut State) -> &mut Trigger,
    ) -> Result<(), Refusal> {
        let mut trigger = match request.data {
            Data::Eventfd(ref fds) => match fds.first() {
                Some(&fd) => eventfd(fd)?,
                None => return Err(Refusal(EINVAL, "no eventfd given")),
            },
            Data::Bool(_) if request.count == 0 => {
                return Err(Refusal(EINVAL, "no value given"));
            }
            Data::None | Data::Bool(_) => {
                let current = field(&mut self.state.lock()).clone();

                if current.is_none() && matches!(request.data, Data::None) {
                    return Err(Refusal(EINVAL, "no eventfd is in place"));
                }
                if !request.disables() {
                    if request.wants(0) {
                        signal(current);
                    }
                    return Ok(());
                }
                None
            }
        };

        swap(field(&mut self.state.lock()), &mut trigger);
        Ok(())
    }
}
