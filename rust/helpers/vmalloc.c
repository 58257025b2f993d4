// SPDX-License-Identifier: GPL-2.0

#include <linux/vmalloc.h>

#include "helpers.h"

/* Zeroed, and charged to the memory cgroup of the caller. */
void *vfio_rs_vzalloc_account(unsigned long size)
{
	return __vmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
}
