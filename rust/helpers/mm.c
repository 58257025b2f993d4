// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>

#include "helpers.h"

/* 2^order single pages, next to each other, if they are easy to get. */
struct page *vfio_rs_alloc_split_pages(unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_NORETRY |
					__GFP_NOWARN, order);

	if (page)
		split_page(page, order);
	return page;
}

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

unsigned long vfio_rs_page_private(const struct page *page)
{
	return page_private(page);
}

void vfio_rs_set_page_private(struct page *page, unsigned long private)
{
	set_page_private(page, private);
}
