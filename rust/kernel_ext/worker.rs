// SPDX-License-Identifier: GPL-2.0

//! A worker: runs work for a user in a thread of the user.
//!
//! The thread is a `vhost_task`, a clone of the task that creates it. So the user's cgroups, limits, nice
//! value and memory policy hold for the work. Memory allocated there is charged to the user. The
//! thread dies when its process is killed or executes another program, and it freezes with its process.
//!
//! A kernel without `CONFIG_VHOST_TASK` uses a work queue instead. No cgroup limits it and no signal
//! reaches it; its threads only freeze when the host suspends.
//!
//! | file    | contents                                        |
//! |---------|-------------------------------------------------|
//! | `job`   | the job of a worker                             |
//! | `mm`    | the identity of a process                       |
//! | `task`  | a `vhost_task`                                  |
//! | `tasks` | a worker with a `vhost_task`                    |
//! | `queue` | a worker with a work queue                      |

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
        Due,
        Job, //
    },
    mm::{
        AtomicMm,
        Mm, //
    },
};

use kernel::prelude::*;

/// Logs that no user is charged for the work of driver `name`, on a kernel without `vhost_task`.
pub fn announce(name: &CStr) {
    #[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
    pr_warn!(
        "{}: the kernel has no vhost_task: a work queue does the work of the devices, \
         which is not charged to their users and cannot be killed\n",
        name.to_str().unwrap_or("?")
    );
    let _ = name;
}
