// SPDX-License-Identifier: GPL-2.0

#include <linux/device.h>

#include "helpers.h"

/* The members that hold show() and store() differ between kernels. */
void vfio_rs_device_attribute_init(struct device_attribute *attr,
				   const char *name, umode_t mode,
				   ssize_t (*show)(struct device *,
						   struct device_attribute *,
						   char *),
				   ssize_t (*store)(struct device *,
						    struct device_attribute *,
						    const char *, size_t))
{
	*attr = (struct device_attribute){};
	sysfs_attr_init(&attr->attr);
	attr->attr.name = name;
	attr->attr.mode = mode;
	attr->show = show;
	attr->store = store;
}

/* The member that holds the attributes differs between kernels. */
void vfio_rs_attribute_group_init(struct attribute_group *group,
				  struct attribute **attrs)
{
	*group = (struct attribute_group){ .attrs = attrs };
}
