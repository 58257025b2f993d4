// SPDX-License-Identifier: GPL-2.0

//! A small device. BAR 0 has three registers of 4 bytes: SCRATCH at 0x0 keeps what is written; a write
//! to DOORBELL at 0x4 adds 1 to COUNT later; COUNT at 0x8 asserts INTx until a write clears it.

use kernel::{new_mutex, prelude::*, sync::Mutex};
use migratable::{migration::DataSectionConfig, pci, saved_state, Device, Driver, Info};
use migratable::{Parent, Refused, Type, Wakeup, WorkResult};

module! {
    type: ScratchModule,
    name: "scratch",
    authors: ["vfio-mdev-rs authors"],
    description: "Mediated scratch register that live-migrates",
    license: "GPL",
}

struct ScratchModule(#[expect(dead_code)] Parent<Scratch>);

impl kernel::Module for ScratchModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let mut types = KVec::new();
        #[rustfmt::skip]
        types.push(Type { name: c"1", pretty_name: c"Scratch", description: "Register and doorbell", config: (), cost: 1 }, GFP_KERNEL)?;
        Parent::new(module, c"scratch", types, 16, DataSectionConfig::default()).map(Self)
    }
}

#[pin_data]
struct Scratch {
    /// SCRATCH, DOORBELL (rings to answer) and COUNT (rings answered).
    #[pin]
    regs: Mutex<[u32; 3]>,
}

#[rustfmt::skip]
impl Driver for Scratch {
    const INFO: Info = Info { name: c"scratch", device_type: "scratch", version: 1, features: 0, state_size_max: 12 };
    type Config = ();
    saved_state! { regs: [u32; 3] }

    fn new(_config: &()) -> impl PinInit<Self, Error> {
        try_pin_init!(Self { regs <- new_mutex!([0; 3], "scratch") })
    }

    fn function(_config: &()) -> pci::Function {
        let mut bars = [pci::Bar::None; pci::NUM_BARS];
        bars[0] = pci::Bar::Registers { size: 16 };
        pci::Function { vendor: 0x4d44, device: 2, class: 0xff_0000, bars, intx: true, ..Default::default() }
    }

    fn read(dev: &Device<Self>, _bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        let at = offset as usize;
        let bytes = dev.regs.lock().get(at / 4).ok_or(Refused)?.to_le_bytes();
        data.copy_from_slice(bytes.get(at % 4..at % 4 + data.len()).ok_or(Refused)?);
        Ok(())
    }

    fn write(dev: &Device<Self>, _bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let value = u32::from_le_bytes(data.try_into().map_err(|_| Refused)?);
        let mut regs = dev.regs.lock();
        match offset {
            0x0 => regs[0] = value,
            0x4 => {
                regs[1] = regs[1].saturating_add(1);
                dev.schedule();
            }
            0x8 => regs[2] = 0,
            _ => return Err(Refused),
        }
        dev.irq().set_asserted((regs[2] != 0).into());
        Ok(())
    }

    fn work(dev: &Device<Self>, _wakeup: Wakeup) -> WorkResult {
        let mut regs = dev.regs.lock();
        let rung = core::mem::take(&mut regs[1]);
        regs[2] = regs[2].saturating_add(rung);
        dev.irq().set_asserted((regs[2] != 0).into());
        WorkResult::Idle
    }

    fn reset(dev: &Device<Self>) { Self::restore(dev, [0; 3]) }

    fn restore(dev: &Device<Self>, state: [u32; 3]) {
        let mut regs = dev.regs.lock();
        *regs = state;
        dev.irq().set_asserted((regs[2] != 0).into());
    }
}
