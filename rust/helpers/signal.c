// SPDX-License-Identifier: GPL-2.0

#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/thread_info.h>

#include "helpers.h"

bool vfio_rs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

/*
 * Requests what the kernel does when a task returns to user mode: it runs the works that
 * others have queued for the task. One of them waits for the next period of cpu.max. A
 * vhost_task never returns to user mode, but handles signals between two calls of its
 * function, and this counts as one. io_uring's workers look at the same flag.
 */
void vfio_rs_run_task_works(void)
{
	if (!(current->flags & PF_USER_WORKER) || !test_thread_flag(TIF_NOTIFY_RESUME))
		return;
	clear_thread_flag(TIF_NOTIFY_RESUME);
	/* A work that is queued from here on sets the flag again. */
	smp_mb__after_atomic();
	set_thread_flag(TIF_NOTIFY_SIGNAL);
}
