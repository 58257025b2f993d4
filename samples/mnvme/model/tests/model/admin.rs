// SPDX-License-Identifier: GPL-2.0

//! Admin commands.

use crate::machine::{status, Driver, Entry, BLOCKS, DATA, LISTS};
use mnvme_model::command::{ADMIN, NVM};
use mnvme_model::feature::{FEATURES, QUEUE_COUNT, VECTOR, WARNING};
use mnvme_model::host::Host;
use mnvme_model::identify::{CONTROLLER, NAMESPACE_FIELDS};
use mnvme_model::log::{self, PAGES};
use mnvme_model::status::{Status, STATUSES};
use mnvme_model::QUEUES;

/// Gets the data of Identify.
fn identify(driver: &mut Driver, cns: u32, nsid: u32) -> Result<Vec<u8>, u16> {
    let mut entry = Entry::admin(0x06, cns, 0);
    entry.nsid = nsid;
    driver.poke(DATA, &[0xee; 4096]);
    match driver.admin(entry).status {
        0 => Ok(driver.memory(DATA, 4096)),
        status => Err(status),
    }
}

/// Gets the first `len` bytes of a log page.
fn log_page(driver: &mut Driver, id: u8, len: usize, first: u32) -> Result<Vec<u8>, u16> {
    let mut entry = Entry::admin(0x02, u32::from(id) | (((len / 4 - 1) as u32) << 16), 0);
    entry.nsid = 0xffff_ffff;
    entry.dwords[2] = first;
    match driver.admin(entry).status {
        0 => Ok(driver.memory(DATA, len)),
        status => Err(status),
    }
}

#[test]
fn tables_are_in_order() {
    assert!(ADMIN.windows(2).all(|pair| pair[0].opcode < pair[1].opcode));
    assert!(NVM.windows(2).all(|pair| pair[0].opcode < pair[1].opcode));
    for (i, row) in STATUSES.iter().enumerate() {
        assert_eq!(row.status as usize, i);
    }
    for pair in CONTROLLER.windows(2).chain(NAMESPACE_FIELDS.windows(2)) {
        assert!(
            pair[0].offset + pair[0].value.len() <= pair[1].offset,
            "{}",
            pair[1].name
        );
    }
}

#[test]
fn identify_controller_tells_the_limits() {
    let mut driver = Driver::new();
    let data = identify(&mut driver, 1, 0).unwrap();
    for field in &CONTROLLER {
        let found = &data[field.offset..][..field.value.len()];
        assert_eq!(found, field.value, "{}", field.name);
    }
    assert_eq!(&data[4..24], b"66778899aabbccddeeff");
    assert_eq!(&data[24..40], b"vfio-mdev-rs NVM");
    assert_eq!(data[77], 5);
    assert_eq!(data[512..514], [0x66, 0x44]);
    let name = b"nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff\0";
    assert_eq!(&data[768..768 + name.len()], name);
}

#[test]
fn the_identity_lives_in_the_storage() {
    let mut driver = Driver::new();
    driver.machine.store(BLOCKS * 512, &[0x5a; 16]).unwrap();
    let data = identify(&mut driver, 1, 0).unwrap();
    assert_eq!(&data[4..24], &[b"5a".as_slice(); 10].concat());
}

#[test]
fn identify_namespace() {
    let mut driver = Driver::new();
    let data = identify(&mut driver, 0, 1).unwrap();
    for at in [0, 8, 16] {
        assert_eq!(data[at..at + 8], BLOCKS.to_le_bytes());
    }
    for field in &NAMESPACE_FIELDS {
        let found = &data[field.offset..][..field.value.len()];
        assert_eq!(found, field.value, "{}", field.name);
    }
    assert_eq!(data[130], 9);
    assert_eq!(data[104..120], driver.machine.uuid(), "NGUID");
    let invalid = Err(status(Status::InvalidNamespace));
    assert_eq!(identify(&mut driver, 0, 0), invalid);
    assert_eq!(identify(&mut driver, 0, 2), invalid);
    assert_eq!(identify(&mut driver, 0, 0xffff_ffff), invalid);
    assert_eq!(identify(&mut driver, 3, 2), invalid);
    assert_eq!(identify(&mut driver, 2, 0xffff_fffe), invalid);
    for cns in 4..=0xff {
        let field = Err(status(Status::InvalidField));
        assert_eq!(identify(&mut driver, cns, 1), field, "CNS {cns:#x}");
    }

    let list = identify(&mut driver, 2, 0).unwrap();
    assert_eq!(list[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    let list = identify(&mut driver, 2, 1).unwrap();
    assert_eq!(list[..4], [0; 4]);
    let descriptors = identify(&mut driver, 3, 1).unwrap();
    assert_eq!(descriptors[..4], [2, 16, 0, 0]);
    assert_eq!(descriptors[20..24], [3, 16, 0, 0]);
    for at in [4, 24] {
        assert_eq!(descriptors[at..at + 16], driver.machine.uuid());
    }
    assert_eq!(descriptors[40..], [0; 4096 - 40]);
}

#[test]
fn unknown_opcodes_and_flags_are_refused() {
    let mut driver = Driver::new();
    for opcode in 0..=0xff {
        if ADMIN.iter().all(|row| row.opcode != opcode) {
            let done = driver.admin(Entry::admin(opcode, 0, 0));
            assert_eq!(done.status, status(Status::InvalidOpcode), "{opcode:#x}");
        }
    }
    for flags in [1, 2, 0x40, 0x80] {
        let mut entry = Entry::admin(0x06, 1, 0);
        entry.flags = flags;
        assert_eq!(driver.admin(entry).status, status(Status::InvalidField));
    }
}

#[test]
fn keep_alive_does_not_apply() {
    // It is for fabrics. The controller says so, and has neither the command nor its timer.
    let mut driver = Driver::new();
    assert_eq!(identify(&mut driver, 1, 0).unwrap()[320..322], [0, 0]);
    let done = driver.admin(Entry::admin(0x18, 0, 0));
    assert_eq!(done.status, status(Status::InvalidOpcode));
    for opcode in [0x09, 0x0a] {
        let done = driver.admin(Entry::admin(opcode, 0x0f, 1000));
        assert_eq!(done.status, status(Status::InvalidField));
    }
}

#[test]
fn queues_are_checked_when_they_are_created() {
    let mut driver = Driver::with_queues(1);
    let mut create = |opcode: u8, dw10: u32, dw11: u32, prp1: u64| {
        let mut entry = Entry::admin(opcode, dw10, dw11);
        entry.prp1 = prp1;
        driver.admin(entry).status
    };
    let id = status(Status::InvalidQueueIdentifier);
    let size = status(Status::InvalidQueueSize);
    for (opcode, dw11) in [(0x05, 3), (0x01, 1 | (1 << 16))] {
        assert_eq!(create(opcode, 7 << 16, dw11, DATA), id, "queue 0");
        assert_eq!(create(opcode, QUEUES as u32 | (7 << 16), dw11, DATA), id);
        assert_eq!(create(opcode, 0xffff | (7 << 16), dw11, DATA), id);
        assert_eq!(create(opcode, 1 | (7 << 16), dw11, DATA), id, "exists");
        assert_eq!(create(opcode, 2, dw11, DATA), size, "one entry");
        assert_eq!(create(opcode, 2 | (1024 << 16), dw11, DATA), size);
        assert_eq!(
            create(opcode, 2 | (7 << 16), dw11 & !1, DATA),
            status(Status::InvalidField)
        );
        for base in [DATA + 4, DATA + 2048, !0xfff | 8] {
            assert_eq!(
                create(opcode, 2 | (7 << 16), dw11, base),
                status(Status::InvalidPrpOffset)
            );
        }
        assert_eq!(
            create(opcode, 2 | (1023 << 16), dw11, !0xfff),
            status(Status::InvalidPrpOffset),
            "wraps"
        );
    }
    assert_eq!(
        create(0x05, 2 | (7 << 16), 3 | (9 << 16), DATA),
        status(Status::InvalidInterruptVector)
    );
    assert_eq!(
        create(0x01, 2 | (7 << 16), 1, DATA),
        id,
        "completions to the admin queue"
    );
    assert_eq!(create(0x01, 2 | (7 << 16), 1 | (9 << 16), DATA), id);
    assert_eq!(
        create(0x01, 2 | (7 << 16), 1 | (3 << 16), DATA),
        status(Status::CompletionQueueInvalid)
    );
    assert_eq!(create(0x05, 8 | (1023 << 16), 3 | (8 << 16), DATA), 0);
    assert_eq!(create(0x01, 8 | (1023 << 16), 1 | (8 << 16), DATA), 0);
}

#[test]
fn entry_sizes_must_be_set_before_queues_are_created() {
    let mut driver = Driver::new();
    driver.write(mnvme_model::regs::Reg::Cc, 1);
    let entry = Entry::admin(0x05, 1 | (7 << 16), 3);
    assert_eq!(driver.admin(entry).status, status(Status::InvalidQueueSize));
}

#[test]
fn queues_are_deleted_in_order() {
    let mut driver = Driver::with_queues(2);
    let mut delete = |opcode, id| driver.admin(Entry::admin(opcode, id, 0)).status;
    let id = status(Status::InvalidQueueIdentifier);
    for opcode in [0x00, 0x04] {
        assert_eq!(delete(opcode, 0), id);
        assert_eq!(delete(opcode, 3), id);
        assert_eq!(delete(opcode, 0xffff), id);
    }
    assert_eq!(delete(0x04, 1), status(Status::InvalidQueueDeletion));
    assert_eq!(delete(0x00, 1), 0);
    assert_eq!(delete(0x04, 1), 0);
    assert_eq!(delete(0x00, 1), id);
    driver.create(1);
    assert_eq!(driver.io(Entry::blocks(0, 0, 1)), 0);
}

#[test]
fn features_keep_what_is_set_until_a_reset() {
    let mut driver = Driver::new();
    let get = |driver: &mut Driver, id: u8, select: u32| {
        let done = driver.admin(Entry::admin(0x0a, u32::from(id) | (select << 8), 0));
        (done.status == 0).then_some(done.result)
    };
    for feature in &FEATURES {
        assert_eq!(
            get(&mut driver, feature.id, 0),
            Some(feature.default),
            "{}",
            feature.name
        );
        // Bits 16 to 21 of Temperature Threshold select it.
        let value = feature.mask & !0x1f & !(0x3f << 16) | feature.mask & 1;
        let done = driver.admin(Entry::admin(0x09, feature.id.into(), value));
        assert_eq!(done.status, 0, "{}", feature.name);
        assert_eq!(
            get(&mut driver, feature.id, 0),
            Some(value),
            "{}",
            feature.name
        );
        assert_eq!(get(&mut driver, feature.id, 1), Some(feature.default));
        assert_eq!(get(&mut driver, feature.id, 2), Some(feature.default));
        assert_eq!(get(&mut driver, feature.id, 3), Some(4));
        assert_eq!(get(&mut driver, feature.id, 4), None);
    }
    driver.write(mnvme_model::regs::Reg::Cc, 0);
    driver.enable();
    for feature in &FEATURES {
        assert_eq!(get(&mut driver, feature.id, 0), Some(feature.default));
    }
}

#[test]
fn features_are_checked() {
    let mut driver = Driver::new();
    let set = |driver: &mut Driver, dw10: u32, dw11: u32| {
        driver.admin(Entry::admin(0x09, dw10, dw11)).status
    };
    let field = status(Status::InvalidField);
    assert_eq!(
        set(&mut driver, 0x06 | (1 << 31), 0),
        status(Status::FeatureNotSaveable)
    );
    assert_eq!(set(&mut driver, 0x7f, 0), field);
    assert_eq!(set(&mut driver, 0x02, 1), field, "power state 1");
    assert_eq!(set(&mut driver, QUEUE_COUNT.into(), 0xffff), field);
    assert_eq!(set(&mut driver, QUEUE_COUNT.into(), 0xffff << 16), field);
    assert_eq!(set(&mut driver, VECTOR.into(), 9), field);
    assert_eq!(set(&mut driver, 0x04, 2 << 20), field);
    assert_eq!(set(&mut driver, 0x04, 9 << 16), field);
    let done = driver.admin(Entry::admin(0x09, QUEUE_COUNT.into(), 0x3_0003));
    assert_eq!((done.status, done.result), (0, 0x7_0007));
    assert_eq!(set(&mut driver, VECTOR.into(), 8 | (1 << 16)), 0);
    let done = driver.admin(Entry::admin(0x0a, VECTOR.into(), 8));
    assert_eq!(done.result, 8 | (1 << 16));
    driver.create(1);
    assert_eq!(
        set(&mut driver, QUEUE_COUNT.into(), 0),
        status(Status::CommandSequenceError)
    );
}

#[test]
fn features_of_the_controller_are_not_set_for_a_namespace() {
    let mut driver = Driver::new();
    let set = |driver: &mut Driver, id: u8, nsid: u32| {
        let mut entry = Entry::admin(0x09, id.into(), 0);
        entry.nsid = nsid;
        driver.admin(entry).status
    };
    let ids = FEATURES.iter().map(|feature| feature.id);
    for id in ids.chain([QUEUE_COUNT, VECTOR]) {
        assert_eq!(set(&mut driver, id, 0), 0, "{id:#x}");
        assert_eq!(set(&mut driver, id, 0xffff_ffff), 0, "{id:#x}");
        let invalid = status(Status::InvalidNamespace);
        assert_eq!(set(&mut driver, id, 2), invalid, "{id:#x}");
        // Error Recovery is a feature of the namespace.
        let expected = match id {
            0x05 => 0,
            _ => status(Status::FeatureNotOfNamespace),
        };
        assert_eq!(set(&mut driver, id, 1), expected, "{id:#x}");
    }
    let field = status(Status::InvalidField);
    assert_eq!(set(&mut driver, 0x7f, 1), field, "unknown");
}

#[test]
fn log_pages() {
    let mut driver = Driver::with_queues(1);
    for row in &PAGES {
        assert!(log_page(&mut driver, row.id, row.size, 0).is_ok());
    }
    assert_eq!(
        log_page(&mut driver, 0x7f, 64, 0),
        Err(status(Status::InvalidLogPage))
    );
    assert_eq!(
        log_page(&mut driver, log::SMART, 64, 516),
        Err(status(Status::InvalidField))
    );
    assert_eq!(
        log_page(&mut driver, log::SMART, 64, 2),
        Err(status(Status::InvalidField))
    );
    // A namespace has no SMART log.
    let mut entry = Entry::admin(0x02, u32::from(log::SMART) | (15 << 16), 0);
    entry.nsid = 1;
    assert_eq!(driver.admin(entry).status, status(Status::InvalidField));

    let effects = log_page(&mut driver, log::EFFECTS, 4096, 0).unwrap();
    let at = |at: usize| u32::from_le_bytes(effects[at..at + 4].try_into().unwrap());
    assert_eq!(
        (at(4 * 6), at(4 * 0x7f), at(1024 + 4), at(1024 + 8)),
        (1, 0, 3, 1)
    );
    // From an offset on.
    let part = log_page(&mut driver, log::EFFECTS, 64, 1024).unwrap();
    assert_eq!(part[..], effects[1024..1088]);
}

#[test]
fn a_log_page_ends_where_it_ends() {
    let mut driver = Driver::new();
    driver.poke(DATA, &[0xee; 4096]);
    let mut entry = Entry::admin(0x02, u32::from(log::SMART) | (1023 << 16), 0);
    entry.nsid = 0xffff_ffff;
    assert_eq!(driver.admin(entry).status, 0);
    assert_eq!(driver.memory(DATA + 512, 4096 - 512), [0xee; 4096 - 512]);

    // PRP 2 is a list if the length says so, whatever the page has.
    let list = driver.list(LISTS, &[DATA + 0x1000, DATA + 0x2000]);
    let mut entry = Entry::admin(0x02, u32::from(log::SMART) | (2047 << 16), 0);
    entry.nsid = 0xffff_ffff;
    entry.prp1 = DATA + 4096 - 16;
    entry.prp2 = list;
    driver.poke(DATA + 0x1000, &[0; 16]);
    assert_eq!(driver.admin(entry).status, 0);
    let data = driver.memory(DATA + 4096 - 16, 32);
    assert_eq!(u16::from_le_bytes([data[1], data[2]]), 310);

    entry.dwords[1] = 1;
    assert_eq!(
        driver.admin(entry).status,
        status(Status::InvalidField),
        "more than MDTS"
    );
}

#[test]
fn smart_counts_and_the_error_log_lists() {
    let mut driver = Driver::with_queues(1);
    for _ in 0..3 {
        assert_eq!(driver.io(Entry::blocks(1, 0, 8)), 0);
    }
    assert_eq!(driver.io(Entry::blocks(2, 0, 4)), 0);
    for slba in BLOCKS..BLOCKS + 6 {
        assert_eq!(
            driver.io(Entry::blocks(2, slba, 1)),
            status(Status::LbaOutOfRange)
        );
    }
    let smart = log_page(&mut driver, log::SMART, 512, 0).unwrap();
    // No warning, 310 K, 100 % spare of which 10 % are needed, 0 % used.
    assert_eq!(smart[..6], [0, 0x36, 0x01, 100, 10, 0]);
    let firmware = log_page(&mut driver, log::FIRMWARE, 512, 0).unwrap();
    assert_eq!((firmware[0], &firmware[8..16]), (1, b"1.0     ".as_slice()));
    assert!(firmware[16..].iter().all(|byte| *byte == 0), "one slot");
    let count = |at: usize| u64::from_le_bytes(smart[at..at + 8].try_into().unwrap());
    assert_eq!([32, 48, 64, 80, 176].map(count), [1, 1, 1, 3, 6]);
    let errors = log_page(&mut driver, log::ERRORS, 256, 0).unwrap();
    for (i, entry) in errors.chunks(64).enumerate() {
        let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        assert_eq!(
            (number(0), number(16)),
            (6 - i as u64, BLOCKS + 5 - i as u64)
        );
        assert_eq!(entry[8..10], [1, 0]);
        let field = u16::from_le_bytes([entry[12], entry[13]]);
        assert_eq!(field >> 1, status(Status::LbaOutOfRange));
    }
    // They survive a reset of the controller.
    driver.write(mnvme_model::regs::Reg::Cc, 0);
    driver.enable();
    assert_eq!(log_page(&mut driver, log::ERRORS, 256, 0).unwrap(), errors);
}

#[test]
fn the_temperature_can_be_made_critical() {
    let mut driver = Driver::new();
    let smart = log_page(&mut driver, log::SMART, 512, 0).unwrap();
    assert_eq!(smart[0], 0);
    assert!(u32::from(WARNING) > 310);
    assert_eq!(driver.admin(Entry::admin(0x09, 0x04, 300)).status, 0);
    let smart = log_page(&mut driver, log::SMART, 512, 0).unwrap();
    assert_eq!(smart[0], 2);
}

#[test]
fn abort_ends_only_commands_in_progress() {
    let mut driver = Driver::with_queues(1);
    let done = driver.admin(Entry::admin(0x08, 1 | (77 << 16), 0));
    assert_eq!((done.status, done.result), (0, 1));
    // A queue that does not exist, and a request that waits for an event.
    let done = driver.admin(Entry::admin(0x08, 2, 0));
    assert_eq!((done.status, done.result), (0, 1));
    let done = driver.admin(Entry::admin(0x08, 0xffff, 0));
    assert_eq!((done.status, done.result), (0, 1));
    let request = driver.submit(0, Entry::admin(0x0c, 0, 0));
    driver.work();
    let done = driver.admin(Entry::admin(0x08, u32::from(request) << 16, 0));
    assert_eq!((done.status, done.result), (0, 1));
    let cid = driver.submit(1, Entry::blocks(0x08, 0, 4096));
    assert!(driver.step() && driver.step());
    let done = driver.admin(Entry::admin(0x08, 1 | (u32::from(cid) << 16), 0));
    assert_eq!((done.status, done.result), (0, 0));
    let done = driver.take(1).unwrap();
    assert_eq!(
        (done.cid, done.status),
        (cid, status(Status::AbortRequested))
    );
}

#[test]
fn data_that_cannot_be_written_is_a_transfer_error() {
    let mut driver = Driver::new();
    *driver.machine.hole.borrow_mut() = DATA..DATA + 1;
    for (opcode, dw10) in [(0x06, 1), (0x02, 2)] {
        let mut entry = Entry::admin(opcode, dw10, 0);
        entry.nsid = if opcode == 2 { 0xffff_ffff } else { 0 };
        assert_eq!(
            driver.admin(entry).status,
            status(Status::DataTransferError)
        );
    }
}
