// SPDX-License-Identifier: GPL-2.0
/* modinfo tells a module that was broken on purpose. */

#include <linux/module.h>

#ifdef VFIO_BREAK
MODULE_INFO(break, VFIO_BREAK);
#endif
