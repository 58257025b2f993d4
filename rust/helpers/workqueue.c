// SPDX-License-Identifier: GPL-2.0

#include <linux/workqueue.h>

#include "helpers.h"

struct workqueue_struct *vfio_rs_alloc_workqueue(const char *name,
						 int max_active)
{
	return alloc_workqueue("%s", WQ_UNBOUND, max_active, name);
}

void vfio_rs_init_delayed_work(struct delayed_work *dwork, work_func_t func)
{
	INIT_DELAYED_WORK(dwork, func);
}
