// SPDX-License-Identifier: GPL-2.0

#include <linux/kcov.h>

#include "helpers.h"

/* A number, a structure of one, or of nothing without CONFIG_KCOV: as the kernel has it. */
u64 vfio_rs_kcov_handle(void)
{
	union {
		typeof(kcov_common_handle()) id;
		u64 value;
	} handle = { .id = kcov_common_handle() };

	return sizeof(handle.id) == sizeof(u64) ? handle.value : 0;
}

void vfio_rs_kcov_start(u64 handle)
{
	kcov_remote_start(handle);
}

void vfio_rs_kcov_stop(void)
{
	kcov_remote_stop();
}
