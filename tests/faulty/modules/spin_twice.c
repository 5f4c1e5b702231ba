// SPDX-License-Identifier: GPL-2.0-only
/* A function that takes the spinlock is called with the spinlock held. */
#include <linux/spinlock.h>
#include "zoo.h"

static DEFINE_SPINLOCK(lock);
static size_t total;

static noinline void add_to_total(size_t count)
{
	spin_lock(&lock); /* fault */
	total += count;
	spin_unlock(&lock);
}

static ssize_t total_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	spin_lock(&lock);
	add_to_total(count);
	spin_unlock(&lock);
	return count;
}

ZOO_PROC_MODULE("Takes a spinlock that it holds", NULL, total_write);
