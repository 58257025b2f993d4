// SPDX-License-Identifier: GPL-2.0

#include <linux/sched.h>
#include <linux/sched/signal.h>

#include "helpers.h"

void vfio_rs_cond_resched(void)
{
	cond_resched();
}

bool vfio_rs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

void vfio_rs_set_current_running(void)
{
	__set_current_state(TASK_RUNNING);
}
