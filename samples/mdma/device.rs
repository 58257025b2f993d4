// SPDX-License-Identifier: GPL-2.0

//! The device as a [`vfio::Device`].
//!
//! # Locks
//!
//! ```text
//!   worker     the data of a step; held during DMA. Taken by steps, and by callers that stopped them
//!     control  the registers; held for a few instructions, never during DMA or a user copy. Also held
//!              while a completion record is written to pinned pages, which does not wait. While a
//!              record is copied, register accesses wait killably: see [`Mdma::registers`]
//!       (the framework's locks of a pinned range and of the interrupts)
//! ```

use crate::bus::{
    self,
    Bus,
    Pages, //
};
use core::sync::atomic::{
    AtomicBool,
    Ordering::Relaxed, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};
use mdma_model::{
    control::{
        self,
        Control,
        Effect,
        Plan, //
    },
    engine,
    regs,
    state, //
};
use vfio::{
    event::Event,
    pci::{
        Bar,
        Layout, //
    },
    stream::{
        Reader,
        Writer, //
    },
    Handle,
    Refused,
    Step, //
};

/// Vectors of MSI and of MSI-X. Only the first two fire, one for each cause.
const VECTORS: u8 = 4;

/// The longest pause in a step. The framework waits for longer ones, and ends them at once when the
/// device is stopped.
const NAP: Delta = Delta::from_millis(1);

/// The configuration of one mdev type.
pub(crate) struct Config {
    /// Bytes of device memory.
    pub(crate) memory_size: u64,
    /// `THROTTLE` after a reset.
    pub(crate) throttle_us: u32,
    /// Writes to guest memory of at least this many bytes pin the pages.
    pub(crate) pin_from: usize,
}

/// The data of a step.
struct Worker {
    pages: Pages,
    /// The run of the queue to which `pages` belong.
    run: u32,
    bounce: KVVec<u8>,
    pin_from: usize,
    /// The end of the last unit, and the time to wait from then on.
    pause: Option<(Instant<Monotonic>, Delta)>,
}

impl Worker {
    /// Waits out the rest of the pause if it is short; otherwise returns its milliseconds.
    fn wait(&mut self) -> Option<u32> {
        let (start, pause) = self.pause?;
        let left = pause - start.elapsed();

        if left > NAP {
            // Rounded up, and at most `MAX_THROTTLE_US`.
            return Some(u32::try_from((left.as_micros_ceil() + 999) / 1000).unwrap_or(0));
        }
        if left > Delta::ZERO {
            fsleep(left);
        }
        self.pause = None;
        None
    }
}

/// A DMA engine with memory on board.
#[pin_data]
pub(crate) struct Mdma {
    handle: Handle,
    #[pin]
    control: Mutex<Control>,
    #[pin]
    worker: Mutex<Worker>,
    /// A completion record is being copied. Changes only while `control` is locked.
    recording: AtomicBool,
    /// Notified when the copy is done.
    #[pin]
    recorded: Event,
}

impl Mdma {
    /// Locks the registers for an access of the user.
    ///
    /// Software that sees a completion record must see its registers too. So while a record is
    /// copied, which may wait for a page fault of the user, accesses wait as well. If the calling task
    /// is killed meanwhile, the access is refused: nobody sees the result.
    fn registers(&self) -> Result<Guard<'_, Control, MutexBackend>, Refused> {
        loop {
            let seen = self.recorded.generation();
            let control = self.control.lock();
            if !self.recording.load(Relaxed) {
                return Ok(control);
            }
            drop(control);
            let waited = self.recorded.wait_killable(seen);
            waited.map_err(|_| Refused)?;
        }
    }

    /// Applies the effect of a register change. The caller holds the lock of the registers, so two
    /// changes assert vectors in order.
    fn apply(&self, control: &Control, effect: Effect) {
        let irq = self.handle.irq();

        for vector in 0..regs::INT_ALL.count_ones() {
            if effect.events & (1 << vector) != 0 {
                irq.signal(vector);
            }
        }
        if effect.asserted {
            irq.set_asserted(control.asserted().into());
        }
        if effect.kick {
            self.handle.kick();
        }
    }

    /// Decodes a complete saved state, and logs why it is refused.
    fn decode(&self, state: &mut Reader<'_>) -> Result<control::State> {
        let bytes = state
            .get_array()
            .inspect_err(|error| vfio::refuse!(self.handle, "saved state: {error}"))?;
        if state.remaining() != 0 {
            vfio::refuse!(
                self.handle,
                "saved state: {} bytes too many",
                state.remaining()
            );
            return Err(EINVAL);
        }
        let memory_size = self.control.lock().memory_size();
        state::decode(&bytes, memory_size).map_err(|invalid| {
            vfio::refuse!(self.handle, "{invalid}");
            EINVAL
        })
    }
}

impl vfio::Device for Mdma {
    const NAME: &'static CStr = c"mdma";
    const DEVICE_TYPE: &'static str = "mdma";
    const DEVICE_VERSION: u32 = state::VERSION;
    const FEATURES: u32 = 0;
    const STATE_SIZE_MAX: usize = state::SIZE;

    type Config = Config;

    fn new(config: &Config, handle: Handle) -> impl PinInit<Self, Error> {
        let control = Control::new(config.memory_size, config.throttle_us);

        try_pin_init!(Self {
            handle,
            control <- new_mutex!(control, "mdma control"),
            worker <- new_mutex!(
                Worker {
                    pages: Pages::default(),
                    run: 0,
                    bounce: bus::bounce()?,
                    pin_from: config.pin_from,
                    pause: None,
                },
                "mdma worker"
            ),
            recording: AtomicBool::new(false),
            recorded <- Event::new(),
        })
    }

    fn pci(_config: &Config) -> Layout {
        let mut bars = [Bar::None; vfio::pci::NUM_BARS];
        bars[regs::BAR_REGISTERS as usize] = Bar::Registers {
            size: regs::WINDOW as u32,
        };
        bars[regs::BAR_MEMORY as usize] = Bar::Memory;
        bars[regs::BAR_MSIX as usize] = Bar::Msix;

        Layout {
            vendor: regs::PCI_VENDOR,
            device: regs::PCI_DEVICE,
            subsystem_vendor: regs::PCI_VENDOR,
            subsystem: regs::PCI_DEVICE,
            revision: regs::VERSION as u8,
            class: regs::PCI_CLASS,
            bars,
            intx: true,
            msi: VECTORS,
            msix: VECTORS.into(),
        }
    }

    fn memory_size(config: &Config) -> u64 {
        config.memory_size
    }

    fn read(&self, _bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        let result = self.registers()?.read(offset, data);
        // The register REFUSED has the reason.
        result.map_err(|_| Refused)
    }

    fn write(&self, _bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let mut control = self.registers()?;
        let effect = control.write(offset, data).map_err(|_| Refused)?;
        self.apply(&control, effect);
        Ok(())
    }

    fn step(&self) -> Step {
        let mut worker = self.worker.lock();
        if let Some(millis) = worker.wait() {
            return Step::After(millis);
        }

        let plan = self.control.lock().begin();
        let ticket = match plan {
            Plan::Unit(ticket) => ticket,
            Plan::Idle => return Step::Idle,
            Plan::Release => {
                worker.pages.release();
                return Step::Idle;
            }
        };

        // The queue may have been disabled and enabled before a step could release its pages. Its
        // memory may have been unmapped and replaced since then.
        if worker.run != ticket.run {
            worker.pages.release();
            worker.run = ticket.run;
        }

        let Worker {
            pages,
            bounce,
            pin_from,
            ..
        } = &mut *worker;
        let mut bus = Bus {
            handle: &self.handle,
            pages,
            bounce,
            pin_from: *pin_from,
            recorded: None,
        };
        let outcome = engine::run(&ticket, &mut bus);

        let mut control = self.control.lock();
        if let (Some(record), true) = (&outcome.record, bus.copies_records()) {
            if control.awaits(&ticket) {
                self.recording.store(true, Relaxed);
                drop(control);
                bus.record(&ticket.ring, ticket.index, &record.encode());
                control = self.control.lock();
                self.recording.store(false, Relaxed);
                self.recorded.notify();
            }
        }
        let effect = control.finish(&ticket, &outcome, &mut bus);
        self.apply(&control, effect);
        drop(control);

        if ticket.throttle != 0 {
            worker.pause = Some((Instant::now(), Delta::from_micros(ticket.throttle.into())));
        }
        Step::Again
    }

    fn stopped(&self) {
        self.worker.lock().pages.release();
    }

    fn reset(&self) {
        let mut worker = self.worker.lock();
        worker.pages.release();
        worker.pause = None;

        let mut control = self.control.lock();
        control.reset();
        self.handle.irq().set_asserted(0);
    }

    fn save_state(&self, out: &mut Writer<'_>) -> Result {
        let bytes = state::encode(self.control.lock().state());
        Ok(out.put_bytes(&bytes)?)
    }

    fn check_state(&self, state: &mut Reader<'_>) -> Result {
        self.decode(state).map(|_| ())
    }

    fn load_state(&self, state: &mut Reader<'_>) -> Result {
        let state = self.decode(state)?;

        let mut control = self.control.lock();
        control.load(state);
        self.handle.irq().set_asserted(control.asserted().into());
        // There may be jobs to continue.
        self.handle.kick();
        Ok(())
    }
}
