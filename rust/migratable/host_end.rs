// SPDX-License-Identifier: GPL-2.0

//! The host end of a device: bytes between the device and a program on the host.
//!
//! ```text
//!   program ── write() ──► input  ── receive() ──► device
//!           ◄── read() ──  output ◄── send() ────
//! ```
//!
//! The input is part of the device's state. The host end takes bytes only while the device runs and listens.
//! So each byte for which `write()` has returned reaches the device, here or at the destination of a
//! migration, and none goes to a destination that has not loaded the state yet. The
//! output belongs to the host: after a migration the program reads the rest of it here, and the bytes that
//! follow at the host end of the destination.
//!
//! A close without `keep_state` and a reset discard the input. Nothing discards the output but the program:
//! it finds what the device sent before.
//!
//! # Locks
//!
//! `state` is taken with the driver's locks held. Nothing is called with it held.

use crate::stream::{
    Reader,
    Writer, //
};
use kernel::{
    fs::File,
    new_mutex, new_poll_condvar,
    prelude::*,
    sync::{
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};
use vfio_bindings as bindings;

/// Bytes that wait for the device.
const INPUT: usize = 256;

/// Bytes that wait for the program.
const OUTPUT: usize = 4096;

/// Bytes of the saved number of bytes of the input.
const COUNT: usize = 2;

/// The most bytes that the host end adds to a saved state.
pub(crate) const SAVED_SIZE: usize = COUNT + INPUT;

/// A queue of bytes.
struct Queue {
    /// As many bytes as fit.
    bytes: KVec<u8>,
    /// The index of the first byte.
    head: usize,
    /// The number of bytes.
    len: usize,
}

impl Queue {
    /// Returns a queue for `size` bytes.
    fn new(size: usize) -> Result<Self> {
        Ok(Self {
            bytes: KVec::from_elem(0, size, GFP_KERNEL)?,
            head: 0,
            len: 0,
        })
    }

    /// Returns the number of bytes that fit.
    fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Returns the index of the byte with that number, counted from the first one.
    fn index(&self, number: usize) -> usize {
        let index = self.head + number;
        index.checked_rem(self.bytes.len()).unwrap_or(0)
    }

    /// Appends the bytes that fit, and returns how many.
    fn put(&mut self, from: &[u8]) -> usize {
        let count = from.len().min(self.room());
        for byte in from.iter().take(count) {
            let at = self.index(self.len);
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = *byte;
            }
            self.len += 1;
        }
        count
    }

    /// Copies the bytes at the front, and returns how many.
    fn peek(&self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.len);
        for (i, byte) in to.iter_mut().take(count).enumerate() {
            *byte = self.bytes.get(self.index(i)).copied().unwrap_or(0);
        }
        count
    }

    /// Removes `count` bytes at the front.
    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.head = (self.head + count)
            .checked_rem(self.bytes.len())
            .unwrap_or(0);
    }

    /// Removes all bytes.
    fn clear(&mut self) {
        self.drop_front(self.len);
    }
}

/// The data under the lock.
struct State {
    /// A program has the host end open.
    open: bool,
    /// The device runs.
    runs: bool,
    /// The device listens: it takes input.
    listens: bool,
    /// The device is gone.
    gone: bool,
    input: Queue,
    output: Queue,
}

impl State {
    /// Returns whether a byte of input would be taken.
    fn takes_input(&self) -> bool {
        self.runs && self.listens && self.input.room() != 0
    }
}

/// The host end of one device.
#[pin_data]
pub struct HostEnd {
    #[pin]
    state: Mutex<State>,
    /// Notified at each change that a program may wait for.
    #[pin]
    changed: PollCondVar,
}

/// The functions for the driver. They may sleep.
impl HostEnd {
    /// Returns whether a program has the host end open.
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// Sends bytes to the host, and returns how many were taken. Those that were not can be sent after the
    /// next [`Driver::work`](crate::Driver::work): the framework schedules it when the program has read.
    ///
    /// If no program has the host end open, takes and drops all of them.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        if !state.open {
            return bytes.len();
        }
        let taken = state.output.put(bytes);
        drop(state);
        self.changed.notify_all();
        taken
    }

    /// Takes bytes that the host has sent, and returns how many. The framework schedules
    /// [`Driver::work`](crate::Driver::work) when there are more.
    pub fn receive(&self, bytes: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let taken = state.input.peek(bytes);
        state.input.drop_front(taken);
        drop(state);
        if taken != 0 {
            self.changed.notify_all();
        }
        taken
    }

    /// Says whether the device listens. It does not at power-on: the host's `write()` waits. The bytes that
    /// were written before stay.
    ///
    /// The driver says so at each change, in `restore()` and in `reset()`.
    pub fn listen(&self, listens: bool) {
        let mut state = self.state.lock();
        if core::mem::replace(&mut state.listens, listens) == listens {
            return;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Returns how many bytes that the host has sent wait for the device.
    pub fn pending(&self) -> usize {
        self.state.lock().input.len
    }
}

/// The functions for the framework.
impl HostEnd {
    /// Returns a host end; one that carries nothing unless `used`.
    pub(crate) fn new(used: bool) -> Result<Arc<Self>> {
        let size = |size| if used { size } else { 0 };
        let state = State {
            open: false,
            runs: false,
            listens: false,
            gone: false,
            input: Queue::new(size(INPUT))?,
            output: Queue::new(size(OUTPUT))?,
        };
        Arc::pin_init(
            pin_init!(Self {
                state <- new_mutex!(state, "host end"),
                changed <- new_poll_condvar!("host end"),
            }),
            GFP_KERNEL,
        )
    }

    /// The device begins to run, or has stopped.
    pub(crate) fn run(&self, runs: bool) {
        self.state.lock().runs = runs;
        self.changed.notify_all();
    }

    /// Discards the input.
    pub(crate) fn reset(&self) {
        self.state.lock().input.clear();
    }

    /// The device goes: ends the calls that wait, and fails later ones.
    pub(crate) fn remove(&self) {
        self.state.lock().gone = true;
        self.changed.notify_all();
    }

    /// Saves the input.
    pub(crate) fn save(&self, out: &mut Writer<'_>) -> Result {
        let mut bytes = [0; INPUT];
        let count = self.state.lock().input.peek(&mut bytes);
        out.put_u16(count as u16)?;
        out.put_bytes(bytes.get(..count).unwrap_or_default())?;
        Ok(())
    }

    /// Decodes a saved input.
    pub(crate) fn decode<'a>(input: &mut Reader<'a>) -> Result<&'a [u8]> {
        let count = usize::from(input.get_u16()?);
        if count > INPUT {
            return Err(input.illegal("number of bytes from the host").into());
        }
        Ok(input.get_bytes(count)?)
    }

    /// Takes over a saved input. The device is stopped.
    pub(crate) fn restore(&self, input: &[u8]) {
        let mut state = self.state.lock();
        state.input.clear();
        state.input.put(input);
    }
}

/// The functions for the program's file.
impl HostEnd {
    /// A program opens the host end. `EBUSY` if one has it open.
    pub(crate) fn open(&self) -> Result {
        let mut state = self.state.lock();
        if state.gone {
            return Err(ENODEV);
        }
        if core::mem::replace(&mut state.open, true) {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// The program closes the host end.
    pub(crate) fn close(&self) {
        self.state.lock().open = false;
    }

    /// Reads output for the user. See [`Operations::read`](kernel_ext::char_device::Operations::read).
    pub(crate) fn read(&self, buf: UserPtr, len: usize, wait: bool) -> Result<usize> {
        let mut bytes = [0; INPUT];
        let mut state = self.state.lock();
        loop {
            if state.gone {
                return Err(EIO);
            }
            if state.output.len != 0 || len == 0 {
                break;
            }
            if !wait {
                return Err(EAGAIN);
            }
            if self.changed.wait_interruptible(&mut state) {
                return Err(ERESTARTSYS);
            }
        }
        let count = state.output.peek(&mut bytes[..len.min(INPUT)]);
        state.output.drop_front(count);
        drop(state);
        let bytes = bytes.get(..count).unwrap_or_default();
        UserSlice::new(buf, count).writer().write_slice(bytes)?;
        Ok(count)
    }

    /// Writes input for the user. See [`Operations::write`](kernel_ext::char_device::Operations::write).
    pub(crate) fn write(&self, buf: UserPtr, len: usize, wait: bool) -> Result<usize> {
        let mut bytes = [0; INPUT];
        let bytes = &mut bytes[..len.min(INPUT)];
        UserSlice::new(buf, bytes.len())
            .reader()
            .read_slice(bytes)?;
        let mut state = self.state.lock();
        loop {
            if state.gone {
                return Err(EIO);
            }
            if state.takes_input() || len == 0 {
                return Ok(state.input.put(bytes));
            }
            if !wait {
                return Err(EAGAIN);
            }
            if self.changed.wait_interruptible(&mut state) {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// Registers for changes, and returns the events that are pending.
    pub(crate) fn poll(&self, file: &File, table: &PollTable<'_>) -> u32 {
        table.register_wait(file, &self.changed);
        let state = self.state.lock();
        let mut events = 0;
        if state.gone {
            return bindings::POLLERR | bindings::POLLHUP;
        }
        if state.output.len != 0 {
            events |= bindings::POLLIN | bindings::POLLRDNORM;
        }
        if state.takes_input() {
            events |= bindings::POLLOUT | bindings::POLLWRNORM;
        }
        events
    }
}
