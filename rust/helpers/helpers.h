/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel that Rust cannot call, as
 * functions. One .c file per kernel header; bindgen reads the declarations
 * here, so C and Rust agree on every signature.
 *
 * Sorted alphabetically by header.
 */
#ifndef VFIO_RS_HELPERS_H
#define VFIO_RS_HELPERS_H

#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/ratelimit_types.h>
#include <linux/spinlock_types.h>
#include <linux/workqueue_types.h>

struct attribute;
struct attribute_group;
struct delayed_work;
struct device;
struct device_attribute;
struct wait_queue_head;
struct workqueue_struct;

/* linux/device.h */
void vfio_rs_device_attribute_init(struct device_attribute *attr,
				   const char *name, umode_t mode,
				   ssize_t (*show)(struct device *,
						   struct device_attribute *,
						   char *),
				   ssize_t (*store)(struct device *,
						    struct device_attribute *,
						    const char *, size_t));
void vfio_rs_attribute_group_init(struct attribute_group *group,
				  struct attribute **attrs);

/* linux/kcov.h */
u64 vfio_rs_kcov_handle(void);
void vfio_rs_kcov_start(u64 handle);
void vfio_rs_kcov_stop(void);

/* linux/mm.h */
struct page *vfio_rs_alloc_split_pages(unsigned int order);
void vfio_rs_get_page(struct page *page);
void vfio_rs_put_page(struct page *page);
void *vfio_rs_page_address(const struct page *page);
unsigned long vfio_rs_page_to_pfn(const struct page *page);
void vfio_rs_vm_flags_set(struct vm_area_struct *vma, unsigned long flags);
unsigned long vfio_rs_page_private(const struct page *page);
void vfio_rs_set_page_private(struct page *page, unsigned long private);

/* linux/mmap_lock.h */
int vfio_rs_mmap_write_lock_killable(struct mm_struct *mm);
void vfio_rs_mmap_write_unlock(struct mm_struct *mm);
void vfio_rs_vma_start_write(struct vm_area_struct *vma);

/* linux/mutex.h */
int vfio_rs_mutex_lock_killable(struct mutex *lock);

/* linux/nospec.h */
unsigned long vfio_rs_array_index_nospec(unsigned long index,
					 unsigned long size);

/* linux/ratelimit.h */
void vfio_rs_ratelimit_default_init(struct ratelimit_state *rs);
int vfio_rs_ratelimit(struct ratelimit_state *rs);

/* linux/sched.h */
void vfio_rs_cond_resched(void);
void vfio_rs_set_current_running(void);

/* linux/sched/signal.h */
bool vfio_rs_fatal_signal_pending(void);
void vfio_rs_run_task_works(void);

/* linux/spinlock.h */
unsigned long vfio_rs_spin_lock_irqsave(spinlock_t *lock);
bool vfio_rs_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags);
void vfio_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);

/* linux/string.h */
void vfio_rs_memset64(u64 *to, u64 value, size_t count);

/* linux/vmalloc.h */
void *vfio_rs_vzalloc_account(unsigned long size);

/* linux/wait.h */
void vfio_rs_init_waitqueue_head(struct wait_queue_head *wq);
void vfio_rs_wake_up_all(struct wait_queue_head *wq);
bool vfio_rs_wait_for_change(struct wait_queue_head *wq, const u64 *value,
			     u64 seen, long jiffies);
long vfio_rs_wait_for_change_killable(struct wait_queue_head *wq,
				      const u64 *value, u64 seen, long jiffies);

/* linux/workqueue.h */
struct workqueue_struct *vfio_rs_alloc_workqueue(const char *name,
						 int max_active, bool freezable);
void vfio_rs_init_delayed_work(struct delayed_work *dwork, work_func_t func);
void vfio_rs_init_work(struct work_struct *work, work_func_t func);
bool vfio_rs_queue_unbound_work(struct work_struct *work);

#endif /* VFIO_RS_HELPERS_H */
