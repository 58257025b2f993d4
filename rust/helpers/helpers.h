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

#include <linux/ratelimit_types.h>
#include <linux/spinlock_types.h>

/* linux/nospec.h */
unsigned long vfio_rs_array_index_nospec(unsigned long index,
					 unsigned long size);

/* linux/ratelimit.h */
void vfio_rs_ratelimit_default_init(struct ratelimit_state *rs);
int vfio_rs_ratelimit(struct ratelimit_state *rs);

/* linux/spinlock.h */
void vfio_rs_spin_lock_init(spinlock_t *lock);
unsigned long vfio_rs_spin_lock_irqsave(spinlock_t *lock);
void vfio_rs_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);

#endif /* VFIO_RS_HELPERS_H */
