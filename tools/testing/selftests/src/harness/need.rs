// SPDX-License-Identifier: GPL-2.0

//! What a test needs of the kernel and the machine, beyond what all tests need.

use std::env;
use std::fs;
use std::path::Path;

use crate::env::{facts, pci_device, reclaim, scripts, types};

/// The switch of the second CPU.
pub(crate) const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
/// The kprobes that record events.
const KPROBES: &str = "/sys/kernel/debug/tracing/kprobe_events";
/// The trace instances.
const INSTANCES: &str = "/sys/kernel/debug/tracing/instances";
/// The suspend test to run.
pub(crate) const SUSPEND_TEST: &str = "/sys/power/pm_test";
/// Names the serial port whose input wakes this machine up. Somebody must send it.
const WAKEUP_TTY: &str = "WAKEUP_TTY";
/// The number of the fault point to fail, per thread.
pub(crate) const FAIL_NTH: &str = "/proc/thread-self/fail-nth";

/// A need, declared in the table of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The device `mdma`: the test is about what only this device has or does.
    Mdma,
    /// Device memory in a BAR.
    DeviceMemory,
    /// Tests of the driver's own.
    Scripts,
    /// A kernel that can make allocations and user copies fail.
    FaultInjection,
    /// A kernel with iommufd's bitmaps.
    DirtyLogging,
    /// Swap space and a memory control group.
    Swap,
    /// KVM.
    Kvm,
    /// A second CPU that can be taken offline.
    Hotplug,
    /// A kernel that can test suspending.
    Suspend,
    /// A serial port that wakes this machine up.
    Wakeup,
    /// A kernel with kprobes and tracing.
    Kprobes,
    /// A kernel with trace events.
    Tracing,
    /// A kernel that counts the processor time of tasks exactly. User-mode Linux counts it in ticks.
    ProcessorTime,
    /// A PCI device with an IOMMU, and `vfio-pci` for it.
    SharedContainer,
    /// Memory of 256 MiB in one process. Each page of it is a mapping of the host for user-mode Linux.
    LargeProcess,
}

/// Returns whether the kernel is user-mode Linux.
fn is_user_mode() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"))
}

/// Returns whether the kernel has CONFIG_IOMMUFD_DRIVER. Reads the symbols only if the kernel has iommufd.
fn has_dirty_bitmaps() -> bool {
    if !Path::new("/dev/iommu").exists() {
        return false;
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some("iova_bitmap_set"))
}

fn has_fault_injection() -> bool {
    Path::new(FAIL_NTH).exists() && Path::new("/sys/kernel/debug/fail_usercopy").exists()
}

fn tests_suspending() -> bool {
    fs::read_to_string(SUSPEND_TEST).is_ok_and(|tests| tests.contains("freezer"))
}

/// Returns the name of the serial port whose input wakes this machine up.
pub(crate) fn wakeup_port() -> Option<String> {
    env::var(WAKEUP_TTY).ok()
}

impl Need {
    /// Returns whether this machine and a device of this mdev type meet it. While nothing is known about the device, it
    /// has what a test needs.
    pub(crate) fn is_met(self, mdev_type: &str) -> bool {
        match self {
            Need::Mdma => types::ALL.contains(&mdev_type),
            Need::DeviceMemory => facts::known().map_or(true, |facts| facts.memory.is_some()),
            Need::Scripts => scripts::exist(),
            Need::FaultInjection => has_fault_injection(),
            Need::DirtyLogging => has_dirty_bitmaps(),
            Need::Swap => reclaim::available(),
            Need::Kvm => vfio_client::kvm::available(),
            Need::Hotplug => Path::new(ONLINE).exists(),
            Need::Suspend => tests_suspending(),
            Need::Wakeup => wakeup_port().is_some(),
            Need::Kprobes => Path::new(KPROBES).exists(),
            Need::Tracing => Path::new(INSTANCES).exists(),
            Need::ProcessorTime => !is_user_mode(),
            Need::SharedContainer => pci_device::exists(),
            Need::LargeProcess => !is_user_mode(),
        }
    }

    /// Returns the need in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Need::Mdma => "the device mdma",
            Need::DeviceMemory => "device memory",
            Need::Scripts => "tests of the driver's own (--scripts)",
            Need::FaultInjection => "fault injection",
            Need::DirtyLogging => "iommufd's dirty bitmaps",
            Need::Swap => "swap space",
            Need::Kvm => "KVM",
            Need::Hotplug => "a CPU that can be taken offline",
            Need::Suspend => "a kernel that tests suspending",
            Need::Wakeup => "a serial port that wakes this machine up (WAKEUP_TTY)",
            Need::Kprobes => "kprobes",
            Need::Tracing => "trace events",
            Need::ProcessorTime => "exact processor time",
            Need::SharedContainer => "a PCI device with an IOMMU",
            Need::LargeProcess => "a process of 256 MiB",
        }
    }
}
