// SPDX-License-Identifier: GPL-2.0

//! Device information, and accesses outside the regions.

use std::os::fd::AsFd;

use mdma::regs;
use vfio_client::raw::{self, nr};
use vfio_client::uapi;
use vfio_client::{Area, EventFd};

use crate::env::{facts, Env, Guest, LARGE, MEDIUM, SMALL};
use crate::fixture::every_state::in_every_state;
use crate::fixture::Fixture;
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "device":
    get_info [],
    get_info_of_older_and_newer_users [],
    region_info_of_every_index [] needs [Mdma],
    region_info_capabilities_need_room [],
    p01_migration_region_is_found_by_its_type ["P1"],
    irq_info_of_every_index [] needs [Mdma],
    index_out_of_range_is_refused [],
    short_argsz_is_refused [],
    bad_address_is_refused [],
    unknown_ioctl_is_refused [],
    access_outside_a_region_is_refused [],
    absent_regions_are_refused [],
    two_descriptors_are_one_device [],
    second_user_is_refused [],
    p52_information_in_every_state ["P52"],
}

const GET_INFO: u32 = nr(7);
const GET_REGION_INFO: u32 = nr(8);
const GET_IRQ_INFO: u32 = nr(9);
const SET_IRQS: u32 = nr(10);
const FEATURE: u32 = nr(17);

/// `VFIO_PCI_CONFIG_REGION_INDEX`, and the index of the migration region.
const CONFIG: u32 = uapi::VFIO_PCI_CONFIG_REGION_INDEX;
const MIGRATION: u32 = uapi::VFIO_PCI_NUM_REGIONS;

/// Flags of a region.
const READ_WRITE: u32 = uapi::VFIO_REGION_INFO_FLAG_READ | uapi::VFIO_REGION_INFO_FLAG_WRITE;
const MMAP: u32 = uapi::VFIO_REGION_INFO_FLAG_MMAP;
const CAPS: u32 = uapi::VFIO_REGION_INFO_FLAG_CAPS;

/// Returns an argument of `len` bytes: the words, then a pattern that the kernel must not change.
fn argument(words: &[u32], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.resize(len, 0xa5);
    bytes
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_ne_bytes(bytes[4 * index..][..4].try_into().unwrap())
}

fn long(bytes: &[u8], index: usize) -> u64 {
    u64::from_ne_bytes(bytes[4 * index..][..8].try_into().unwrap())
}

fn get_info(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let mut arg = argument(&[24, 0xffff_ffff], 24);
    raw::ioctl(&guest.device, GET_INFO, &mut arg)?;
    assert_eq!(word(&arg, 0), 24, "argsz");
    let flags = uapi::VFIO_DEVICE_FLAGS_RESET | uapi::VFIO_DEVICE_FLAGS_PCI;
    assert_eq!(word(&arg, 1), flags, "flags");
    assert_eq!(word(&arg, 2), MIGRATION + 1, "num_regions");
    assert_eq!(word(&arg, 3), uapi::VFIO_PCI_NUM_IRQS, "num_irqs");
    assert_eq!(word(&arg, 4), 0, "cap_offset without capabilities");
    Ok(())
}

fn get_info_of_older_and_newer_users(env: &Env) -> Result {
    let guest = env.open_subject()?;
    // Older structures end before cap_offset. Newer ones may be larger than today's.
    for (argsz, touched) in [(16, 16), (20, 20), (24, 24), (64, 24), (4096, 24)] {
        let mut arg = argument(&[argsz], argsz as usize + 64);
        raw::ioctl(&guest.device, GET_INFO, &mut arg)?;
        assert_eq!(word(&arg, 2), MIGRATION + 1, "argsz {argsz}");
        assert!(
            arg[touched..].iter().all(|b| *b == 0xa5),
            "argsz {argsz}: the kernel wrote bytes after {touched}"
        );
    }
    Ok(())
}

fn region_info_of_every_index(env: &Env) -> Result {
    let staging = env.module.param("data_section_kib") << 10;
    for (of, memory) in [(SMALL, 16 << 20), (MEDIUM, 256 << 20), (LARGE, 1 << 30)] {
        let guest = env.open(of)?;
        let expected: [(u32, u64); 10] = [
            (READ_WRITE, regs::WINDOW),
            (0, 0),
            (READ_WRITE | MMAP, memory),
            (0, 0),
            (READ_WRITE, 4096),
            (0, 0),
            (0, 0),
            (READ_WRITE, 256),
            (0, 0),
            (READ_WRITE | MMAP | CAPS, 4096 + staging),
        ];
        for (index, (flags, size)) in (0..).zip(expected) {
            let mut arg = argument(&[32, !0, index, !0, !0, !0, !0, !0], 32);
            raw::ioctl(&guest.device, GET_REGION_INFO, &mut arg)?;
            assert_eq!(word(&arg, 1), flags, "{of} region {index}: flags");
            assert_eq!(long(&arg, 4), size, "{of} region {index}: size");
            assert_eq!(
                long(&arg, 6),
                u64::from(index) << 40,
                "{of} region {index}: offset"
            );
            if flags & CAPS == 0 {
                assert_eq!(word(&arg, 0), 32, "{of} region {index}: argsz");
            }
        }
    }
    Ok(())
}

fn region_info_capabilities_need_room(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let ask = |argsz: u32, len: usize| -> Result<Vec<u8>> {
        let mut arg = argument(&[argsz, 0, MIGRATION, !0], len);
        raw::ioctl(&guest.device, GET_REGION_INFO, &mut arg)?;
        Ok(arg)
    };
    // Without room for capabilities, the ioctl returns the required size.
    let short = ask(32, 32)?;
    let needed = word(&short, 0);
    assert!(needed > 32, "argsz {needed}");
    assert_ne!(word(&short, 1) & CAPS, 0);
    assert_eq!(word(&short, 3), 0, "cap_offset without room");
    // With one byte too few, the ioctl writes nothing after the fixed part.
    let almost = ask(needed - 1, needed as usize + 64)?;
    assert_eq!(word(&almost, 0), needed);
    assert_eq!(word(&almost, 3), 0);
    assert!(almost[32..].iter().all(|b| *b == 0xa5));
    // With enough room or more, it returns the capabilities.
    for argsz in [needed, 4096] {
        let all = ask(argsz, argsz as usize + 64)?;
        assert_eq!(word(&all, 0), argsz);
        assert_eq!(word(&all, 3), 32, "cap_offset");
        assert!(all[needed as usize..].iter().all(|b| *b == 0xa5));
    }
    Ok(())
}

fn p01_migration_region_is_found_by_its_type(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let region = guest.device.region_of_type(3, 1)?;
    let info = region
        .expect("a region of type 3, subtype 1")
        .info()
        .clone();
    assert!(info.index >= uapi::VFIO_PCI_NUM_REGIONS);
    let area = Area {
        offset: 4096,
        size: info.size - 4096,
    };
    assert_eq!(
        info.sparse,
        Some(vec![area]),
        "all but the header page (P6, P27)"
    );
    // No other region has a type.
    for region in guest.device.regions()? {
        let info = region.info();
        assert_eq!(
            info.region_type.is_some(),
            info.index == MIGRATION,
            "{}",
            info.index
        );
    }
    Ok(())
}

fn irq_info_of_every_index(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let eventfd = uapi::VFIO_IRQ_INFO_EVENTFD;
    let intx = uapi::VFIO_IRQ_INFO_MASKABLE | uapi::VFIO_IRQ_INFO_AUTOMASKED;
    let message = uapi::VFIO_IRQ_INFO_NORESIZE;
    let expected = [
        (eventfd | intx, 1),
        (eventfd | message, 4),
        (eventfd | message, 4),
        (eventfd, 1),
        (eventfd, 1),
    ];
    for (index, (flags, count)) in (0..).zip(expected) {
        for argsz in [16, 64] {
            let mut arg = argument(&[argsz, !0, index, !0], argsz as usize);
            raw::ioctl(&guest.device, GET_IRQ_INFO, &mut arg)?;
            let found: Vec<_> = (0..4).map(|i| word(&arg, i)).collect();
            assert_eq!(found, [argsz, flags, index, count], "index {index}");
            assert!(arg[16..].iter().all(|b| *b == 0xa5));
        }
    }
    Ok(())
}

fn index_out_of_range_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    for index in [MIGRATION + 1, 63, 0x8000_0000, u32::MAX] {
        let call = || {
            raw::ioctl(
                &guest.device,
                GET_REGION_INFO,
                &mut argument(&[32, 0, index], 32),
            )
        };
        assert_refused!(env, guest.uuid(), call(), EINVAL, "region");
    }
    for index in [uapi::VFIO_PCI_NUM_IRQS, 63, 0x8000_0000, u32::MAX] {
        let call = || {
            raw::ioctl(
                &guest.device,
                GET_IRQ_INFO,
                &mut argument(&[16, 0, index], 16),
            )
        };
        assert_refused!(env, guest.uuid(), call(), EINVAL, "index");
    }
    Ok(())
}

fn short_argsz_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    for (name, request, fixed) in [
        ("GET_INFO", GET_INFO, 16),
        ("GET_IRQ_INFO", GET_IRQ_INFO, 16),
        ("SET_IRQS", SET_IRQS, 20),
    ] {
        for argsz in [0, 1, 4, fixed - 4, fixed - 1] {
            let mut arg = argument(&[argsz, 0, 0, 0, 0], 64);
            let before = arg.clone();
            let call = raw::ioctl(&guest.device, request, &mut arg);
            assert_errno!(call, EINVAL, "{name} argsz {argsz}");
            assert_eq!(arg, before, "{name}: a refused ioctl wrote to its argument");
        }
        let call = || raw::ioctl(&guest.device, request, &mut argument(&[8, 0, 0, 0, 0], 64));
        assert_refused!(env, guest.uuid(), call(), EINVAL, "argsz");
    }
    // VFIO itself refuses these two.
    for (name, request, fixed) in [
        ("GET_REGION_INFO", GET_REGION_INFO, 32),
        ("FEATURE", FEATURE, 8),
    ] {
        for argsz in [0, fixed - 1] {
            let call = raw::ioctl(&guest.device, request, &mut argument(&[argsz, 0, 0], 64));
            assert_errno!(call, EINVAL, "{name} argsz {argsz}");
        }
    }
    Ok(())
}

fn bad_address_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    for request in [GET_INFO, GET_IRQ_INFO, SET_IRQS] {
        let call = || raw::ioctl_bad_address(&guest.device, request);
        assert_refused!(env, guest.uuid(), call(), EFAULT, "address");
    }
    for request in [GET_REGION_INFO, FEATURE] {
        assert_errno!(raw::ioctl_bad_address(&guest.device, request), EFAULT);
    }
    // The argument ends at the end of mapped memory, before its argsz.
    for (name, request, words) in [
        ("GET_INFO", GET_INFO, &[24, 0][..]),
        ("GET_REGION_INFO", GET_REGION_INFO, &[32, 0, 0][..]),
        (
            "GET_REGION_INFO with capabilities",
            GET_REGION_INFO,
            &[4096, 0, 9, 0, 0, 0, 0, 0][..],
        ),
        ("GET_IRQ_INFO", GET_IRQ_INFO, &[16, 0, 0][..]),
        ("SET_IRQS", SET_IRQS, &[20, 0x21, 0, 0][..]),
        // TRIGGER of INTx without the eventfd.
        ("SET_IRQS data", SET_IRQS, &[24, 0x24, 0, 0, 1][..]),
    ] {
        let mut arg = argument(words, 4 * words.len());
        assert_errno!(
            raw::ioctl(&guest.device, request, &mut arg),
            EFAULT,
            "{name}"
        );
    }
    // The failed calls have not enabled an interrupt index, so INTx can be enabled.
    let event = EventFd::new()?;
    guest
        .device
        .irq(uapi::VFIO_PCI_INTX_IRQ_INDEX)?
        .set_eventfds(0, &[Some(&event)])?;
    Ok(())
}

fn unknown_ioctl_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    // PCI hot reset info, GFX plane, ioeventfd, with arguments that contain no pointers.
    for n in [12, 15, 16, 19, 21] {
        let call = || raw::ioctl(&guest.device, nr(n), &mut argument(&[64], 64));
        assert_refused!(env, guest.uuid(), call(), ENOTTY, "not known");
    }
    // An undefined number of VFIO's ioctl type, and other ioctl types.
    for request in [nr(150), 0, 0x541b_0000, u32::MAX] {
        assert_errno!(
            raw::ioctl_bad_address(&guest.device, request),
            ENOTTY,
            "{request:#x}"
        );
    }
    // Ioctls of the container and the group are not valid for a device.
    for n in [0, 1, 2, 3, 4, 5, 6] {
        assert_errno!(
            raw::ioctl_bad_address(guest.device.as_fd(), nr(n)),
            ENOTTY,
            "ioctl {n}"
        );
    }
    Ok(())
}

/// Checks that the device refuses a read and a write of a region.
#[track_caller]
fn refused_access(env: &Env, guest: &Guest, index: u32, offset: u64, len: usize, reason: &str) {
    let region = guest.device.region(index).expect("the region exists");
    let what = format!("{len} bytes at {offset:#x} of region {index}");
    let mut bytes = vec![0x5a; len];
    crate::harness::check::expect_refusal(env, guest.uuid(), libc::EINVAL, reason, &what, || {
        region.pread(offset, &mut bytes)
    });
    assert_eq!(
        bytes,
        vec![0x5a; len],
        "{what}: a refused read returned bytes"
    );
    crate::harness::check::expect_refusal(env, guest.uuid(), libc::EINVAL, reason, &what, || {
        region.pwrite(offset, &bytes)
    });
}

fn access_outside_a_region_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    for index in 0..=CONFIG {
        let size = guest.region(index)?.info().size;
        if size == 0 {
            continue;
        }
        for (offset, len) in [
            (size, 1),
            (size, 4),
            (size - 1, 2),
            (size.saturating_sub(4), 8),
            ((1 << 40) - 8, 8),
        ] {
            refused_access(env, &guest, index, offset, len, "outside");
        }
        // The last byte is inside.
        assert_eq!(guest.region(index)?.pread(size - 1, &mut [0])?, 1);
    }
    // Accesses longer than the region.
    refused_access(env, &guest, CONFIG, 0, 257, "outside");
    if let Some(memory) = facts::known()?.memory {
        if let Ok(len @ ..=0x200_0000) = usize::try_from(memory.size) {
            refused_access(env, &guest, memory.bar, 0, len + 1, "outside");
        }
    }
    Ok(())
}

fn absent_regions_are_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    // Upper halves of BARs, unused BARs, ROM and VGA.
    let mut absent = 0;
    for index in 0..MIGRATION {
        if guest.region(index)?.info().size != 0 {
            continue;
        }
        absent += 1;
        refused_access(env, &guest, index, 0, 4, "empty");
        let area = Area {
            offset: 0,
            size: 4096,
        };
        let mmap = || {
            guest
                .device
                .region(index)
                .map(|r| r.mmap(area, vfio_client::Protection::READ))
        };
        crate::harness::check::expect_errno(
            mmap()?,
            libc::EINVAL,
            &format!("mmap of region {index}"),
        );
    }
    assert!(absent >= 2, "ROM and VGA");
    // Offsets after all regions, up to the maximum of a file.
    for offset in [10 << 40, 1 << 62, i64::MAX as u64 - 7] {
        let mut bytes = [0; 8];
        assert_errno!(
            guest.device.pread(offset, &mut bytes),
            EINVAL,
            "{offset:#x}"
        );
        assert_errno!(guest.device.pwrite(offset, &bytes), EINVAL, "{offset:#x}");
    }
    Ok(())
}

fn two_descriptors_are_one_device(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let other = fixture.device.group().device(fixture.uuid())?;
    let command = fixture.device.config()?.command()?;
    fixture.set_mark(77)?;
    let mark = facts::known()?.mark;
    assert_eq!(mark.read(&other.region(mark.bar)?)?, 77);
    // The device keeps working until the last close.
    drop(other);
    fixture.expect_mark(77, "one of two descriptors is closed");
    assert_eq!(fixture.device.config()?.command()?, command);
    Ok(())
}

fn second_user_is_refused(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let refused = guest.instance.open_alone();
    assert_errno!(refused, EBUSY, "the group already has a user");
    let instance = guest.close();
    instance.open_alone()?;
    Ok(())
}

fn p52_information_in_every_state(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let ask = || -> Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        for (request, words, indices) in [
            (GET_INFO, 6, 0..1),
            (GET_REGION_INFO, 8, 0..MIGRATION + 1),
            (GET_IRQ_INFO, 4, 0..uapi::VFIO_PCI_NUM_IRQS),
        ] {
            for index in indices {
                let mut arg = argument(&[4096, 0, index], 4096);
                arg.truncate(4096);
                raw::ioctl(&fixture.device, request, &mut arg)?;
                arg.truncate(if request == GET_REGION_INFO {
                    256
                } else {
                    4 * words
                });
                answers.push(arg);
            }
        }
        Ok(answers)
    };
    let running = ask()?;
    in_every_state(&fixture, |state| {
        assert_eq!(ask()?, running, "in state {state}");
        Ok(())
    })
}
