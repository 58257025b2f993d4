// SPDX-License-Identifier: GPL-2.0
/* modinfo shows which mutation a module was built with. */

#include <linux/module.h>

#ifdef VFIO_MUTATION
MODULE_INFO(mutation, VFIO_MUTATION);
#endif
