// SPDX-License-Identifier: GPL-2.0

#include <linux/wait.h>

#include "helpers.h"

void vfio_rs_init_waitqueue_head(struct wait_queue_head *wq)
{
	init_waitqueue_head(wq);
}

void vfio_rs_wake_up_all(struct wait_queue_head *wq)
{
	wake_up_all(wq);
}

/* Whether *value is another than it was, within the time. */
bool vfio_rs_wait_for_change(struct wait_queue_head *wq, const u64 *value,
			     u64 seen, long jiffies)
{
	return wait_event_timeout(*wq, READ_ONCE(*value) != seen, jiffies);
}

/* The same, or a negative errno when the task is killed. */
long vfio_rs_wait_for_change_killable(struct wait_queue_head *wq,
				      const u64 *value, u64 seen, long jiffies)
{
	return wait_event_killable_timeout(*wq, READ_ONCE(*value) != seen,
					   jiffies);
}
