// SPDX-License-Identifier: GPL-2.0

//! Devices for the selftests: a type for each way to migrate, a device that fails on command and loads the state of
//! an older version, and two drivers in one module.
//!
//! BAR 0 of `variants` has three registers of 4 bytes: VALUE at 0x0 keeps what is written; a write to FAIL at 0x4 makes
//! the device fail; a write to WORK at 0x8 schedules work that makes it fail if the written value is 1, and adds 1 to
//! WORK otherwise. `variants_other` has one register, which keeps what is written.

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
    variants: Parent<Variant>,
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
        let mut others = KVec::new();
        others.push(typ(c"1", ()), GFP_KERNEL)?;
        let section = DataSectionConfig::default();
        Ok(Self {
            variants: Parent::new(module, c"variants", types, 64, section)?,
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

#[pin_data]
struct Variant {
    #[pin]
    regs: Mutex<Regs>,
}

impl Driver for Variant {
    const INFO: Info = Info {
        name: c"variants",
        device_type: "variants",
        version: 3,
        features: 0,
        state_size_max: Regs::SIZE,
    };

    // Version 2 had VALUE only.
    const OLDEST_VERSION: u32 = 2;

    type Config = Migration;

    type State = Regs;

    fn new(_config: &Migration) -> impl PinInit<Self, Error> {
        try_pin_init!(Self { regs <- new_mutex!(Regs::default(), "variant") })
    }

    fn function(_config: &Migration) -> pci::Function {
        let mut bars = [pci::Bar::None; pci::NUM_BARS];
        bars[0] = pci::Bar::Registers { size: 16 };
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
        Self::restore(dev, Regs::default());
    }

    fn save(dev: &Device<Self>, out: &mut Writer<'_>) -> Result {
        dev.regs.lock().save(out)
    }

    fn decode(_dev: &Device<Self>, input: &mut Reader<'_>) -> Result<Regs> {
        if input.version() == 2 {
            return Ok(Regs {
                value: input.get_u32()?,
                ..Regs::default()
            });
        }
        Regs::decode(input)
    }

    fn restore(dev: &Device<Self>, state: Regs) {
        *dev.regs.lock() = state;
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

    type State = u32;

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

    fn save(dev: &Device<Self>, out: &mut Writer<'_>) -> Result {
        dev.value.lock().save(out)
    }

    fn decode(_dev: &Device<Self>, input: &mut Reader<'_>) -> Result<u32> {
        u32::decode(input)
    }

    fn restore(dev: &Device<Self>, state: u32) {
        *dev.value.lock() = state;
    }
}
