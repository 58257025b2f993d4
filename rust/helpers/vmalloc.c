// SPDX-License-Identifier: GPL-2.0

#include <linux/vmalloc.h>

#include "helpers.h"

void *vfio_rs_vmalloc_user(unsigned long size)
{
	return vmalloc_user(size);
}
