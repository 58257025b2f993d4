// SPDX-License-Identifier: GPL-2.0

//! The driver: mdma as a [`migratable::Driver`].
//!
//! # Locks
//!
//! ```text
//!   worker     the data of a unit of work; held during DMA. Taken by units, and by callers that stopped them
//!     control  the registers; held for a few instructions, never during DMA or a user copy. Also held
//!              while a completion record is written to pinned pages, which does not wait. While a
//!              record is copied, register accesses wait killably: see [`Mdma::registers`]
//!       (the framework's locks of a pinned range and of the interrupts)
//! ```

use crate::{
    bus::{
        Bus,
        Pages, //
    },
    memory::Memory, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
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
    key::{
        SavedKey,
        SAVED_KEY_SIZE, //
    },
    regs,
    state, //
};
use migratable::{
    event::Event,
    pci::{
        Bar,
        Function, //
    },
    stream::{
        Reader,
        Writer, //
    },
    Attribute,
    Device,
    Driver,
    Info,
    Refused,
    Wakeup,
    WorkResult, //
};

/// Vectors of MSI and of MSI-X. Only the first two fire, one for each cause.
const VECTORS: u8 = 4;

/// The longest pause in a unit of work. The framework waits for longer ones, and ends them at once when the
/// device is stopped.
const NAP: Delta = Delta::from_millis(1);

/// The configuration of one mdev type.
pub(crate) struct Config {
    /// Bytes of device memory.
    pub(crate) memory_size: u64,
    /// `THROTTLE` after a reset.
    pub(crate) throttle_us: u32,
}

/// A state that was decoded.
pub(crate) struct Restored {
    control: control::State,
    memory: Memory,
}

/// The data of a unit of work.
struct Worker {
    pages: Pages,
    /// The run of the queue to which `pages` belong.
    run: u32,
    bounce: KVVec<u8>,
    memory: Memory,
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
    #[pin]
    control: Mutex<Control>,
    #[pin]
    worker: Mutex<Worker>,
    /// The number of keys after the last unit, for estimates.
    keys: Atomic<u32>,
    /// A completion record is being copied. Changes only while `control` is locked.
    recording: Atomic<bool>,
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
            (self.recorded.wait_killable(seen)).map_err(|_| Refused)?;
        }
    }

    /// Applies the effect of a register change. The caller holds the lock of the registers, so two
    /// changes assert vectors in order.
    fn apply(dev: &Device<Self>, control: &Control, effect: Effect) {
        let irq = dev.irq();

        for vector in 0..regs::INT_ALL.count_ones() {
            if effect.events & (1 << vector) != 0 {
                irq.signal(vector);
            }
        }
        if effect.asserted {
            irq.set_asserted(control.asserted().into());
        }
        if effect.schedule {
            dev.schedule();
        }
    }
}

impl Driver for Mdma {
    const INFO: Info = Info {
        name: c"mdma",
        device_type: "mdma",
        version: state::VERSION,
        features: 0,
        state_size_max: state::SIZE_MAX,
    };

    const ATTRIBUTES: &'static [Attribute<Self>] = &[Attribute {
        name: c"throttle_us",
        show: |dev| dev.control.lock().reset_throttle().into(),
        store: |dev, value| match u32::try_from(value) {
            Ok(throttle) if throttle <= regs::MAX_THROTTLE_US => {
                dev.control.lock().reset_with_throttle(throttle);
                Ok(())
            }
            _ => Err(EINVAL),
        },
    }];

    type Config = Config;

    type State = Restored;

    fn new(config: &Config) -> impl PinInit<Self, Error> {
        let control = Control::new(config.memory_size, config.throttle_us);

        try_pin_init!(Self {
            control <- new_mutex!(control, "mdma control"),
            worker <- new_mutex!(
                Worker {
                    pages: Pages::default(),
                    run: 0,
                    bounce: KVVec::from_elem(0, engine::UNIT, GFP_KERNEL_ACCOUNT)?,
                    memory: Memory::default(),
                    pause: None,
                },
                "mdma worker"
            ),
            keys: Atomic::new(0),
            recording: Atomic::new(false),
            recorded <- Event::new(),
        })
    }

    fn function(config: &Config) -> Function {
        let mut bars = [Bar::None; migratable::pci::NUM_BARS];
        bars[regs::BAR_REGISTERS as usize] = Bar::Registers {
            size: regs::WINDOW as u32,
        };
        bars[regs::BAR_MEMORY as usize] = Bar::Memory {
            size: config.memory_size,
        };
        bars[regs::BAR_MSIX as usize] = Bar::Msix;

        Function {
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
            storage: 0,
            bus_master: true,
        }
    }

    fn read(dev: &Device<Self>, _bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        // The register REFUSED has the reason.
        dev.registers()?.read(offset, data).map_err(|_| Refused)
    }

    fn write(dev: &Device<Self>, _bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let mut control = dev.registers()?;
        let effect = control.write(offset, data).map_err(|_| Refused)?;
        Self::apply(dev, &control, effect);
        Ok(())
    }

    fn work(dev: &Device<Self>, _wakeup: Wakeup) -> WorkResult {
        let mut worker = dev.worker.lock();
        if let Some(millis) = worker.wait() {
            return WorkResult::After(millis);
        }

        if worker.memory.pin_again(dev) {
            return WorkResult::Again;
        }

        let plan = dev.control.lock().begin();
        let ticket = match plan {
            Plan::Unit(ticket) => ticket,
            Plan::Idle => return WorkResult::Idle,
            Plan::Release => {
                worker.pages.release();
                if worker.memory.release() {
                    return WorkResult::Again;
                }
                return WorkResult::Idle;
            }
        };

        // The queue may have been disabled and enabled before a unit could release its pages. Its
        // memory may have been unmapped and replaced since then.
        if worker.run != ticket.run {
            worker.pages.release();
            worker.run = ticket.run;
        }

        let Worker {
            pages,
            bounce,
            memory,
            ..
        } = &mut *worker;
        let mut bus = Bus {
            dev,
            pages,
            bounce,
            memory,
            recorded: None,
        };
        let outcome = engine::run(&ticket, &mut bus);
        dev.keys.store(bus.memory.saved().count, Relaxed);

        let mut control = dev.control.lock();
        if let (Some(record), true) = (&outcome.record, bus.copies_records()) {
            if control.awaits(&ticket) {
                dev.recording.store(true, Relaxed);
                drop(control);
                bus.record(&ticket.ring, ticket.index, &record.encode());
                control = dev.control.lock();
                dev.recording.store(false, Relaxed);
                dev.recorded.notify();
            }
        }
        let effect = control.finish(&ticket, &outcome, &mut bus);
        Self::apply(dev, &control, effect);
        drop(control);

        if ticket.throttle != 0 {
            worker.pause = Some((Instant::now(), Delta::from_micros(ticket.throttle.into())));
        }
        WorkResult::Again
    }

    fn prepare_run(dev: &Device<Self>) -> Result {
        dev.worker.lock().memory.pin_all(dev)
    }

    fn stopped(dev: &Device<Self>) {
        let mut worker = dev.worker.lock();
        worker.pages.release();
        worker.memory.stop();
    }

    fn reset(dev: &Device<Self>) {
        let mut worker = dev.worker.lock();
        worker.pages.release();
        worker.memory.clear();
        dev.keys.store(0, Relaxed);
        worker.pause = None;

        let mut control = dev.control.lock();
        control.reset();
        dev.irq().set_asserted(0);
    }

    fn state_size(dev: &Device<Self>) -> usize {
        state::SIZE + dev.keys.load(Relaxed) as usize * SAVED_KEY_SIZE
    }

    fn save(dev: &Device<Self>, out: &mut Writer<'_>) -> Result {
        let worker = dev.worker.lock();
        let bytes = state::encode(dev.control.lock().state(), worker.memory.saved());
        out.put_bytes(&bytes)?;
        for key in worker.memory.saved_keys() {
            out.put_bytes(&key.encode())?;
        }
        Ok(())
    }

    fn decode(dev: &Device<Self>, input: &mut Reader<'_>) -> Result<Self::State> {
        let invalid = |invalid: state::InvalidField| {
            migratable::refuse!(dev, "{invalid}");
            EINVAL
        };
        let bytes = input.get_array()?;
        let memory_size = dev.control.lock().memory_size();
        let (control, saved) = state::decode(&bytes, memory_size).map_err(invalid)?;
        let mut before = 0;
        let memory = Memory::restored(saved, || {
            let key = SavedKey::decode(&input.get_array()?, before).map_err(invalid)?;
            before = key.key;
            Ok(key)
        })?;
        state::check_job_keys(&control, |key| memory.saved_key(key)).map_err(invalid)?;
        Ok(Restored { control, memory })
    }

    fn restore(dev: &Device<Self>, state: Self::State) {
        let mut worker = dev.worker.lock();
        worker.memory = state.memory;
        dev.keys.store(worker.memory.saved().count, Relaxed);

        let mut control = dev.control.lock();
        control.load(state.control);
        dev.irq().set_asserted(control.asserted().into());
    }
}
