// SPDX-License-Identifier: GPL-2.0

#include <linux/workqueue.h>

#include "helpers.h"

struct workqueue_struct *vfio_rs_alloc_workqueue(const char *name,
						 int max_active, bool freezable)
{
	return alloc_workqueue("%s", WQ_UNBOUND | (freezable ? WQ_FREEZABLE : 0),
			       max_active, name);
}

void vfio_rs_init_delayed_work(struct delayed_work *dwork, work_func_t func)
{
	INIT_DELAYED_WORK(dwork, func);
}

void vfio_rs_init_work(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

bool vfio_rs_queue_unbound_work(struct work_struct *work)
{
	return queue_work(system_dfl_wq, work);
}
