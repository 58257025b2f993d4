// SPDX-License-Identifier: GPL-2.0

#include <linux/sched.h>

#include "helpers.h"

void vfio_rs_cond_resched(void)
{
	cond_resched();
}

void vfio_rs_set_current_running(void)
{
	__set_current_state(TASK_RUNNING);
}
