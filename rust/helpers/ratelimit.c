// SPDX-License-Identifier: GPL-2.0

#include <linux/ratelimit.h>

#include "helpers.h"

void vfio_rs_ratelimit_default_init(struct ratelimit_state *rs)
{
	ratelimit_default_init(rs);
}

int vfio_rs_ratelimit(struct ratelimit_state *rs)
{
	return ___ratelimit(rs, "vfio");
}
