// SPDX-License-Identifier: GPL-2.0

//! Faults on demand: `DRIVER/UUID/faults` of debugfs.
//!
//! For the developers of VMMs, whose error paths nothing else reaches. `Documentation/fault-injection.rst`
//! says what fails how. All points are off when the device is created.

use kernel::{
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    str::CString,
    sync::Arc, //
};
use kernel_ext::{
    debugfs::{
        Dir,
        File,
        Show, //
    },
    fault::{
        Delay,
        FaultPoint,
        Nth, //
    },
};

/// Declares the points, by the names of their directories.
macro_rules! points {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The points of one device.
        #[derive(Clone)]
        pub(crate) struct Faults {
            $($(#[$doc])* pub(crate) $name: Arc<FaultPoint>,)*
        }

        impl Faults {
            /// Returns points that are off.
            pub(crate) fn new() -> Result<Self> {
                Ok(Self {
                    $($name: FaultPoint::new()?,)*
                })
            }

            /// Calls `f` with each point and its name.
            fn each(&self, mut f: impl FnMut(&'static str, &Arc<FaultPoint>) -> Result) -> Result {
                $(f(stringify!($name), &self.$name)?;)*
                Ok(())
            }
        }
    };
}

points! {
    /// A save fills a buffer.
    save,
    /// A save writes a record to a buffer.
    save_record,
    /// A load takes a buffer.
    load,
    /// A load applies a record.
    load_record,
    /// A change of state stops the device.
    stop,
    /// A change of state lets the device run.
    run,
    /// The device pins guest memory.
    pin,
    /// The device copies from or to guest memory.
    dma,
}

impl Faults {
    /// Returns the points of guest memory.
    pub(crate) fn dma(&self) -> vfio::dma::Faults {
        vfio::dma::Faults {
            pin: self.pin.clone(),
            dma: self.dma.clone(),
        }
    }
}

impl Show for Faults {
    fn show(&self, out: &SeqFile) -> Result {
        self.each(|name, point| {
            seq_print!(out, "{}_failed: {}\n", name, point.failed());
            seq_print!(out, "{}_delayed: {}\n", name, point.delayed());
            Ok(())
        })
    }
}

/// The directory, which goes when this is dropped.
pub(crate) struct Files {
    _counts: File<Faults>,
    _points: KVec<(File<Nth>, File<Delay>)>,
}

impl Files {
    /// Creates the directory in that of the device.
    pub(crate) fn new(device: &Dir, faults: &Faults) -> Result<Self> {
        let dir = Dir::new(c"faults", Some(device))?;
        let counts = dir.file(c"counts", faults.clone())?;
        let mut points = KVec::new();
        faults.each(|name, point| {
            let name = CString::try_from_fmt(fmt!("{name}"))?;
            let dir = Dir::new(&name, Some(&dir))?;
            let nth = dir.number(c"fail_nth", Nth(point.clone()))?;
            let delay = dir.number(c"delay_ms", Delay(point.clone()))?;
            points.push((nth, delay), GFP_KERNEL)?;
            Ok(())
        })?;
        Ok(Self {
            _counts: counts,
            _points: points,
        })
    }
}
