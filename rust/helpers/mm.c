// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched.h>

#include "helpers.h"

void vfio_rs_get_page(struct page *page)
{
	get_page(page);
}

void vfio_rs_put_page(struct page *page)
{
	put_page(page);
}

void *vfio_rs_page_address(const struct page *page)
{
	return page_address(page);
}

unsigned long vfio_rs_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

void vfio_rs_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vm_flags_set(vma, flags);
}

struct mm_struct *vfio_rs_mmap_write_lock(void)
{
	struct mm_struct *mm = current->mm;

	if (mm)
		mmap_write_lock(mm);
	return mm;
}

void vfio_rs_mmap_write_unlock(struct mm_struct *mm)
{
	if (mm)
		mmap_write_unlock(mm);
}
