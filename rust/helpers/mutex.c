// SPDX-License-Identifier: GPL-2.0

#include <linux/mutex.h>

#include "helpers.h"

/* A macro where lockdep looks. */
int vfio_rs_mutex_lock_killable(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}
