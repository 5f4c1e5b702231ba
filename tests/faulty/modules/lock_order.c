// SPDX-License-Identifier: GPL-2.0-only
/* Who reads takes one lock first, who writes the other; they never meet. */
#include <linux/mutex.h>
#include "zoo.h"

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

static ssize_t pair_read(struct file *file, char __user *to, size_t count,
			 loff_t *pos)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	return 0;
}

static ssize_t pair_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	mutex_lock(&second);
	mutex_lock(&first); /* fault */
	mutex_unlock(&first);
	mutex_unlock(&second);
	return count;
}

ZOO_PROC_MODULE("Takes two locks in two orders, one after the other",
		pair_read, pair_write);
