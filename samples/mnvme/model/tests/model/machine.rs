// SPDX-License-Identifier: GPL-2.0

//! A machine with guest memory, storage and a controller, and a driver for it.

use mnvme_model::controller::{Controller, Effects};
use mnvme_model::engine;
use mnvme_model::host::{Fault, Host, Identity};
use mnvme_model::identify::parse_uuid;
use mnvme_model::regs::{Reg, DOORBELLS, REGISTERS};
use mnvme_model::status::Status;
use mnvme_model::{BLOCK, PAGE, QUEUES, TRAILER};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of guest memory, from IOVA 0 on.
pub(crate) const MEMORY: usize = 4 << 20;
/// Blocks of the namespace.
pub(crate) const BLOCKS: u64 = 8192;
/// Entries of each queue.
pub(crate) const ENTRIES: u16 = 8;
/// Where data may be.
pub(crate) const DATA: u64 = 1 << 20;
/// Where PRP lists may be.
pub(crate) const LISTS: u64 = 3 << 20;
/// `CC` of an enabled controller.
pub(crate) const CC: u32 = 1 | (6 << 16) | (4 << 20);

/// An access of the device: where it begins, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read(u64, usize),
    Write(u64, usize),
    Load(u64, usize),
    Store(u64, usize),
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) controller: RefCell<Controller>,
    pub(crate) memory: RefCell<Vec<u8>>,
    pub(crate) storage: RefCell<Vec<u8>>,
    /// Guest pages that the device has written.
    pub(crate) dirty: RefCell<BTreeSet<u64>>,
    /// All accesses of the device, in order.
    pub(crate) accesses: RefCell<Vec<Access>>,
    /// Guest memory that is not accessible.
    pub(crate) hole: RefCell<Range<u64>>,
    /// The storage fails.
    pub(crate) broken: Cell<bool>,
    /// The effects of the changes of the controller.
    pub(crate) effects: Cell<Effects>,
    /// Is called before the device accesses guest memory.
    #[expect(clippy::type_complexity)]
    pub(crate) before: RefCell<Option<Box<dyn FnMut(&Machine, u64)>>>,
}

impl Machine {
    /// Makes a machine whose controller is at power-on.
    pub(crate) fn new() -> Self {
        let size = BLOCKS * BLOCK as u64 + TRAILER;
        Self {
            controller: RefCell::new(Controller::new(size)),
            memory: RefCell::new(vec![0; MEMORY]),
            storage: RefCell::new(vec![0; size as usize]),
            dirty: RefCell::default(),
            accesses: RefCell::default(),
            hole: RefCell::new(0..0),
            broken: Cell::new(false),
            effects: Cell::default(),
            before: RefCell::new(None),
        }
    }

    fn guest(&self, iova: u64, len: usize) -> Result<Range<usize>, Fault> {
        // Taken out, because it may access the machine.
        if let Some(mut before) = self.before.take() {
            before(self, iova);
            self.before.borrow_mut().get_or_insert(before);
        }
        let end = iova.checked_add(len as u64).ok_or(Fault::Guest)?;
        let hole = self.hole.borrow();
        if end > MEMORY as u64 || (iova < hole.end && hole.start < end) {
            return Err(Fault::Guest);
        }
        Ok(iova as usize..end as usize)
    }

    fn stored(&self, at: u64, len: usize) -> Result<Range<usize>, Fault> {
        // The model never leaves the storage.
        let end = at as usize + len;
        assert!(
            end <= self.storage.borrow().len(),
            "storage: {at:#x}, {len} bytes"
        );
        match self.broken.get() {
            true => Err(Fault::Storage),
            false => Ok(at as usize..end),
        }
    }

    fn note(&self, access: Access) {
        self.accesses.borrow_mut().push(access);
    }
}

impl Host for Machine {
    fn lock<R>(&self, access: impl FnOnce(&mut Controller) -> R) -> R {
        let mut controller = self.controller.borrow_mut();
        let result = access(&mut controller);
        let new = controller.take_effects();
        let mut effects = self.effects.get();
        effects.schedule |= new.schedule;
        effects.signal |= new.signal;
        effects.asserted |= new.asserted;
        self.effects.set(effects);
        result
    }

    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.note(Access::Read(iova, data.len()));
        let range = self.guest(iova, data.len())?;
        data.copy_from_slice(&self.memory.borrow()[range]);
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        self.note(Access::Write(iova, data.len()));
        let range = self.guest(iova, data.len())?;
        for page in range.start / PAGE..range.end.div_ceil(PAGE) {
            self.dirty.borrow_mut().insert(page as u64);
        }
        self.memory.borrow_mut()[range].copy_from_slice(data);
        Ok(())
    }

    fn load(&self, at: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.note(Access::Load(at, data.len()));
        let range = self.stored(at, data.len())?;
        data.copy_from_slice(&self.storage.borrow()[range]);
        Ok(())
    }

    fn store(&self, at: u64, data: &[u8]) -> Result<(), Fault> {
        self.note(Access::Store(at, data.len()));
        let range = self.stored(at, data.len())?;
        self.storage.borrow_mut()[range].copy_from_slice(data);
        Ok(())
    }

    fn guest_to_storage(&self, iova: u64, at: u64, len: usize) -> Result<(), Fault> {
        let mut data = vec![0; len];
        self.read(iova, &mut data)?;
        self.store(at, &data)
    }

    fn storage_to_guest(&self, at: u64, iova: u64, len: usize) -> Result<(), Fault> {
        let mut data = vec![0; len];
        self.load(at, &mut data)?;
        self.write(iova, &data)
    }

    fn zero(&self, at: u64, len: usize) -> Result<(), Fault> {
        self.store(at, &vec![0; len])
    }

    fn uuid(&self) -> Identity {
        parse_uuid(b"00112233-4455-6677-8899-aabbccddeeff")
    }
}

/// A submission queue entry.
#[derive(Clone, Copy, Default)]
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) cid: u16,
    pub(crate) nsid: u32,
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    pub(crate) dwords: [u32; 6],
}

impl Entry {
    /// An I/O command on blocks.
    pub(crate) fn blocks(opcode: u8, slba: u64, blocks: u32) -> Self {
        Self {
            opcode,
            nsid: 1,
            prp1: DATA,
            dwords: [
                slba as u32,
                (slba >> 32) as u32,
                blocks.wrapping_sub(1),
                0,
                0,
                0,
            ],
            ..Self::default()
        }
    }

    /// An admin command with dwords 10 and 11.
    pub(crate) fn admin(opcode: u8, dw10: u32, dw11: u32) -> Self {
        Self {
            opcode,
            prp1: DATA,
            dwords: [dw10, dw11, 0, 0, 0, 0],
            ..Self::default()
        }
    }

    fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = self.opcode;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.cid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.nsid.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.prp1.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.prp2.to_le_bytes());
        for (i, dword) in self.dwords.iter().enumerate() {
            bytes[40 + 4 * i..][..4].copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }
}

/// A completion queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) result: u32,
    pub(crate) sq_head: u16,
    pub(crate) sq: u16,
    pub(crate) cid: u16,
    /// Without the phase tag.
    pub(crate) status: u16,
}

/// A driver of a machine's controller.
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) tails: [u16; QUEUES],
    heads: [u16; QUEUES],
    phases: [bool; QUEUES],
    cids: u16,
}

/// IOVA of a submission queue.
pub(crate) fn sq_base(queue: usize) -> u64 {
    (0x10 + queue as u64) << 12
}

/// IOVA of a completion queue.
pub(crate) fn cq_base(queue: usize) -> u64 {
    (0x20 + queue as u64) << 12
}

impl Driver {
    /// Enables the controller of a new machine.
    pub(crate) fn new() -> Self {
        let mut driver = Self {
            machine: Machine::new(),
            tails: [0; QUEUES],
            heads: [0; QUEUES],
            phases: [true; QUEUES],
            cids: 0,
        };
        driver.enable();
        driver
    }

    /// Enables the controller, and I/O queue pairs.
    pub(crate) fn with_queues(count: usize) -> Self {
        let mut driver = Self::new();
        for queue in 1..=count {
            driver.create(queue);
        }
        driver
    }

    pub(crate) fn enable(&mut self) {
        self.tails = [0; QUEUES];
        self.heads = [0; QUEUES];
        self.phases = [true; QUEUES];
        // What a former run has written there has the wrong phase, or none.
        self.machine.memory.borrow_mut()[sq_base(0) as usize..cq_base(QUEUES) as usize].fill(0);
        let size = u32::from(ENTRIES - 1);
        self.write(Reg::Aqa, (size | (size << 16)).into());
        self.write(Reg::Asq, sq_base(0));
        self.write(Reg::Acq, cq_base(0));
        self.write(Reg::Cc, CC.into());
        assert_eq!(self.read(Reg::Csts), 1);
    }

    /// Creates an I/O queue pair.
    pub(crate) fn create(&mut self, queue: usize) {
        let (id, size) = (queue as u32, u32::from(ENTRIES - 1));
        let mut cq = Entry::admin(0x05, id | (size << 16), 3 | (id << 16));
        cq.prp1 = cq_base(queue);
        assert_eq!(self.admin(cq).status, 0);
        let mut sq = Entry::admin(0x01, id | (size << 16), 1 | (id << 16));
        sq.prp1 = sq_base(queue);
        assert_eq!(self.admin(sq).status, 0);
        self.tails[queue] = 0;
        self.heads[queue] = 0;
        self.phases[queue] = true;
    }

    pub(crate) fn read(&self, reg: Reg) -> u64 {
        let row = REGISTERS.iter().find(|row| row.reg == reg).unwrap();
        let mut bytes = [0; 8];
        let data = &mut bytes[..row.width as usize];
        self.machine.lock(|c| c.read(row.offset, data)).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn write(&self, reg: Reg, value: u64) {
        let row = REGISTERS.iter().find(|row| row.reg == reg).unwrap();
        let bytes = &value.to_le_bytes()[..row.width as usize];
        self.machine.lock(|c| c.write(row.offset, bytes)).unwrap();
    }

    /// Writes a doorbell: queue `queue / 2`, the completion queue's if odd.
    pub(crate) fn ring(&self, number: usize, value: u32) {
        let offset = DOORBELLS + 4 * number as u64;
        let bytes = value.to_le_bytes();
        self.machine.lock(|c| c.write(offset, &bytes)).unwrap();
    }

    /// Puts a command into a queue, without ringing. Returns its identifier.
    pub(crate) fn put(&mut self, queue: usize, mut entry: Entry) -> u16 {
        self.cids += 1;
        entry.cid = self.cids;
        let at = sq_base(queue) + 64 * u64::from(self.tails[queue]);
        self.poke(at, &entry.encode());
        self.tails[queue] = (self.tails[queue] + 1) % ENTRIES;
        entry.cid
    }

    /// Submits a command. Returns its identifier.
    pub(crate) fn submit(&mut self, queue: usize, entry: Entry) -> u16 {
        let cid = self.put(queue, entry);
        self.ring(2 * queue, self.tails[queue].into());
        cid
    }

    /// Does one unit of work. Returns whether there was one.
    pub(crate) fn step(&self) -> bool {
        engine::unit(&self.machine, &mut [0xaa; PAGE])
    }

    /// Does all work.
    pub(crate) fn work(&self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the work does not end");
    }

    /// Returns the next completion of a queue, without taking it.
    pub(crate) fn peek(&self, queue: usize) -> Option<Done> {
        let at = cq_base(queue) + 16 * u64::from(self.heads[queue]);
        let bytes = self.memory(at, 16);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        ((half(14) & 1 == 1) == self.phases[queue]).then(|| Done {
            result: u32::from(half(0)) | (u32::from(half(2)) << 16),
            sq_head: half(8),
            sq: half(10),
            cid: half(12),
            status: half(14) >> 1,
        })
    }

    /// Takes the next completion of a queue, without ringing.
    pub(crate) fn pop(&mut self, queue: usize) -> Option<Done> {
        let done = self.peek(queue)?;
        self.heads[queue] = (self.heads[queue] + 1) % ENTRIES;
        if self.heads[queue] == 0 {
            self.phases[queue] = !self.phases[queue];
        }
        Some(done)
    }

    /// Takes the next completion of a queue.
    pub(crate) fn take(&mut self, queue: usize) -> Option<Done> {
        let done = self.pop(queue)?;
        self.ring(2 * queue + 1, self.heads[queue].into());
        Some(done)
    }

    /// Does a command to its end.
    pub(crate) fn run(&mut self, queue: usize, entry: Entry) -> Done {
        let cid = self.submit(queue, entry);
        self.work();
        let done = self.take(queue).expect("no completion");
        assert_eq!((done.cid, usize::from(done.sq)), (cid, queue));
        done
    }

    /// Does an admin command to its end.
    pub(crate) fn admin(&mut self, entry: Entry) -> Done {
        self.run(0, entry)
    }

    /// Does an I/O command to its end. Returns the status.
    pub(crate) fn io(&mut self, entry: Entry) -> u16 {
        self.run(1, entry).status
    }

    pub(crate) fn memory(&self, iova: u64, len: usize) -> Vec<u8> {
        self.machine.memory.borrow()[iova as usize..][..len].to_vec()
    }

    pub(crate) fn poke(&self, iova: u64, bytes: &[u8]) {
        self.machine.memory.borrow_mut()[iova as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn storage(&self, slba: u64, blocks: usize) -> Vec<u8> {
        self.machine.storage.borrow()[slba as usize * BLOCK..][..blocks * BLOCK].to_vec()
    }

    /// Fills blocks with random bytes, and returns them.
    pub(crate) fn fill(&self, slba: u64, blocks: usize) -> Vec<u8> {
        let bytes = random(blocks * BLOCK);
        let at = slba as usize * BLOCK;
        self.machine.storage.borrow_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
        bytes
    }

    /// Writes a PRP list and returns its IOVA.
    pub(crate) fn list(&self, at: u64, entries: &[u64]) -> u64 {
        for (i, entry) in entries.iter().enumerate() {
            self.poke(at + 8 * i as u64, &entry.to_le_bytes());
        }
        at
    }

    /// Pages that the device has written since the last call, except queues.
    pub(crate) fn dirty(&self) -> Vec<u64> {
        let pages = std::mem::take(&mut *self.machine.dirty.borrow_mut());
        pages
            .into_iter()
            .filter(|page| *page >= DATA >> 12)
            .collect()
    }

    /// The accesses of the device since the last call.
    pub(crate) fn accesses(&self) -> Vec<Access> {
        self.machine.accesses.take()
    }

    /// The effects since the last call.
    pub(crate) fn effects(&self) -> Effects {
        self.machine.effects.take()
    }

    pub(crate) fn asserted(&self) -> u64 {
        self.machine.controller.borrow().asserted()
    }
}

pub(crate) fn random(len: usize) -> Vec<u8> {
    (0..len).map(|_| fastrand::u8(..)).collect()
}

/// The status field of a failure.
pub(crate) fn status(status: Status) -> u16 {
    status.field()
}
