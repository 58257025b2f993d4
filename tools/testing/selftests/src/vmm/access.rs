// SPDX-License-Identifier: GPL-2.0

//! Tables of accesses to the migration region of v1, and how they are replayed.

use vfio_client::v1::{offset, State};

use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::{device, Fixture, PAGE};
use crate::harness::result::Result;
use crate::{env::Env, fail};

/// What is accessed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// A register of the region.
    Register { offset: u64, width: usize },
    /// All of a piece of data, at `data_offset`, by one `pread()` or `pwrite()`.
    Trapped,
    /// The same through the mapping.
    Mapped,
}

/// What is done there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// A write of this value.
    Write(u64),
    /// A write of the size of the piece.
    WriteSize,
    /// A write of the piece.
    WritePiece,
    /// A read of `pending_bytes`, which has any value.
    Pending,
    /// A read of `data_offset`, which is where the mappable area is.
    Offset,
    /// A read of `data_size`, which is not 0 and at most the size of that area.
    Size,
    /// A read of the piece.
    ReadPiece,
}

/// A part of what a VMM does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// These accesses.
    Do(&'static [(At, Action)]),
    /// These accesses again and again until `pending_bytes` is 0, or this often.
    WhilePending(usize, &'static [(At, Action)]),
    /// These accesses for each piece.
    EachPiece(&'static [(At, Action)]),
    /// The guest writes to the device.
    Guest,
    /// Configuration space is written, with the values of the source, four bytes at a time.
    Config,
}

const fn register(offset: u64, width: usize) -> At {
    At::Register { offset, width }
}

/// `device_state`.
pub(crate) const STATE: At = register(offset::DEVICE_STATE, 4);
/// `pending_bytes`.
pub(crate) const PENDING: At = register(offset::PENDING_BYTES, 8);
/// `data_offset`.
pub(crate) const OFFSET: At = register(offset::DATA_OFFSET, 8);
/// `data_size`.
pub(crate) const SIZE: At = register(offset::DATA_SIZE, 8);

/// A device to which a table is replayed, and the data.
struct Player<'f> {
    fixture: &'f Fixture,
    /// Offset and size of the area that can be mapped.
    area: (u64, u64),
    pending: u64,
    offset: u64,
    size: u64,
    piece: Vec<u8>,
}

impl<'f> Player<'f> {
    fn new(fixture: &'f Fixture) -> Self {
        Player {
            fixture,
            area: (fixture.data_offset(), fixture.section() as u64),
            pending: 0,
            offset: 0,
            size: 0,
            piece: Vec::new(),
        }
    }

    fn access(&mut self, at: At, action: Action) -> Result {
        let value = match action {
            Action::Write(value) => value,
            Action::WriteSize => self.piece.len() as u64,
            Action::WritePiece | Action::ReadPiece => return self.data(at, action),
            Action::Pending | Action::Offset | Action::Size => return self.read(at, action),
        };
        let At::Register { offset, width } = at else {
            fail!("{at:?} is no register");
        };
        let bytes = value.to_le_bytes();
        Ok(self
            .fixture
            .migration
            .region()
            .write(offset, &bytes[..width])?)
    }

    fn read(&mut self, at: At, action: Action) -> Result {
        let At::Register { offset, width } = at else {
            fail!("{at:?} is no register");
        };
        let mut bytes = [0; 8];
        self.fixture
            .migration
            .region()
            .read(offset, &mut bytes[..width])?;
        let value = u64::from_le_bytes(bytes);
        match action {
            Action::Pending => self.pending = value,
            Action::Offset => {
                assert_eq!(value, self.area.0, "data_offset");
                self.offset = value;
            }
            _ => {
                assert!((1..=self.area.1).contains(&value), "data_size {value:#x}");
                self.size = value;
            }
        }
        Ok(())
    }

    fn data(&mut self, at: At, action: Action) -> Result {
        let migration = &self.fixture.migration;
        let reads = matches!(action, Action::ReadPiece);
        if reads {
            self.piece = vec![0; self.size as usize];
        }
        match (at, migration.mapping()) {
            (At::Trapped, _) if reads => migration.region().read(self.offset, &mut self.piece)?,
            (At::Trapped, _) => migration.region().write(self.offset, &self.piece)?,
            (At::Mapped, Some(mapping)) if reads => mapping.read(0, &mut self.piece),
            (At::Mapped, Some(mapping)) => mapping.write(0, &self.piece),
            _ => fail!("{at:?}: the data section has no mapping"),
        }
        Ok(())
    }

    fn all(&mut self, accesses: &[(At, Action)]) -> Result {
        accesses
            .iter()
            .try_for_each(|(at, action)| self.access(*at, *action))
    }
}

/// Replays a save, and returns its pieces.
fn save(fixture: &Fixture, table: &[Step], guest: &dyn Fn() -> Result) -> Result<Vec<Vec<u8>>> {
    let mut player = Player::new(fixture);
    let mut pieces = Vec::new();
    for step in table {
        match step {
            Step::Do(accesses) => player.all(accesses)?,
            Step::WhilePending(most, accesses) => {
                for _ in 0..*most {
                    if player.pending == 0 {
                        break;
                    }
                    player.all(accesses)?;
                    pieces.push(player.piece.clone());
                }
                assert_eq!(
                    player.pending,
                    0,
                    "bytes are left after {} pieces",
                    pieces.len()
                );
            }
            Step::Guest => guest()?,
            other => fail!("{other:?} in a save"),
        }
    }
    Ok(pieces)
}

/// Replays a load of these pieces.
fn load(fixture: &Fixture, table: &[Step], pieces: &[Vec<u8>], config: &[u8]) -> Result {
    let mut player = Player::new(fixture);
    for step in table {
        match step {
            Step::Do(accesses) => player.all(accesses)?,
            Step::EachPiece(accesses) => {
                for piece in pieces {
                    player.piece.clone_from(piece);
                    player.all(accesses)?;
                }
            }
            Step::Config => write_config(fixture, config)?,
            other => fail!("{other:?} in a load"),
        }
    }
    Ok(())
}

/// Writes configuration space, four bytes at a time.
pub(crate) fn write_config(fixture: &Fixture, config: &[u8]) -> Result {
    let space = fixture.device.config()?;
    for (at, bytes) in (0..).step_by(4).zip(config.chunks_exact(4)) {
        space.region().write(at, bytes)?;
    }
    Ok(())
}

/// Fills registers and memory with what nobody else has written.
pub(crate) fn fill(fixture: &Fixture, pages: std::ops::Range<u64>, seed: u64) -> Result {
    let mut rng = fastrand::Rng::with_seed(seed);
    fixture.set_mark(rng.u32(1..))?;
    for page in pages.filter(|page| fixture.has_page(*page)) {
        fixture.write_memory(page * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
    }
    Ok(())
}

/// Checks that two stopped or running devices have the same memory and the same state.
pub(crate) fn expect_moved(from: &Fixture, to: &Fixture, when: &str) -> Result {
    assert_eq!(to.state()?, State::RUNNING, "{when}");
    let size = from.memory_size() as usize;
    if size > 0 {
        let (expected, found) = (from.read_memory(0, size)?, to.read_memory(0, size)?);
        same(&found, &expected, device(0), when);
    }
    from.expect_equal(to, when)
}

/// Replays both tables from one device to another and back. `cut` makes of the saved pieces those that are loaded.
pub(crate) fn there_and_back(
    env: &Env,
    saves: &[Step],
    loads: &[Step],
    pages: u64,
    cut: impl Fn(&Fixture, Vec<Vec<u8>>) -> Vec<Vec<u8>>,
) -> Result {
    let (here, there) = (Fixture::new(env)?, Fixture::new(env)?);
    fill(&here, 0..pages, 1)?;
    for (from, to, when) in [(&here, &there, "there"), (&there, &here, "back")] {
        let pieces = save(from, saves, &|| fill(from, 3..9, 2))?;
        let config = from.device.config()?.snapshot()?;
        let pieces = cut(to, pieces);
        load(to, loads, &pieces, config.bytes())?;
        expect_moved(from, to, when)?;
        // The device that was left is a new one when the guest comes back.
        from.device.reset()?;
        from.device.config()?.enable()?;
        fill(to, 5..pages + 5, 3)?;
    }
    Ok(())
}
