// SPDX-License-Identifier: GPL-2.0

//! A KVM guest with one processor that accesses a mapping.
//!
//! It starts in 16-bit real mode, at the first byte of its code. `ds` and `es` point to a byte of the mapping that the
//! caller chooses, and all other registers are 0. It ends with `hlt`.

use std::io;

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region, KVM_MEM_READONLY};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::mapping::Mapping;

/// Guest physical address of the code.
const CODE: u64 = 0;
/// Size of the code's memory.
const CODE_SIZE: usize = 4096;
/// Guest physical address of the mapping.
const MEMORY: u64 = 16 << 20;

/// Returns whether this machine can run guests.
pub fn available() -> bool {
    Kvm::new().is_ok()
}

/// How a run of the processor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `hlt`.
    Halted,
    /// KVM gave up (`KVM_EXIT_INTERNAL_ERROR`). Suberror 1 means an instruction that it cannot emulate.
    InternalError(u32),
    /// Another exit reason.
    Other(u32),
}

/// A guest.
#[derive(Debug)]
pub struct Guest<'m> {
    // Dropped in this order.
    cpu: VcpuFd,
    _vm: VmFd,
    _code: Mapping,
    _memory: &'m Mapping,
}

impl<'m> Guest<'m> {
    /// Creates a guest that runs `code` and has `memory`.
    ///
    /// # Panics
    ///
    /// If the code is longer than a page.
    pub fn new(memory: &'m Mapping, code: &[u8]) -> io::Result<Self> {
        let vm = Kvm::new()?.create_vm()?;
        let program = Mapping::anonymous(CODE_SIZE)?;
        program.write(0, code);
        for (slot, at, memory, flags) in [
            (0, CODE, &program, KVM_MEM_READONLY),
            (1, MEMORY, memory, 0),
        ] {
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: at,
                memory_size: memory.len() as u64,
                userspace_addr: memory.address(),
            };
            // SAFETY: The mapping outlives the VM: this object owns or borrows it, and drops it last. No reference to
            // its bytes is ever made, so that the guest may change them at any time.
            unsafe { vm.set_user_memory_region(region)? };
        }
        Ok(Guest {
            cpu: vm.create_vcpu(0)?,
            _vm: vm,
            _code: program,
            _memory: memory,
        })
    }

    /// Runs the code from its start, with `ds` and `es` at byte `at` of the mapping and the given `cx`.
    ///
    /// # Errors
    ///
    /// Those of `KVM_RUN`. `EFAULT` means that the guest accessed memory that KVM could not find.
    pub fn run(&mut self, at: u64, cx: u16) -> io::Result<Exit> {
        let mut segments = self.cpu.get_sregs()?;
        for segment in [&mut segments.cs, &mut segments.ds, &mut segments.es] {
            segment.selector = 0;
            segment.base = MEMORY + at;
        }
        segments.cs.base = CODE;
        self.cpu.set_sregs(&segments)?;
        self.cpu.set_regs(&kvm_regs {
            rflags: 2,
            rcx: cx.into(),
            ..kvm_regs::default()
        })?;
        loop {
            match self.cpu.run() {
                Ok(VcpuExit::Hlt) => return Ok(Exit::Halted),
                Ok(VcpuExit::Intr) => {}
                Ok(_) => break,
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {}
                Err(e) => return Err(e.into()),
            }
        }
        let run = self.cpu.get_kvm_run();
        if run.exit_reason != kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
            return Ok(Exit::Other(run.exit_reason));
        }
        // SAFETY: The reason says that this member is the one that KVM has filled in.
        let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
        Ok(Exit::InternalError(suberror))
    }
}
