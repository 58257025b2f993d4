// SPDX-License-Identifier: GPL-2.0

//! Makes the calls.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::PollFlags;
use vfio_client::{BitmapRequest, EventFd, Node, Protection};

use crate::bytes::bytes;
use crate::disturb;
use crate::domain::{Domain, CLOSABLE, GROUND};
use crate::ended::{Ended, Result};
use crate::grammar::Op;
use crate::ground::{self, part};
use crate::program::{Call, SECOND};
use crate::removal::{self, Removal};
use crate::samples::{self, mdma, mnvme, mserial, Sample};
use crate::world::{uuid, World};

/// Exit status of a process whose program ends it.
pub(crate) const DIED: i32 = 77;

/// The index of the v1 region, and the offset of its data section.
const V1: u64 = 9;
const DATA: u64 = 4096;
/// The most bytes per read or write.
const MOST: u64 = 4 << 20;
/// The most bytes of a buffer of the v1 protocol.
const BUFFER: u64 = 1 << 20;
/// Bytes after an argument that claims to be shorter.
const ROOM: usize = 4096;

fn at(region: u64, offset: u64) -> u64 {
    (region << 40).wrapping_add(offset)
}

fn need<T>(slot: Option<Arc<T>>) -> Result<Arc<T>> {
    slot.ok_or(Ended::Empty)
}

/// Makes the argument of an ioctl: `argsz`, `flags`, and bytes from the seed. With an odd seed the length is as
/// claimed.
fn argument(argsz: u64, flags: u64, seed: u64) -> Vec<u8> {
    let len = (argsz as usize).clamp(8, 1 << 16);
    let len = if seed % 2 == 1 { len } else { len.max(ROOM) };
    let mut out = bytes(seed >> 1, len);
    out[0..4].copy_from_slice(&(argsz as u32).to_ne_bytes());
    out[4..8].copy_from_slice(&(flags as u32).to_ne_bytes());
    out
}

fn ioctl(node: &Node, n: u64, argsz: u64, flags: u64, seed: u64) -> Result {
    let n = (n % 256) as u32;
    let result = match n {
        0 | 1 | 2 | 5 | 11 => node.value(n, flags as i32),
        _ if seed % 16 == 1 => node.ioctl_bad_address(n),
        _ => node.ioctl(n, &mut argument(argsz, flags, seed)),
    };
    Ok(result? as u64)
}

/// Returns whether `EFAULT` is a valid answer to a call.
pub(crate) fn may_fault(call: &Call) -> bool {
    let a = &call.args;
    match call.op {
        // Arguments shorter than they claim.
        Op::ContainerIoctl | Op::GroupIoctl | Op::DeviceIoctl | Op::DataIoctl => {
            a[4] % 2 == 1 || a[2] > ROOM as u64
        }
        Op::Info => a[3] > ROOM as u64,
        Op::Feature => a[1] > ROOM as u64,
        Op::SetIrqs => a[6] > ROOM as u64,
        // Mappings of a device may have no memory behind them.
        Op::PreadMapping | Op::PwriteMapping | Op::ReadMapping | Op::Load | Op::Store => true,
        Op::UnmapDirty | Op::DirtyBitmap => a[4] != 0,
        Op::BitmapIn | Op::WriteMapping => true,
        _ => false,
    }
}

/// Returns whether `EBADF` is a valid answer to a call.
pub(crate) fn may_be_bad(op: Op) -> bool {
    matches!(
        op,
        Op::SetIrqs
            | Op::DeviceIoctl
            | Op::GroupIoctl
            | Op::Read
            | Op::ReadMapping
            | Op::Write
            | Op::WriteBytes
            | Op::WriteMapping
            | Op::V2Save
            | Op::V2Load
    )
}

/// Makes one call, in the process that it belongs to.
pub(crate) fn make_in(world: &Arc<World>, call: &Call) -> Result {
    match call.thread {
        Some(SECOND) if !call.op.is_roots() => world.second.make(call),
        _ => make(world, call),
    }
}

/// Makes one call in this process.
pub(crate) fn make(world: &Arc<World>, call: &Call) -> Result {
    let a = &call.args;
    let device = |slot| need(world.devices.get(slot));
    let container = |slot| need(world.containers.get(slot));
    let mapping = |slot| need(world.mappings.get(slot));
    let data = |slot| need(world.data.get(slot));
    match call.op {
        Op::Create => {
            let name = samples::type_named(a[1]);
            if !world.budget.pay_for_instance() {
                return Err(Ended::Empty);
            }
            let instance = {
                let _creating = removal::CREATING.lock().unwrap();
                world.sysfs.find_type(name)?.create(&uuid(a[0]))?
            };
            if let Ok(group) = instance.iommu_group() {
                // The second process may open it. It may be removed already.
                let _ = hostile::own_node(group);
            }
            if Sample::of_type(name) == Some(Sample::Mserial) {
                let _ = hostile::own_file(&mserial::path(&instance.uuid));
            }
            Ok(0)
        }
        Op::Remove => {
            let Ok(instance) = world.sysfs.instance(&uuid(a[0])) else {
                return Err(Ended::Empty);
            };
            let removal = Removal::begin(&instance)?;
            world.removals.lock().unwrap().push(removal);
            Ok(0)
        }
        Op::Attribute => attribute(world, a[0], a[1], a[2]),
        Op::Container => {
            world.containers.put(a[0], Node::container()?);
            Ok(0)
        }
        Op::Group => {
            let instance = world.sysfs.instance(&uuid(a[1]));
            let instance = instance.map_err(|_| Ended::Empty)?;
            world
                .groups
                .put(a[0], Node::group(instance.iommu_group()?)?);
            Ok(0)
        }
        Op::Attach => {
            need(world.groups.get(a[0]))?.set_container(&*container(a[1])?)?;
            Ok(0)
        }
        Op::Detach => Ok(need(world.groups.get(a[0]))?.value(5, 0)? as u64),
        Op::Iommu => Ok(container(a[0])?.value(2, a[1] as i32)? as u64),
        Op::Device => {
            let node = need(world.groups.get(a[1]))?.device(uuid(a[2]).as_str())?;
            world.devices.put(a[0], node);
            Ok(0)
        }
        Op::Close => {
            let taken = match CLOSABLE[(a[0] % CLOSABLE.len() as u64) as usize] {
                "container" => world.containers.take(a[1]),
                "group" => world.groups.take(a[1]),
                "device" => world.devices.take(a[1]),
                "mapping" => world.mappings.take(a[1]),
                "data" => world.data.take(a[1]),
                _ => world.events.take(a[1]),
            };
            taken.then_some(0).ok_or(Ended::Empty)
        }
        Op::ContainerIoctl => ioctl(&*container(a[0])?, a[1], a[2], a[3], a[4]),
        Op::GroupIoctl => ioctl(&*need(world.groups.get(a[0]))?, a[1], a[2], a[3], a[4]),
        Op::DeviceIoctl => ioctl(&*device(a[0])?, a[1], a[2], a[3], a[4]),
        Op::DataIoctl => ioctl(&*data(a[0])?, a[1], a[2], a[3], a[4]),
        Op::Info => {
            let mut arg = argument(a[3], 0, 0);
            arg[8..12].copy_from_slice(&(a[2] as u32).to_ne_bytes());
            let n = if a[1] % 2 == 0 { 8 } else { 9 };
            Ok(device(a[0])?.ioctl(n, &mut arg)? as u64)
        }
        Op::SetIrqs => set_irqs(world, a),
        Op::Reset => Ok(device(a[0])?.value(11, 0)? as u64),
        Op::Feature => {
            let mut arg = bytes(a[3], ROOM);
            let (value, _) = device(a[0])?.feature(a[1] as u32, a[2] as u32, &mut arg)?;
            Ok(value as u64)
        }
        Op::SetState => {
            // SET of MIG_DEVICE_STATE.
            let mut state = [0; 8];
            state[0..4].copy_from_slice(&(a[2] as u32).to_ne_bytes());
            if let (_, Some(node)) = device(a[1])?.feature(16, 0x2_0002, &mut state)? {
                world.data.put(a[0], node);
                return Ok(1);
            }
            Ok(0)
        }
        Op::Pread => {
            let mut out = vec![0; a[3].min(MOST) as usize];
            let n = device(a[0])?.pread(at(a[1], a[2]), &mut out)?;
            Ok(n as u64)
        }
        Op::Pwrite => {
            let len = a[3].min(MOST) as usize;
            let value = a[4].to_le_bytes();
            let data: Vec<u8> = value.iter().copied().cycle().take(len).collect();
            Ok(device(a[0])?.pwrite(at(a[1], a[2]), &data)? as u64)
        }
        Op::PreadMapping | Op::PwriteMapping => {
            let (device, mapping) = (device(a[0])?, mapping(a[3])?);
            let (offset, len) = part(&mapping, a[4], a[5]);
            let n = match call.op {
                Op::PreadMapping => mapping.load_from(offset, len, &device, at(a[1], a[2])),
                _ => mapping.save_to(offset, len, &device, at(a[1], a[2])),
            };
            Ok(n? as u64)
        }
        Op::Register => mdma::register(&*device(a[0])?, a[1], a[2]),
        Op::Doorbell => mdma::doorbell(&*device(a[0])?, a[1]),
        Op::V1State => Ok(device(a[0])?.pwrite(at(V1, 0), &(a[1] as u32).to_ne_bytes())? as u64),
        Op::V1Register | Op::V1Read => {
            let (offset, width) = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8)][(a[1] % 5) as usize];
            let device = device(a[0])?;
            if call.op == Op::V1Register {
                return Ok(device.pwrite(at(V1, offset), &a[2].to_ne_bytes()[..width])? as u64);
            }
            v1_register(&device, offset, width)
        }
        Op::BusMaster => {
            let command: u16 = if a[1] != 0 { 7 } else { 3 };
            Ok(device(a[0])?.pwrite(at(7, 4), &command.to_le_bytes())? as u64)
        }
        Op::Mmap => {
            let protection = Protection {
                read: a[5] & 1 != 0,
                write: a[5] & 2 != 0,
                exec: a[5] & 4 != 0,
                shared: a[5] & 8 != 0,
            };
            let len = (a[4] as usize).clamp(1, 1 << 32);
            let mapping = device(a[1])?.mmap(at(a[2], a[3]), len, protection)?;
            world.mappings.put(a[0], mapping);
            Ok(0)
        }
        Op::Load | Op::Store => {
            let mapping = mapping(a[0])?;
            let (offset, len) = part(&mapping, a[1], a[2].min(MOST));
            if call.op == Op::Load {
                return Ok(mapping.save_to(offset, len, &world.file, 0)? as u64);
            }
            let data: Vec<u8> = a[3].to_le_bytes().into_iter().cycle().take(len).collect();
            rustix::io::pwrite(&world.file, &data, 0).map_err(io::Error::from)?;
            Ok(mapping.load_from(offset, len, &world.file, 0)? as u64)
        }
        Op::Map => {
            let offset = a[4] & !4095;
            let offset = if offset < GROUND { offset } else { 0 };
            let size = a[3].min(GROUND - offset);
            container(a[0])?.map(a[1] as u32, a[2], size, &world.ground, offset as usize)?;
            Ok(size)
        }
        Op::MapMapping => {
            let mapping = mapping(a[3])?;
            let size = mapping.len() as u64;
            container(a[0])?.map(a[1] as u32, a[2], size, &mapping, 0)?;
            Ok(size)
        }
        Op::Unmap => {
            let mut arg = argument(24, a[1], 0);
            arg[8..16].copy_from_slice(&a[2].to_ne_bytes());
            arg[16..24].copy_from_slice(&a[3].to_ne_bytes());
            Ok(container(a[0])?.ioctl(14, &mut arg)? as u64)
        }
        Op::UnmapDirty | Op::DirtyBitmap => {
            // type1 shifts by this value before it refuses 0.
            let a = [a[0], a[1], a[2], a[3].max(1), a[4]];
            let request = match call.op {
                Op::UnmapDirty => BitmapRequest::unmap(a[1], a[2], a[3]),
                _ => BitmapRequest::get(a[1], a[2], a[3]),
            };
            let request = BitmapRequest {
                bad_address: a[4] != 0,
                ..request
            };
            let container = container(a[0])?;
            let words = match call.op {
                Op::UnmapDirty => container.unmap_dirty(&request)?,
                _ => container.dirty_bitmap(&request)?,
            };
            Ok(words.iter().map(|word| u64::from(word.count_ones())).sum())
        }
        Op::DirtyPages => Ok(container(a[0])?.ioctl(17, &mut argument(8, a[1], 0))? as u64),
        Op::Descriptor => Ok(mdma::descriptor(&world.ground, a)),
        Op::List => Ok(mdma::list(&world.ground, a[0], a[1], a[2])),
        Op::Scribble => {
            let data = bytes(a[2], a[1].min(65536) as usize);
            Ok(ground::scribble(&world.ground, a[0], &data))
        }
        Op::Read => {
            let mut out = vec![0; a[1].min(MOST) as usize];
            Ok(data(a[0])?.read(&mut out)? as u64)
        }
        Op::Write => {
            let stream = need(world.streams.get(a[1]))?;
            let from = (a[2] as usize).min(stream.len());
            let to = from.saturating_add(a[3] as usize).min(stream.len());
            Ok(data(a[0])?.write(&stream[from..to])? as u64)
        }
        Op::ReadMapping => {
            let (data, mapping) = (data(a[0])?, mapping(a[1])?);
            let (offset, len) = part(&mapping, a[2], a[3]);
            Ok(data.read_mapping(&mapping, offset, len)? as u64)
        }
        Op::Poll => {
            let events = PollFlags::from_bits_truncate(a[1] as u16);
            let ready = data(a[0])?.poll(events, Duration::from_millis(1))?;
            Ok(ready.bits().into())
        }
        Op::Dup => {
            let copy = data(a[1])?.try_clone()?;
            world.data.put(a[0], copy);
            Ok(0)
        }
        Op::PrecopyInfo => Ok(data(a[0])?.ioctl(21, &mut argument(24, 0, 0))? as u64),
        Op::V1Save => v1_save(world, &*device(a[0])?, a[1], a[2]),
        Op::V1Load => v1_load(
            world,
            &*device(a[0])?,
            &need(world.streams.get(a[1]))?,
            a[2],
        ),
        Op::V2Save => v2_save(world, &*data(a[0])?, a[1], a[2], a[3]),
        Op::V2Load => {
            let (data, stream) = (data(a[0])?, need(world.streams.get(a[1]))?);
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let len = piece(a[2]).min(rest.len());
                if !world.budget.pay(len as u64) {
                    break;
                }
                let n = data.write(&rest[..len])?;
                if n == 0 {
                    break;
                }
                rest = &rest[n..];
            }
            Ok((stream.len() - rest.len()) as u64)
        }
        Op::Mutate => {
            let mut stream = need(world.streams.get(a[0]))?.to_vec();
            records::spoil::spoil(&mut stream, a[1], a[2]);
            let len = stream.len() as u64;
            world.streams.put(a[0], stream);
            Ok(len)
        }
        Op::EventFd => {
            world.events.put(a[0], EventFd::new()?);
            Ok(0)
        }
        Op::Signal => {
            let event = need(world.events.get(a[0]))?;
            event.signal()?;
            Ok(event.take()?)
        }
        Op::Wait => {
            thread::sleep(Duration::from_micros(a[0].min(20_000)));
            Ok(0)
        }
        Op::Die => std::process::exit(DIED),
        Op::Stalled => disturb::stalled(world, call),
        Op::BitmapIn => {
            let (container, mapping) = (container(a[0])?, mapping(a[4])?);
            let request = match a[1] {
                0 => BitmapRequest::get(a[2], a[3], 4096),
                _ => BitmapRequest::unmap(a[2], a[3], 4096),
            };
            let (at, room) = part(&mapping, a[5], request.bitmap_size);
            let bitmap_size = room as u64;
            let request = BitmapRequest {
                bitmap_size,
                ..request
            };
            container.bitmap_in(&request, &mapping, at)?;
            Ok(bitmap_size)
        }
        Op::WriteMapping => {
            let (data, mapping) = (data(a[0])?, mapping(a[1])?);
            let (offset, len) = part(&mapping, a[2], a[3]);
            Ok(data.write_mapping(&mapping, offset, len)? as u64)
        }
        Op::PassDevice | Op::PassData | Op::PassContainer | Op::PassGroup => {
            let Some(Domain::Slot(kind)) = call.op.row().args.first().map(|arg| arg.1) else {
                return Err(Ended::Empty);
            };
            let node = need(world.nodes(kind).and_then(|nodes| nodes.get(a[0])))?;
            world.second.put(kind, a[0], node.as_fd())
        }
        Op::Kill => world.second.kill(),
        Op::Limit => disturb::limit(world, a[0], a[1]),
        Op::Freeze => disturb::freeze(world, a[0]),
        Op::Suspend => disturb::suspend(world),
        Op::WriteBytes => {
            let bytes = bytes(a[2], a[1].min(MOST) as usize);
            Ok(data(a[0])?.write(&bytes)? as u64)
        }
        Op::UartRead => mserial::read(&*device(a[0])?, a[1]),
        Op::UartWrite => mserial::write(&*device(a[0])?, a[1], a[2]),
        Op::HostOpen => {
            world.data.put(a[0], mserial::host(&uuid(a[1]))?);
            Ok(0)
        }
        Op::HostWaits => mserial::wait(&uuid(a[0]), a[1], a[2]),
        Op::NvmeRegister => mnvme::register(&*device(a[0])?, a[1], a[2]),
        Op::NvmeDoorbell => mnvme::doorbell(&*device(a[0])?, a[1], a[2], a[3]),
        Op::NvmeAdmin => Ok(mnvme::admin(&world.ground, a)),
        Op::NvmeIo => Ok(mnvme::io(&world.ground, a)),
        Op::NvmeList => Ok(mnvme::list(&world.ground, a[0], a[1], a[2])),
        Op::NvmeRanges => Ok(mnvme::ranges(&world.ground, a[0], a[1], a[2])),
        Op::NvmeWait => mnvme::wait(&world.ground, a[0], a[1]),
    }
}

fn v1_register(device: &Node, offset: u64, width: usize) -> Result {
    let mut out = [0; 8];
    device.pread(at(V1, offset), &mut out[..width])?;
    Ok(u64::from_ne_bytes(out))
}

fn piece(size: u64) -> usize {
    size.clamp(1, MOST) as usize
}

fn v1_save(world: &World, device: &Node, slot: u64, buffers: u64) -> Result {
    let mut out = Vec::new();
    for _ in 0..buffers {
        if !world.budget.pay(BUFFER) || v1_register(device, 8, 8)? == 0 {
            break;
        }
        let offset = v1_register(device, 16, 8)?;
        let mut buffer = vec![0; v1_register(device, 24, 8)?.min(MOST) as usize];
        if buffer.is_empty() {
            break;
        }
        let n = device.pread(at(V1, offset), &mut buffer)?;
        out.extend(&buffer[..n]);
    }
    let len = out.len() as u64;
    world.streams.put(slot, out);
    Ok(len)
}

fn v1_load(world: &World, device: &Node, stream: &[u8], size: u64) -> Result {
    for piece in stream.chunks(piece(size)) {
        if !world.budget.pay(piece.len() as u64) {
            break;
        }
        v1_register(device, 16, 8)?;
        device.pwrite(at(V1, DATA), piece)?;
        device.pwrite(at(V1, 24), &(piece.len() as u64).to_ne_bytes())?;
    }
    Ok(stream.len() as u64)
}

fn v2_save(world: &World, data: &Node, slot: u64, size: u64, reads: u64) -> Result {
    let mut out = Vec::new();
    let mut buffer = vec![0; piece(size)];
    let mut end = Ok(());
    for _ in 0..reads {
        if !world.budget.pay(buffer.len() as u64) {
            break;
        }
        match data.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => out.extend(&buffer[..n]),
            Err(e) => {
                end = Err(e);
                break;
            }
        }
    }
    let len = out.len() as u64;
    world.streams.put(slot, out);
    end?;
    Ok(len)
}

fn set_irqs(world: &World, a: &[u64]) -> Result {
    const HEADER: usize = 20;
    let event = world.events.get(a[5]);
    let fd = event.as_ref().map_or(-1, |e| e.as_fd().as_raw_fd());
    let count = (a[4] as usize).min(64);
    let data: Vec<u8> = match a[1] & 7 {
        4 => (0..count)
            .flat_map(|n| if n % 3 == 2 { -1 } else { fd }.to_ne_bytes())
            .collect(),
        2 => bytes(a[7], count),
        _ => Vec::new(),
    };
    let argsz = match a[6] {
        0 => (HEADER + data.len()) as u64,
        given => given,
    };
    let mut arg = Vec::new();
    for value in [argsz, a[1], a[2], a[3], a[4]] {
        arg.extend((value as u32).to_ne_bytes());
    }
    arg.extend(data);
    arg.resize(arg.len().max(ROOM), 0);
    Ok(need(world.devices.get(a[0]))?.ioctl(10, &mut arg)? as u64)
}

/// Reads and writes the sysfs attributes of an instance.
fn attribute(world: &World, slot: u64, which: u64, seed: u64) -> Result {
    let instance = world.sysfs.instance(&uuid(slot));
    let path = instance.map_err(|_| Ended::Empty)?.path().to_path_buf();
    let of = path.join("mdev_type");
    let text = match which % 12 {
        6 => Some((
            "keep_state",
            ["0", "1", "", "x"][(seed % 4) as usize].into(),
        )),
        7 => {
            let abis = ["v1", "v7", "2018", "v2", "none", "", "v1\n", "x"];
            Some(("migration_abi", abis[(seed % 8) as usize].into()))
        }
        // Its own version, or one that differs in a byte.
        8 => {
            let mut text = std::fs::read_to_string(path.join("migration_version"))?;
            if seed % 2 == 1 && !text.is_empty() {
                let at = seed as usize % text.len();
                text.replace_range(at..at + 1, "7");
            }
            Some(("migration_version", text))
        }
        10 | 11 => {
            let numbers = [
                "64",
                "68",
                "65536",
                "65",
                "0",
                "-1",
                "",
                "18446744073709551615",
            ];
            let name = if which % 12 == 10 {
                "data_section_kib"
            } else {
                "throttle_us"
            };
            Some((name, numbers[(seed % 8) as usize].into()))
        }
        9 => Some((
            "payload_checksums",
            ["0", "1", "", "x"][(seed % 4) as usize].into(),
        )),
        _ => None,
    };
    if let Some((name, text)) = text {
        let mut file = OpenOptions::new().write(true).open(path.join(name))?;
        return Ok(file.write(text.as_bytes())? as u64);
    }
    let path = match which % 12 {
        0 => of.join("available_instances"),
        1 => of.join("name"),
        2 => of.join("description"),
        3 => of.join("create"),
        4 => path.join("remove"),
        _ => of.join("device_api"),
    };
    if let Ok(mut file) = File::open(&path) {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        return Ok(text.len() as u64);
    }
    // Values that are neither a UUID nor a 1.
    let text = match seed % 4 {
        0 => String::new(),
        1 => uuid(slot).as_str().replace('-', "_"),
        2 => "0".into(),
        _ => format!("{seed:x}-{seed:x}"),
    };
    let mut file = OpenOptions::new().write(true).open(&path)?;
    Ok(file.write(text.as_bytes())? as u64)
}
