// SPDX-License-Identifier: GPL-2.0

//! A serial port: a 16550A behind an I/O BAR, which the `8250_pci` driver of any guest runs. Bytes take the
//! time that divisor and frame say. The other end of the line is `/dev/mserial-UUID` on the host, which sends
//! while RTS is on. CTS, DSR and DCD are on while a program has that file open.

use migratable::prelude::*;

migratable::module! {
    driver: Serial,
    name: "mserial",
    description: "Mediated serial port that live-migrates",
    types: [Type { name: c"1", pretty_name: c"Serial port", description: "16550A", config: (), cost: 1 }],
    budget: 64,
}

/// Timers: the byte to the host was sent, one from the host has come, received bytes wait to be read.
const SENT: usize = 0;
const RECEIVED: usize = 1;
const WAITED: usize = 2;

fields! {
    /// The registers, and what they do not show.
    struct Uart {
        divisor: [u8; 2] = [12, 0];
        ier: u8 = 0, bits 0x0f;
        fcr: u8 = 0, bits 0xc9;
        lcr: u8 = 0;
        mcr: u8 = 0, bits 0x1f;
        msr: u8 = 0;
        scr: u8 = 0;
        overrun: bool = false;
        /// The transmitter became empty; received bytes have waited to be read.
        emptied: bool = false;
        waited: bool = false;
        rx: Fifo<16> = Fifo::default();
        /// The first byte is on the line, so one more fits.
        tx: Fifo<17> = Fifo::default();
    }
}

#[pin_data]
struct Serial {
    #[pin]
    uart: Mutex<Uart>,
}

#[rustfmt::skip]
impl Uart {
    fn fifos(&self) -> bool { self.fcr & 1 != 0 }
    fn depth(&self) -> usize { if self.fifos() { 16 } else { 1 } }
    fn dlab(&self) -> bool { self.lcr & 0x80 != 0 }
    fn loops(&self) -> bool { self.mcr & 0x10 != 0 }

    /// Returns the time of bytes: start bit, data, parity and stop bits.
    fn time(&self, bytes: i64) -> Delta {
        let (lcr, divisor) = (i64::from(self.lcr), u16::from_le_bytes(self.divisor).max(1));
        let bits = 7 + (lcr & 3) + (lcr >> 3 & 1) + (lcr >> 2 & 1);
        Delta::from_nanos(bytes * bits * i64::from(divisor) * 1_000_000_000 / 115_200)
    }

    /// Returns the number of the interrupt with the highest priority; 1 for none.
    fn interrupt(&self) -> u8 {
        let level = [1, 4, 8, 14][usize::from(self.fcr >> 6)];
        // The bit of IER, the number, and whether there is a cause.
        let interrupts = [
            (4, 6, self.overrun), (1, 4, self.rx.len() >= level), (1, 12, self.waited),
            (2, 2, self.emptied), (8, 0, self.msr & 0x0f != 0),
        ];
        interrupts.iter().find(|(bit, _, is)| *is && self.ier & bit != 0).map_or(1, |i| i.1)
    }

    /// Takes a byte from the line. It is lost if there is no room.
    fn receive(&mut self, dev: &Device<Serial>, byte: u8) {
        self.overrun |= self.rx.len() >= self.depth() || !self.rx.push(byte);
        dev.timer::<WAITED>().set(self.time(4));
    }

    /// The time of the byte on the line is over. It stays there while the host has no room.
    fn sent(&mut self, dev: &Device<Serial>) {
        let byte = self.tx.first() & (0xff >> (3 - (self.lcr & 3)));
        if self.loops() { self.receive(dev, byte) } else if dev.host_end().send(&[byte]) == 0 { return }
        self.tx.pop();
        self.send(dev);
    }

    /// Puts the first byte on the line.
    fn send(&mut self, dev: &Device<Serial>) {
        self.emptied |= self.tx.len() == 1;
        if !self.tx.is_empty() { dev.timer::<SENT>().set(self.time(1)) }
    }

    /// Lets the host send, and derives modem status and interrupt from the rest.
    fn update(&mut self, dev: &Device<Serial>) {
        let (mcr, old, host) = (self.mcr, self.msr, dev.host_end());
        let looped = (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 0xc) << 4;
        let lines = if self.loops() { looped } else if host.is_open() { 0xb0 } else { 0 };
        // The ring indicator counts when it goes off.
        self.msr = lines | old & 0x0f | ((old ^ lines) & 0xb0 | old & !lines & 0x40) >> 4;
        host.listen(mcr & 0x12 == 2);
        let wants = mcr & 0x12 == 2 && self.rx.len() < self.depth() && host.pending() != 0;
        if wants && dev.timer::<RECEIVED>().left().is_none() { dev.timer::<RECEIVED>().set(self.time(1)) }
        dev.irq().set_asserted((self.interrupt() != 1).into());
    }
}

#[rustfmt::skip]
impl Driver for Serial {
    const INFO: Info = Info { name: c"mserial", device_type: "mserial", version: 1, features: 0, state_size_max: Uart::SIZE };
    const TIMERS: usize = 3;
    const HOST_END: bool = true;
    type Config = ();
    saved_state! { uart: Uart }

    fn new((): &()) -> impl PinInit<Self, Error> { try_pin_init!(Self { uart <- new_mutex!(Uart::default(), "mserial") }) }

    fn function(_config: &()) -> pci::Function {
        let bars = core::array::from_fn(|i| if i == 0 { pci::Bar::Io { size: 8 } } else { pci::Bar::None });
        pci::Function { vendor: 0x4d44, device: 3, class: 0x07_0002, bars, intx: true, bus_master: false, ..Default::default() }
    }

    fn read(dev: &Device<Self>, _bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        let [byte] = data else { return Err(Refused) };
        let uart = &mut *dev.uart.lock();
        *byte = match offset {
            0 | 1 if uart.dlab() => uart.divisor[offset as usize],
            0 => {
                uart.waited = false;
                dev.timer::<WAITED>().set(uart.time(4));
                uart.rx.pop()
            }
            1 => uart.ier,
            2 => {
                let number = uart.interrupt();
                uart.emptied &= number != 2;
                number | if uart.fifos() { 0xc0 } else { 0 }
            }
            3 => uart.lcr,
            4 => uart.mcr,
            5 => {
                let overrun = core::mem::take(&mut uart.overrun);
                [0x60, 0x20, 0][uart.tx.len().min(2)] | u8::from(overrun) << 1 | u8::from(!uart.rx.is_empty())
            }
            6 => {
                let changes = uart.msr & 0x0f;
                uart.msr &= 0xf0;
                uart.msr | changes
            }
            _ => uart.scr,
        };
        uart.update(dev);
        Ok(())
    }

    fn write(dev: &Device<Self>, _bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let &[byte] = data else { return Err(Refused) };
        let uart = &mut *dev.uart.lock();
        match offset {
            0 | 1 if uart.dlab() => uart.divisor[offset as usize] = byte,
            // A byte that does not fit is lost.
            0 if uart.tx.len() <= uart.depth() => {
                uart.emptied = false;
                uart.tx.push(byte);
                if uart.tx.len() == 1 { uart.send(dev) }
            }
            1 => {
                uart.emptied |= byte & !uart.ier & 2 != 0 && uart.tx.len() < 2;
                uart.ier = byte & 0x0f;
            }
            2 => {
                let clear = if (uart.fcr ^ byte) & 1 != 0 { 6 } else { byte };
                uart.fcr = if byte & 1 != 0 { byte & 0xc9 } else { 0 };
                if clear & 2 != 0 { (uart.rx, uart.waited) = (Fifo::default(), false) }
                if clear & 4 != 0 { uart.tx.truncate(1) }
            }
            3 => uart.lcr = byte,
            4 => uart.mcr = byte & 0x1f,
            7 => uart.scr = byte,
            _ => {}
        }
        uart.update(dev);
        Ok(())
    }

    fn work(dev: &Device<Self>, wakeup: Wakeup) -> WorkResult {
        let uart = &mut *dev.uart.lock();
        if !uart.tx.is_empty() && dev.timer::<SENT>().left().is_none() { uart.sent(dev) }
        let mut byte = [0];
        // An access after the timer expired may have set it again: the next byte waits if there is no room.
        let room = wakeup.timer(RECEIVED) && uart.rx.len() < uart.depth();
        if room && dev.host_end().receive(&mut byte) == 1 { uart.receive(dev, byte[0]) }
        uart.waited |= wakeup.timer(WAITED) && !uart.rx.is_empty() && uart.fifos();
        uart.update(dev);
        WorkResult::Idle
    }

    fn reset(dev: &Device<Self>) { Self::restore(dev, Uart::default()) }
    fn restore(dev: &Device<Self>, state: Uart) { dev.uart.lock().clone_from(&state); dev.uart.lock().update(dev) }
}
