// SPDX-License-Identifier: GPL-2.0

#include <linux/nospec.h>

#include "helpers.h"

unsigned long vfio_rs_array_index_nospec(unsigned long index,
					 unsigned long size)
{
	return array_index_nospec(index, size);
}
