// SPDX-License-Identifier: GPL-2.0

//! The v1 registers, compared with expectations written from the text of the protocol.

use migration::region::{
    decode, permits, AccessError, Direction, Layout, Register, Target, HEADER_SIZE, REGISTERS,
};
use migration::state::State;

const LAYOUT: Layout = Layout {
    data_offset: 4096,
    section_size: 65536,
};

/// Returns the register if the text allows this access in `state`.
fn legal(offset: u64, len: usize, write: bool, state: State) -> Option<Register> {
    let (register, writable) = match (offset, len) {
        (0, 4) => (Register::DeviceState, true),
        (4, 4) => (Register::Reserved, true),
        (8, 8) => (Register::PendingBytes, false),
        (16, 8) => (Register::DataOffset, false),
        (24, 8) => (Register::DataSize, state == State::Resuming),
        _ => return None,
    };
    (writable || !write).then_some(register)
}

fn access(offset: u64, len: usize, write: bool, state: State) -> Result<Target, AccessError> {
    let direction = match write {
        true => Direction::Write,
        false => Direction::Read,
    };
    let target = decode(&LAYOUT, offset, len, direction)?;
    permits(target, direction, state)?;
    Ok(target)
}

#[test]
fn p03_native_width_only_everywhere_in_every_state() {
    let mut accepted = 0;
    for state in State::ALL {
        for write in [false, true] {
            for offset in 0..=39 {
                for len in 0..=40 {
                    let got = access(offset, len, write, state);
                    match legal(offset, len, write, state) {
                        Some(register) => {
                            assert_eq!(got, Ok(Target::Register(register)));
                            accepted += 1;
                        }
                        None => {
                            let error = got.expect_err(&format!("{offset} {len} {write}"));
                            assert_eq!(error.errno(), 22);
                            assert!(!error.to_string().is_empty());
                        }
                    }
                }
            }
        }
    }
    // 5 reads and 2 writes in each state, and the write of data_size while resuming.
    assert_eq!(accepted, 8 * 7 + 1);
}

#[test]
fn p02_the_table_is_the_struct() {
    let mut at = 0;
    for row in REGISTERS {
        assert_eq!(row.offset, at, "{}", row.register);
        at += row.width as u64;
    }
    assert_eq!(at, HEADER_SIZE);
    let names: Vec<_> = REGISTERS.iter().map(|r| r.register.to_string()).collect();
    assert_eq!(
        names,
        [
            "device_state",
            "reserved",
            "pending_bytes",
            "data_offset",
            "data_size"
        ]
    );
}

#[test]
fn p03_the_rest_of_the_header_page_has_no_register() {
    for offset in 32..4096 {
        for len in 1..=8 {
            let got = access(offset, len, offset % 2 == 0, State::Resuming);
            assert_eq!(got, Err(AccessError::NoRegister), "{offset} {len}");
        }
    }
    // From the header into the data section, and from the header across the whole region.
    assert_eq!(
        access(4092, 8, false, State::StopCopy),
        Err(AccessError::NoRegister)
    );
    assert!(access(0, LAYOUT.size() as usize, false, State::StopCopy).is_err());
}

#[test]
fn p05_read_only_fields_name_themselves() {
    assert_eq!(
        access(8, 8, true, State::Running),
        Err(AccessError::ReadOnly(Register::PendingBytes))
    );
    assert_eq!(
        access(16, 8, true, State::Resuming),
        Err(AccessError::ReadOnly(Register::DataOffset))
    );
    for state in State::ALL {
        let expected = match state {
            State::Resuming => Ok(Target::Register(Register::DataSize)),
            _ => Err(AccessError::NotResuming(Register::DataSize)),
        };
        assert_eq!(access(24, 8, true, state), expected, "{state}");
    }
}

#[test]
fn p28_the_data_section_takes_any_length_and_alignment() {
    let last = LAYOUT.size() - 1;
    for write in [false, true] {
        for state in State::ALL {
            for (at, len, offset) in [
                (4096, 1, 0),
                (4097, 3, 1),
                (4100, 65532, 4),
                (4096, 65536, 0),
                (last, 1, 65535),
                (last - 7, 8, 65528),
            ] {
                assert_eq!(
                    access(at, len, write, state),
                    Ok(Target::Data { offset }),
                    "{at} {len}"
                );
            }
        }
    }
}

#[test]
fn p03_nothing_beyond_the_region() {
    let end = LAYOUT.size();
    for offset in [end, end + 1, u64::MAX - 8, u64::MAX - 1, u64::MAX] {
        for len in [1, 2, 4, 8, 4096, usize::MAX] {
            assert_eq!(
                access(offset, len, false, State::StopCopy),
                Err(AccessError::Outside)
            );
        }
        assert_eq!(
            access(offset, 0, true, State::Resuming),
            Err(AccessError::Empty)
        );
    }
    for (offset, len) in [(end - 1, 2), (end - 8, 9), (4096, 65537), (8, usize::MAX)] {
        assert_eq!(
            access(offset, len, true, State::Resuming),
            Err(AccessError::Outside),
            "{offset} {len}"
        );
    }
    // A layout that would overflow does not panic.
    let absurd = Layout {
        data_offset: u64::MAX - 1,
        section_size: 8,
    };
    assert_eq!(absurd.size(), u64::MAX);
    assert_eq!(
        decode(&absurd, u64::MAX - 1, 2, Direction::Read),
        Err(AccessError::Outside)
    );
}
