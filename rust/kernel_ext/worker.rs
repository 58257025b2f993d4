// SPDX-License-Identifier: GPL-2.0

//! What runs a device's work: a thread of its user.
//!
//! The thread is a `vhost_task`, a clone of the task that sets bus master. So the user's cgroups, limits,
//! nice value and memory policy hold for the work. Memory allocated there is charged to the user. The
//! thread dies when its process is killed or executes another program, and it freezes with its process.
//!
//! A kernel without `CONFIG_VHOST_TASK` has a work queue instead, which is nobody's. Its threads freeze
//! when the host suspends, and that is all.
//!
//! | file    | what is in it                                   |
//! |---------|-------------------------------------------------|
//! | `job`   | what a worker does                              |
//! | `mm`    | a process, told from others                     |
//! | `task`  | a `vhost_task`                                  |
//! | `tasks` | the worker that has one                         |
//! | `queue` | the worker of a kernel without                  |

mod job;
mod mm;
#[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
mod queue;
#[cfg(all(CONFIG_VHOST_TASK, not(worker_queue)))]
mod task;
#[cfg(all(CONFIG_VHOST_TASK, not(worker_queue)))]
mod tasks;

#[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
pub use self::queue::Worker;
#[cfg(all(CONFIG_VHOST_TASK, not(worker_queue)))]
pub use self::tasks::Worker;
pub use self::{
    job::{
        Job,
        Turn, //
    },
    mm::{
        AtomicMm,
        Mm, //
    },
};

use kernel::prelude::*;

/// Says in the log, when the driver `name` registers, whose the work of its devices is if not the user's.
pub fn announce(name: &CStr) {
    #[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
    pr_warn!(
        "{}: the kernel has no vhost_task: a work queue does the work of the devices, \
         which is not charged to their users and cannot be killed\n",
        name.to_str().unwrap_or("?")
    );
    let _ = name;
}
