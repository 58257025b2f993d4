// SPDX-License-Identifier: GPL-2.0

/* linux/mmap_lock.h cannot be included alone. */
#include <linux/mm.h>

#include "helpers.h"

int vfio_rs_mmap_write_lock_killable(struct mm_struct *mm)
{
	return mmap_write_lock_killable(mm);
}

void vfio_rs_mmap_write_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
}

void vfio_rs_vma_start_write(struct vm_area_struct *vma)
{
	vma_start_write(vma);
}
