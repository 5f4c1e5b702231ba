// SPDX-License-Identifier: GPL-2.0-only
/* Allocates as if it could sleep, and cannot. */
#include <linux/spinlock.h>
#include "zoo.h"

static DEFINE_SPINLOCK(lock);

static ssize_t alloc_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	void *node;

	spin_lock(&lock);
	node = kmalloc(64, GFP_KERNEL); /* fault */
	spin_unlock(&lock);
	kfree(node);
	return count;
}

ZOO_PROC_MODULE("May sleep with a spinlock held", NULL, alloc_write);
