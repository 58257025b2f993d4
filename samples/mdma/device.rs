// SPDX-License-Identifier: GPL-2.0

//! The device, as the framework sees it.
//!
//! # Locks
//!
//! ```text
//!   worker     what a step works with; held over DMA. Taken by steps, and by who has stopped them
//!     control  the registers; held for a few instructions, never over DMA or a user copy. Also over
//!              the writing of a completion record to pinned pages, which does not wait. While one is
//!              copied, accesses to registers wait killably: see [`Mdma::registers`]
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

/// Vectors of MSI and of MSI-X. Only the first two ever fire: one for each cause.
const VECTORS: u8 = 4;

/// Up to here a step waits by itself; longer pauses are the framework's, which ends them at once
/// when the device is stopped.
const NAP: Delta = Delta::from_millis(1);

/// What one mdev type is.
pub(crate) struct Config {
    /// Bytes of device memory.
    pub(crate) memory_size: u64,
    /// `THROTTLE` after a reset.
    pub(crate) throttle_us: u32,
    /// Writes to guest memory of at least so many bytes go through pinned pages.
    pub(crate) pin_from: usize,
}

/// What a step works with.
struct Worker {
    pages: Pages,
    /// The run of the queue that `pages` are of.
    run: u32,
    bounce: KVVec<u8>,
    pin_from: usize,
    /// When the last unit ended, and how long to wait from then on.
    pause: Option<(Instant<Monotonic>, Delta)>,
}

impl Worker {
    /// Waits out the rest of the pause if it is short; otherwise returns its milliseconds.
    fn wait(&mut self) -> Option<u32> {
        let (start, pause) = self.pause?;
        let left = pause - start.elapsed();

        if left > NAP {
            // Rounded up, and not more than `MAX_THROTTLE_US`.
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
    /// A completion record is being copied. Changed with `control` locked.
    recording: AtomicBool,
    /// Notified when it has been.
    #[pin]
    recorded: Event,
}

impl Mdma {
    /// Locks the registers for an access of the user's.
    ///
    /// Software that sees a completion record sees the registers that go with it. So while one is
    /// copied, which may wait for the user's memory, accesses wait too. An access of a caller who
    /// is killed is refused: nobody sees the answer.
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

    /// Does what a change of the registers asks for. Called with them locked, so that two changes
    /// assert vectors in their order.
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

    /// Reads a saved state to its end.
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
        // Why is in the register REFUSED.
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

        // A queue that was disabled and enabled before a step could release its pages is another
        // one: its memory may have been unmapped, and other memory mapped in its place.
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
        // There may be jobs to go on with.
        self.handle.kick();
        Ok(())
    }
}
