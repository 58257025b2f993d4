// SPDX-License-Identifier: GPL-2.0
/*
 * Sizes and offsets as the kernel's C compiler sees them.
 *
 * Compiled to assembly only, as arch/x86/kernel/asm-offsets.c is; Kbuild turns
 * each line into a Rust constant and layout.rs compares it with what bindgen
 * made of the same header with another compiler.
 */

#define COMPILE_OFFSETS

#include <linux/kbuild.h>
#include <linux/mdev.h>
#include <linux/ratelimit_types.h>
#include <linux/vfio.h>

#define SIZE(t)		DEFINE(SIZE_##t, sizeof(struct t))
#define FIELD(t, f)	DEFINE(OFFSET_##t##__##f, offsetof(struct t, f))

int main(void)
{
	SIZE(mdev_device);
	FIELD(mdev_device, dev);
	FIELD(mdev_device, type);

	SIZE(mdev_type);
	FIELD(mdev_type, sysfs_name);
	FIELD(mdev_type, pretty_name);
	FIELD(mdev_type, parent);

	SIZE(mdev_parent);

	SIZE(mdev_driver);
	FIELD(mdev_driver, device_api);
	FIELD(mdev_driver, probe);
	FIELD(mdev_driver, remove);
	FIELD(mdev_driver, get_available);
	FIELD(mdev_driver, show_description);
	FIELD(mdev_driver, driver);

	SIZE(ratelimit_state);

	SIZE(vfio_device);
	FIELD(vfio_device, dev);
	FIELD(vfio_device, mig_ops);
	FIELD(vfio_device, log_ops);
	FIELD(vfio_device, migration_flags);
	FIELD(vfio_device, precopy_info_v2);
	FIELD(vfio_device, device);
	FIELD(vfio_device, inode);

	SIZE(vfio_device_ops);
	FIELD(vfio_device_ops, release);
	FIELD(vfio_device_ops, open_device);
	FIELD(vfio_device_ops, ioctl);
	FIELD(vfio_device_ops, get_region_info_caps);
	FIELD(vfio_device_ops, dma_unmap);
	FIELD(vfio_device_ops, device_feature);

	SIZE(vfio_migration_ops);
	SIZE(vfio_log_ops);
	SIZE(vfio_info_cap);
	SIZE(virqfd);

	/* The user ABI, which no kernel version may change. */
	SIZE(vfio_device_info);
	SIZE(vfio_region_info);
	SIZE(vfio_irq_info);
	SIZE(vfio_irq_set);
	SIZE(vfio_region_info_cap_type);
	SIZE(vfio_region_info_cap_sparse_mmap);
	SIZE(vfio_device_migration_info);
	FIELD(vfio_device_migration_info, pending_bytes);
	FIELD(vfio_device_migration_info, data_offset);
	FIELD(vfio_device_migration_info, data_size);
	SIZE(vfio_precopy_info);

	return 0;
}
