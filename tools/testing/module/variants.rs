// SPDX-License-Identifier: GPL-2.0

//! Devices for the selftests: a type for each way to migrate, a device that fails on command and loads the state of
//! an older version, and three drivers in one module.
//!
//! BAR 0 of `variants` has registers of 4 bytes:
//!
//! ```text
//!   0x00  VALUE     keeps what is written
//!   0x04  FAIL      a write makes the device fail
//!   0x08  WORK      a write of 1 schedules work that makes the device fail; another one schedules work that adds 1
//!   0x0c  EXTRA     keeps what is written; part 5 of the state, saved if it is not 0
//!   0x10  OPTIONAL  the same, part 7, which a reader need not know
//!   0x14  AHEAD     keeps what is written; part 9, sent in pre-copy
//!   0x18  RESTART   a write restarts pre-copy
//!   0x1c  BUSY      while it is 1 the device refuses to stop; while it is 2 a save, and while it is 3 a load
//!   0x20  HOOKS     reads how often a save began, a save ended, a load began, a load ended: a byte each
//! ```
//!
//! `variants_old` is the same device without the parts 5 and 7. `variants_other` has one register, which keeps what is
//! written.

use kernel::sync::atomic::{Atomic, Relaxed};
use migratable::{migration::DataSectionConfig, prelude::*, Migration, Parent};

module! {
    type: VariantsModule,
    name: "variants",
    authors: ["vfio-mdev-rs authors"],
    description: "Mediated devices for selftests",
    license: "GPL",
}

#[expect(dead_code)]
struct VariantsModule {
    variants: Parent<Variant<false>>,
    old: Parent<Variant<true>>,
    others: Parent<Other>,
}

/// Returns a type with this name.
fn typ<T: Driver>(name: &'static CStr, config: T::Config) -> Type<T> {
    Type {
        name,
        pretty_name: name,
        description: "a device for selftests",
        config,
        cost: 1,
    }
}

impl kernel::Module for VariantsModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let all = Migration::default();
        let none = Migration {
            v1: false,
            v2: false,
            ..all
        };
        let configs = [
            (c"all", all),
            (c"none", none),
            (c"v1", Migration { v2: false, ..all }),
            (c"v2", Migration { v1: false, ..all }),
            (
                c"no_pre_copy",
                Migration {
                    pre_copy: false,
                    ..all
                },
            ),
            (c"no_p2p", Migration { p2p: false, ..all }),
            (
                c"stop_copy",
                Migration {
                    pre_copy: false,
                    p2p: false,
                    ..all
                },
            ),
        ];
        let mut types = KVec::new();
        for (name, config) in configs {
            types.push(typ(name, config), GFP_KERNEL)?;
        }
        let mut old = KVec::new();
        old.push(typ(c"all", all), GFP_KERNEL)?;
        let mut others = KVec::new();
        others.push(typ(c"1", ()), GFP_KERNEL)?;
        let section = DataSectionConfig::default();
        Ok(Self {
            variants: Parent::new(module, c"variants", types, 64, section)?,
            old: Parent::new(module, c"variants_old", old, 64, section)?,
            others: Parent::new(module, c"variants_other", others, 64, section)?,
        })
    }
}

fields! {
    /// The registers, and a command to fail.
    struct Regs {
        value: u32 = 0;
        work: u32 = 0;
        fail: bool = false;
    }
}

/// What the parts of the state have, and what is not saved.
#[derive(Clone, Copy, Default)]
struct Parts {
    extra: u32,
    optional: u32,
    ahead: u32,
    busy: u32,
}

const EXTRA: Part = Part {
    number: 5,
    optional: false,
    pre_copy: false,
    size_max: 4,
};

const OPTIONAL: Part = Part {
    number: 7,
    optional: true,
    ..EXTRA
};

const AHEAD: Part = Part {
    number: 9,
    pre_copy: true,
    ..EXTRA
};

#[pin_data]
struct Variant<const OLD: bool> {
    #[pin]
    regs: Mutex<Regs>,
    #[pin]
    parts: Mutex<Parts>,
    hooks: Atomic<u32>,
}

/// A byte of HOOKS.
#[derive(Clone, Copy)]
enum Hook {
    BeginSave,
    EndSave,
    BeginLoad,
    EndLoad,
}

impl<const OLD: bool> Variant<OLD> {
    /// Counts the call of a hook.
    fn count(&self, hook: Hook) {
        self.hooks.add(1 << (8 * hook as u32), Relaxed);
    }

    /// Refuses what BUSY says.
    fn check(dev: &Device<Self>, busy: u32) -> Result {
        if dev.parts.lock().busy == busy {
            refuse!(dev, "BUSY is {busy}");
            return Err(EBUSY);
        }
        Ok(())
    }
}

impl<const OLD: bool> Driver for Variant<OLD> {
    const INFO: Info = Info {
        name: if OLD { c"variants_old" } else { c"variants" },
        device_type: "variants",
        version: 3,
        features: 0,
        state_size_max: Regs::SIZE,
    };

    // Version 2 had VALUE only.
    const OLDEST_VERSION: u32 = 2;

    const PARTS: &'static [Part] = if OLD {
        &[AHEAD]
    } else {
        &[EXTRA, OPTIONAL, AHEAD]
    };

    type Config = Migration;

    type State = (Regs, Parts);

    fn new(_config: &Migration) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            regs <- new_mutex!(Regs::default(), "variant"),
            parts <- new_mutex!(Parts::default(), "variant parts"),
            hooks: Atomic::new(0),
        })
    }

    fn function(_config: &Migration) -> pci::Function {
        let mut bars = [pci::Bar::None; pci::NUM_BARS];
        bars[0] = pci::Bar::Registers { size: 64 };
        pci::Function {
            vendor: 0x4d44,
            device: 0xff,
            class: 0xff_0000,
            bars,
            intx: true,
            ..Default::default()
        }
    }

    fn migration(config: &Migration) -> Migration {
        *config
    }

    fn read(dev: &Device<Self>, _bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        let regs = dev.regs.lock();
        let value = match offset {
            0x0 => regs.value,
            0x8 => regs.work,
            0xc => dev.parts.lock().extra,
            0x10 => dev.parts.lock().optional,
            0x14 => dev.parts.lock().ahead,
            0x20 => dev.hooks.load(Relaxed),
            _ => return Err(Refused),
        };
        data.copy_from_slice(value.to_le_bytes().get(..data.len()).ok_or(Refused)?);
        Ok(())
    }

    fn write(dev: &Device<Self>, _bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let value = u32::from_le_bytes(data.try_into().map_err(|_| Refused)?);
        match offset {
            0x0 => dev.regs.lock().value = value,
            0x4 => dev.fail(format_args!("FAIL was written")),
            0x8 => {
                dev.regs.lock().fail = value == 1;
                dev.schedule();
            }
            0xc => dev.parts.lock().extra = value,
            0x10 => dev.parts.lock().optional = value,
            0x14 => {
                dev.parts.lock().ahead = value;
                dev.part_changed(AHEAD.number);
            }
            0x18 => dev.restart_pre_copy(),
            0x1c => dev.parts.lock().busy = value,
            _ => return Err(Refused),
        }
        Ok(())
    }

    fn work(dev: &Device<Self>, _wakeup: Wakeup) -> WorkResult {
        let mut regs = dev.regs.lock();
        if regs.fail {
            dev.fail(format_args!("WORK was written"));
        } else {
            regs.work = regs.work.saturating_add(1);
        }
        WorkResult::Idle
    }

    fn reset(dev: &Device<Self>) {
        Self::restore(dev, Default::default());
    }

    fn prepare_stop(dev: &Device<Self>) -> Result {
        Self::check(dev, 1)
    }

    fn begin_save(dev: &Device<Self>) -> Result {
        Self::check(dev, 2)?;
        dev.count(Hook::BeginSave);
        Ok(())
    }

    fn end_save(dev: &Device<Self>) {
        dev.count(Hook::EndSave);
    }

    fn begin_load(dev: &Device<Self>) -> Result {
        Self::check(dev, 3)?;
        dev.count(Hook::BeginLoad);
        Ok(())
    }

    fn end_load(dev: &Device<Self>) {
        dev.count(Hook::EndLoad);
    }

    fn save_part(dev: &Device<Self>, part: &Part, out: &mut Writer<'_>) -> Result {
        let parts = *dev.parts.lock();
        let (value, needed) = match part.number {
            5 => (parts.extra, parts.extra != 0),
            7 => (parts.optional, parts.optional != 0),
            _ => (parts.ahead, true),
        };
        if needed {
            out.put_u32(value)?;
        }
        Ok(())
    }

    fn save(dev: &Device<Self>, out: &mut Writer<'_>) -> Result {
        dev.regs.lock().save(out)
    }

    fn decode(_dev: &Device<Self>, input: &mut Reader<'_>) -> Result<Self::State> {
        let regs = if input.version() == 2 {
            Regs {
                value: input.get_u32()?,
                ..Regs::default()
            }
        } else {
            Regs::decode(input)?
        };
        let mut part = |number| -> Result<u32> {
            let value = input.part(number, |part| Ok(part.get_u32()?))?;
            Ok(value.unwrap_or_default())
        };
        let parts = Parts {
            extra: part(5)?,
            optional: part(7)?,
            ahead: part(9)?,
            busy: 0,
        };
        Ok((regs, parts))
    }

    fn restore(dev: &Device<Self>, (regs, parts): Self::State) {
        *dev.regs.lock() = regs;
        *dev.parts.lock() = parts;
        dev.irq().set_asserted(0);
    }
}

/// The other kind of device.
#[pin_data]
struct Other {
    #[pin]
    value: Mutex<u32>,
}

impl Driver for Other {
    const INFO: Info = Info {
        name: c"variants_other",
        device_type: "variants_other",
        version: 1,
        features: 0,
        state_size_max: u32::SIZE,
    };

    type Config = ();

    saved_state! { value: u32 }

    fn new(_config: &()) -> impl PinInit<Self, Error> {
        try_pin_init!(Self { value <- new_mutex!(0, "other") })
    }

    fn function(_config: &()) -> pci::Function {
        let mut bars = [pci::Bar::None; pci::NUM_BARS];
        bars[0] = pci::Bar::Io { size: 4 };
        pci::Function {
            vendor: 0x4d44,
            device: 0xfe,
            class: 0xff_0000,
            bars,
            bus_master: false,
            ..Default::default()
        }
    }

    fn read(dev: &Device<Self>, _bar: u32, _offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        let value = dev.value.lock().to_le_bytes();
        data.copy_from_slice(value.get(..data.len()).ok_or(Refused)?);
        Ok(())
    }

    fn write(dev: &Device<Self>, _bar: u32, _offset: u64, data: &[u8]) -> Result<(), Refused> {
        *dev.value.lock() = u32::from_le_bytes(data.try_into().map_err(|_| Refused)?);
        Ok(())
    }

    fn reset(dev: &Device<Self>) {
        *dev.value.lock() = 0;
    }

    fn restore(dev: &Device<Self>, state: u32) {
        *dev.value.lock() = state;
    }
}
