// SPDX-License-Identifier: GPL-2.0

//! The tests do not touch an mdev that they have not made, so they can run on a machine whose mdevs are in use.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use vfio_client::mdev::{Instance, Uuid};

use crate::env::module::Loaded;
use crate::env::own::of_others;
use crate::env::Env;
use crate::harness::result::Result;
use crate::harness::{self, report};
use crate::{assert_errno, tests};

tests! { "others":
    an_instance_of_another_user_stays [],
    a_run_beside_an_open_device_leaves_it [],
}

/// An instance that the tests have not made, as the harness sees it; removed on drop.
struct Other(Instance);

impl Other {
    fn make(env: &Env) -> Result<Self> {
        let uuid = Uuid::random()?;
        Ok(Other(env.mdev_type(env.subject())?.create(&uuid)?))
    }

    /// Returns what changes if the instance is removed, or removed and made again.
    fn identity(&self) -> Result<(u64, u32)> {
        let meta = fs::metadata(self.0.path())?;
        Ok((meta.ino(), self.0.iommu_group()?))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Err(e) = self.0.remove() {
            report::problem(format!("the instance of another user is gone: {e}"));
        }
    }
}

/// Neither the cleaning up after a test nor an unload removes it.
fn an_instance_of_another_user_stays(env: &Env) -> Result {
    let other = Other::make(env)?;
    let before = other.identity()?;
    let own = env.instance(env.subject())?;
    let uuid = own.uuid.clone();
    own.forget();
    harness::clean_up(env)?;
    // It has removed the instance that the tests have made, and reported that.
    assert_eq!(report::take_problems().len(), 1, "of one instance");
    assert!(env.sysfs.instance(&uuid).is_err(), "a test left it behind");
    assert_eq!(other.identity()?, before, "after cleaning up");
    assert_eq!(of_others(env.module.name())?.len(), 1);
    assert_errno!(env.module.unload(), EBUSY, "beside an instance of another");
    assert!(env.module.is_loaded());
    assert_eq!(other.identity()?, before, "after a refused unload");
    // It is no hindrance once it has gone.
    drop(other);
    if env.module.path().is_ok() {
        let _loaded = Loaded(&env.module);
        env.module.unload()?;
    }
    Ok(())
}

/// What the inner run runs: tests of sysfs, which create and remove, and of a device.
const INNER: [&str; 8] = [
    "mdev.available_instances_fall",
    "mdev.instance_is",
    "mdev.malformed",
    "mdev.duplicate",
    "mdev.remove",
    "v1_states.p14_every",
    "lifecycle.opened_and_closed_with",
    "next_user.a_close",
];

/// Runs this program on the same device type while another user has a device open in the pre-copy state. The other
/// device neither changes its state nor loses its user.
fn a_run_beside_an_open_device_leaves_it(env: &Env) -> Result {
    let other = Other::make(env)?;
    let before = other.identity()?;
    let device = other.0.open_alone()?;
    let Some(migration) = device.migration_v1()? else {
        crate::fail!("the device has no migration region");
    };
    migration.set_state(vfio_client::v1::State::PRE_COPY)?;
    let output = Command::new("/proc/self/exe")
        .args(["--type", env.subject()])
        .args(INNER)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text
        .lines()
        .filter(|l| l.starts_with("ok ") && !l.contains("# SKIP"));
    let passed = passed.count();
    assert!(output.status.success(), "the inner run failed:\n{text}");
    assert!(passed >= INNER.len(), "{passed} tests passed:\n{text}");
    assert_eq!(other.identity()?, before);
    assert_eq!(migration.state()?, vfio_client::v1::State::PRE_COPY);
    migration.pending_bytes()?;
    drop((migration, device));
    // The instance is as good as before.
    let device = other.0.open_alone()?;
    assert_eq!(device.name(), other.0.uuid.as_str());
    Ok(())
}
