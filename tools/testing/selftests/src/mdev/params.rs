// SPDX-License-Identifier: GPL-2.0

//! The module: its parameters and its modinfo.

use std::fs;

use mdma::regs::{Reg, MAX_THROTTLE_US};
use mdma::Mdma;

use crate::env::module::{Loaded, PARAMS};
use crate::env::{Env, LARGE, SMALL};
use crate::fixture::{self, MdmaFixture};
use crate::harness::result::Result;
use crate::{assert_errno, fail, tests};

tests! { "params" needs [Mdma]:
    illegal_values_are_refused [],
    data_section_kib_is_the_size_of_the_section [],
    p28_mmap_data_section_off ["P28"],
    memory_budget_mib_is_the_budget [],
    throttle_us_is_the_reset_value [],
    modinfo [],
}

fn illegal_values_are_refused(env: &Env) -> Result {
    env.module.path()?;
    env.module.unload()?;
    let _loaded = Loaded(&env.module);
    let throttle = format!("throttle_us={}", MAX_THROTTLE_US + 1);
    for (params, name) in [
        ("data_section_kib=0", "data_section_kib"),
        ("data_section_kib=1", "data_section_kib"),
        ("data_section_kib=63", "data_section_kib"),
        ("data_section_kib=65", "data_section_kib"),
        ("data_section_kib=65537", "data_section_kib"),
        ("data_section_kib=4294967295", "data_section_kib"),
        ("mmap_data_section=2", "mmap_data_section"),
        (&throttle, "throttle_us"),
        // The kernel refuses these values before they reach the module.
        ("data_section_kib=-1", "data_section_kib"),
        ("data_section_kib=4294967296", "data_section_kib"),
        ("memory_budget_mib=many", "memory_budget_mib"),
        ("throttle_us=", "throttle_us"),
    ] {
        let mark = env.kmsg.mark();
        match env.module.load_with(params)? {
            Ok(()) => {
                env.module.unload()?;
                panic!("{params}: loaded");
            }
            refused @ Err(_) => assert_load_errno(refused, params),
        }
        assert!(!env.module.is_loaded(), "{params}");
        let lines = env.kmsg.since(mark);
        let said = lines
            .iter()
            .any(|l| l.text.contains("mdma") && l.text.contains(name));
        let texts: Vec<_> = lines.iter().map(|l| &l.text).collect();
        assert!(said, "{params}: the log does not name {name}: {texts:?}");
        // The failed load leaves nothing behind that blocks the next one.
        for path in [
            "/sys/class/mdev_bus/mdma",
            "/sys/class/mdma",
            "/sys/bus/mdev/drivers/mdma",
        ] {
            assert_errno!(fs::metadata(path), ENOENT, "{params}: {path}");
        }
    }
    Ok(())
}

#[track_caller]
fn assert_load_errno(result: std::io::Result<()>, params: &str) {
    // The kernel's parser returns ERANGE for values outside the range of the type.
    match result.as_ref().map_err(std::io::Error::raw_os_error) {
        Err(Some(libc::EINVAL)) => {}
        Err(Some(libc::ERANGE)) if params.contains("-1") || params.contains("4294967296") => {}
        _ => panic!("{params}: expected EINVAL, got {result:?}"),
    }
}

fn data_section_kib_is_the_size_of_the_section(env: &Env) -> Result {
    for kib in [64, 68, 1024, 65536] {
        env.module.with(&format!("data_section_kib={kib}"), || {
            let fixture = MdmaFixture::new(env)?;
            assert_eq!(fixture.section(), kib << 10);
            let migration = fixture.device.region_of_type(3, 1)?;
            let info = migration.expect("a migration region").info().clone();
            assert_eq!(info.size, 4096 + (kib << 10) as u64);
            // Migration works with buffers of that size.
            fixture.write_memory(12345, &[7; 200_000])?;
            let saved = fixture.save()?;
            let other = MdmaFixture::new(env)?;
            other.load(&saved)?;
            assert_eq!(other.read_memory(12345, 200_000)?, [7; 200_000]);
            Ok(())
        })?;
    }
    Ok(())
}

fn p28_mmap_data_section_off(env: &Env) -> Result {
    env.module.with("mmap_data_section=0", || {
        let fixture = MdmaFixture::new(env)?;
        let region = fixture.device.region_of_type(3, 1)?;
        let region = region.expect("a migration region");
        let info = region.info();
        assert!(info.areas().is_empty() && info.sparse.is_none(), "{info:?}");
        assert!(info.readable() && info.writable());
        assert!(fixture.migration.mapping().is_none());
        let area = vfio_client::Area {
            offset: 4096,
            size: 4096,
        };
        let mmap = || region.mmap(area, vfio_client::Protection::READ);
        crate::harness::check::expect_refusal(env, fixture.uuid(), libc::EINVAL, "", "mmap", mmap);
        // Migration works with reads and writes.
        fixture.write_memory(0, &[3; 100_000])?;
        let saved = fixture.save()?;
        let other = MdmaFixture::new(env)?;
        other.load(&saved)?;
        assert_eq!(other.read_memory(0, 100_000)?, [3; 100_000]);
        Ok(())
    })
}

fn memory_budget_mib_is_the_budget(env: &Env) -> Result {
    for (mib, small, large) in [
        (0, 0, 0),
        (15, 0, 0),
        (16, 1, 0),
        (100, 6, 0),
        (5 << 10, 320, 5),
    ] {
        env.module.with(&format!("memory_budget_mib={mib}"), || {
            let available = |of| -> Result<u32> { Ok(env.mdev_type(of)?.available_instances()?) };
            assert_eq!(available(SMALL)?, small, "{mib} MiB");
            assert_eq!(available(LARGE)?, large, "{mib} MiB");
            if small == 0 {
                match env.instance(SMALL) {
                    Ok(_) => fail!("created an instance with a budget of {mib} MiB"),
                    Err(e) => assert!(e.to_string().contains("ENOSPC"), "{e}"),
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn throttle_us_is_the_reset_value(env: &Env) -> Result {
    for us in [0, 1, MAX_THROTTLE_US] {
        env.module.with(&format!("throttle_us={us}"), || {
            let guest = env.open(SMALL)?;
            let mdma = Mdma::open(&guest.device)?;
            assert_eq!(mdma.get(Reg::Throttle)?, us.into());
            mdma.set_throttle(5)?;
            guest.device.reset()?;
            assert_eq!(mdma.get(Reg::Throttle)?, us.into());
            Ok(())
        })?;
    }
    // The throttle slows the device down.
    env.module.with("throttle_us=20000", || {
        let fixture = MdmaFixture::new(env)?;
        let mut queue = fixture.queue(2)?;
        let fill = mdma::job::fill(fixture::device(0), 1, 10 * 65536);
        let start = std::time::Instant::now();
        fixture::run_jobs(&mut queue, &[fill])?;
        let took = start.elapsed().as_millis();
        assert!(took >= 180, "ten units with 20 ms each took {took} ms");
        Ok(())
    })
}

/// Returns the strings of the module's `.modinfo` section.
fn read_modinfo(elf: &[u8]) -> Option<Vec<String>> {
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at + len)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0usize, |n, b| (n << 8) | usize::from(*b)),
        )
    };
    // Elf64_Ehdr: e_shoff, e_shentsize, e_shnum, e_shstrndx.
    let (table, entry) = (number(0x28, 8)?, number(0x3a, 2)?);
    let (count, names) = (number(0x3c, 2)?, number(0x3e, 2)?);
    // Elf64_Shdr: sh_name, sh_offset, sh_size.
    let offset = |section: usize| number(table + section * entry + 0x18, 8);
    let size = |section: usize| number(table + section * entry + 0x20, 8);
    let names = offset(names)?;
    for section in 0..count {
        let name = names + number(table + section * entry, 4)?;
        if elf.get(name..)?.starts_with(b".modinfo\0") {
            let start = offset(section)?;
            let bytes = elf.get(start..start + size(section)?)?;
            let strings = bytes.split(|b| *b == 0).filter(|s| !s.is_empty());
            return Some(
                strings
                    .map(|s| String::from_utf8_lossy(s).into_owned())
                    .collect(),
            );
        }
    }
    None
}

fn modinfo(env: &Env) -> Result {
    let elf = fs::read(env.module.path()?)?;
    let Some(strings) = read_modinfo(&elf) else {
        fail!("the module has no .modinfo section");
    };
    let all = |name: &str| -> Vec<&str> {
        let prefix = format!("{name}=");
        strings
            .iter()
            .filter_map(|s| s.strip_prefix(prefix.as_str()))
            .collect()
    };
    assert_eq!(all("license"), ["GPL"]);
    assert_eq!(all("author"), ["vfio-mdev-rs authors"]);
    assert_eq!(all("name"), ["mdma"]);
    assert_eq!(all("description").len(), 1);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let vermagic = all("vermagic");
    assert!(vermagic[0].starts_with(release.trim()), "{vermagic:?}");
    let mut depends: Vec<_> = all("depends")[0].split(',').collect();
    depends.sort_unstable();
    assert!(
        depends.contains(&"mdev") && depends.contains(&"vfio"),
        "{depends:?}"
    );
    // Each parameter has a description.
    let documented = |text: &&str, name: &str| text.starts_with(&format!("{name}:"));
    for (name, _) in PARAMS {
        let count = all("parm").iter().filter(|t| documented(t, name)).count();
        assert_eq!(count, 1, "parm lines of {name}: {:?}", all("parm"));
        let types = all("parmtype");
        assert!(
            types.contains(&format!("{name}:uint").as_str())
                || types.contains(&format!("{name}:u32").as_str()),
            "{types:?}"
        );
    }
    assert_eq!(all("parm").len(), PARAMS.len());
    Ok(())
}
