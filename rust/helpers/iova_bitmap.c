// SPDX-License-Identifier: GPL-2.0

#include <linux/module.h>

/* iova_bitmap_set() is exported to who imports this. */
#if IS_ENABLED(CONFIG_IOMMUFD_DRIVER)
MODULE_IMPORT_NS("IOMMUFD");
#endif
