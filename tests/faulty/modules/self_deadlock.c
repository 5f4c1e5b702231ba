// SPDX-License-Identifier: GPL-2.0-only
/* A function that takes the lock is called with the lock held. */
#include <linux/mutex.h>
#include "zoo.h"

static DEFINE_MUTEX(lock);
static size_t total;

static noinline void add_to_total(size_t count)
{
	mutex_lock(&lock); /* fault */
	total += count;
	mutex_unlock(&lock);
}

static ssize_t total_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	mutex_lock(&lock);
	add_to_total(count);
	mutex_unlock(&lock);
	return count;
}

ZOO_PROC_MODULE("Takes a mutex that it holds", NULL, total_write);
