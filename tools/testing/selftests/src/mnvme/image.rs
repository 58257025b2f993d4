// SPDX-License-Identifier: GPL-2.0

//! Disk images that `mnvme-disk` loads before a VMM opens the device, and stores afterwards.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mnvme::{image, Error};

use super::{Loaded, Nvme, BLOCK, BLOCKS, PAGE, TYPE};
use crate::env::{Env, Guest};
use crate::harness::result::Result;
use crate::{fail, tests};

tests! { "mnvme_image" needs [Mdma]:
    a_guest_finds_it_and_its_writes_are_stored [],
    what_does_not_fit_is_refused [],
    a_file_is_not_overwritten [],
    an_open_device_is_left_alone [],
}

/// A file that is removed on drop.
struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Self {
        let image =
            Image(std::env::temp_dir().join(format!("mnvme-{}-{name}", std::process::id())));
        let _ = fs::remove_file(&image.0);
        image
    }

    /// Writes parts, each at its offset.
    fn write(&self, parts: &[(u64, &[u8])]) -> Result {
        let mut file = File::create(&self.0)?;
        for (at, bytes) in parts {
            file.seek(SeekFrom::Start(*at))?;
            file.write_all(bytes)?;
        }
        Ok(())
    }
}

impl std::ops::Deref for Image {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn a_guest_finds_it_and_its_writes_are_stored(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let (disk, stored) = (Image::new("disk"), Image::new("stored"));
    // It does not end with a block, let alone with a page. In between it is empty.
    let first: Vec<u8> = (0..300_000).map(|_| fastrand::u8(..)).collect();
    let last: Vec<u8> = (0..1001).map(|_| fastrand::u8(..)).collect();
    let end = 20 << 20;
    disk.write(&[(0, &first), (end, &last)])?;

    // What the last user has left is overwritten, behind the image too.
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill((0..BLOCKS / 8).step_by(501), 0xee)?;
    nvme.guest.instance.keep_state(true)?;
    let instance = nvme.close();
    instance.keep_state(false)?;
    instance.keep_state(true)?;
    image::load(&instance, &disk)?;
    assert_eq!(instance.keeps_state()?, Some(true));

    // As a VMM does.
    let mut nvme = Nvme::of(Guest::open(instance)?)?;
    nvme.guest.device.reset()?;
    nvme.driver.enable(1)?;
    let mut expected = vec![0; BLOCKS as usize * BLOCK];
    expected[..first.len()].copy_from_slice(&first);
    expected[end as usize..][..last.len()].copy_from_slice(&last);
    for page in (0..80).chain(5100..5140).chain([BLOCKS / 8 - 1]) {
        let found = nvme.read(page * 8, PAGE as usize)?;
        let at = (page * PAGE) as usize;
        assert!(found == expected[at..at + PAGE as usize], "page {page}");
    }
    for page in [0, 7, BLOCKS / 8 - 1] {
        let at = (page * PAGE) as usize;
        nvme.fill([page], 0x77)?;
        expected[at..at + PAGE as usize].fill(0x77);
    }
    let instance = nvme.close();
    image::store(&instance, &stored, false)?;
    assert!(fs::read(&*stored)? == expected, "the stored image differs");
    // Zeroes are holes.
    let blocks = fs::metadata(&*stored)?.blocks();
    assert!(
        blocks < BLOCKS / 4,
        "{blocks} blocks of the file are in use"
    );
    Ok(())
}

fn what_does_not_fit_is_refused(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let disk = Image::new("disk");
    let size = BLOCKS * BLOCK as u64;
    disk.write(&[(0, &[1; 4096]), (size, &[1])])?;
    let instance = env.instance(TYPE)?;
    match image::load(&instance, &disk) {
        Err(Error::TooLarge {
            len, size: fits, ..
        }) => assert_eq!((len, fits), (size + 1, size)),
        other => fail!("{other:?}"),
    }
    // Nothing was written, and nothing is kept.
    assert_eq!(instance.keeps_state()?, Some(false));
    let nvme = Nvme::of(Guest::open(instance)?)?;
    assert_eq!(nvme.debug("populated_pages")?, 0);
    let instance = nvme.close();
    match image::load(&instance, Path::new("/nonexistent")) {
        Err(Error::File { error, .. }) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
        other => fail!("{other:?}"),
    }
    // The largest image that fits.
    disk.write(&[(size - 1, &[9])])?;
    image::load(&instance, &disk)?;
    let mut nvme = Nvme::of(Guest::open(instance)?)?;
    nvme.driver.enable(1)?;
    assert_eq!(nvme.read(BLOCKS - 1, BLOCK)?[BLOCK - 1], 9);
    Ok(())
}

fn a_file_is_not_overwritten(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let disk = Image::new("disk");
    disk.write(&[(0, b"something else")])?;
    let instance = env.instance(TYPE)?;
    match image::store(&instance, &disk, false) {
        Err(Error::File { error, .. }) => assert_eq!(error.raw_os_error(), Some(libc::EEXIST)),
        other => fail!("{other:?}"),
    }
    assert_eq!(fs::read(&*disk)?, b"something else");
    image::store(&instance, &disk, true)?;
    let metadata = fs::metadata(&*disk)?;
    assert_eq!(metadata.len(), BLOCKS * BLOCK as u64);
    assert_eq!(fs::read(&*disk)?[..14], [0; 14]);
    Ok(())
}

fn an_open_device_is_left_alone(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let disk = Image::new("disk");
    disk.write(&[(0, &[1; 4096])])?;
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill(0..3, 0x33)?;
    for done in [
        image::load(&nvme.guest.instance, &disk),
        image::store(&nvme.guest.instance, &disk, true),
    ] {
        match done {
            Err(Error::Vfio(error)) => assert!(error.is(libc::EBUSY), "{error}"),
            other => fail!("{other:?}"),
        }
    }
    assert_eq!(fs::read(&*disk)?, [1; 4096]);
    assert_eq!(nvme.guest.instance.keeps_state()?, Some(false));
    // The controller was not reset.
    assert_eq!(nvme.read(0, PAGE as usize)?, [0x33; PAGE as usize]);
    Ok(())
}
