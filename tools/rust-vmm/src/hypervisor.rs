// SPDX-License-Identifier: GPL-2.0

//! What the machine is built on: a container with type1, and KVM if it is wanted.

use std::sync::Arc;

use kvm_bindings::{kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO};
use kvm_ioctls::{Kvm, VmFd};
use vfio_ioctls::{VfioContainer, VfioDeviceFd};

use crate::error::Result;

/// The virtual machine and its address space for devices.
pub(crate) struct Hypervisor {
    pub(crate) container: Arc<VfioContainer>,
    _vm: Option<VmFd>,
}

impl Hypervisor {
    /// Creates both. As in Cloud Hypervisor, KVM's VFIO device comes first, because the container tells it each group.
    pub(crate) fn new(kvm: bool) -> Result<Self> {
        let vm = match kvm {
            true => Some(Kvm::new().and_then(|kvm| kvm.create_vm())?),
            false => None,
        };
        let known = match &vm {
            Some(vm) => Some(Arc::new(Self::vfio_device(vm)?)),
            None => None,
        };
        Ok(Hypervisor {
            container: Arc::new(VfioContainer::new(known)?),
            _vm: vm,
        })
    }

    /// Creates KVM's VFIO device.
    fn vfio_device(vm: &VmFd) -> Result<VfioDeviceFd> {
        let mut device = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
            fd: 0,
            flags: 0,
        };
        Ok(VfioDeviceFd::new_from_kvm(vm.create_device(&mut device)?))
    }
}
