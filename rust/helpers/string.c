// SPDX-License-Identifier: GPL-2.0

#include <linux/string.h>

#include "helpers.h"

void vfio_rs_memset64(u64 *to, u64 value, size_t count)
{
	memset64(to, value, count);
}
