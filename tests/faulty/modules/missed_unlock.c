// SPDX-License-Identifier: GPL-2.0-only
/* The way out for a bad argument leaves the lock taken. */
#include <linux/mutex.h>
#include "zoo.h"

static DEFINE_MUTEX(lock);
static int level;

static ssize_t level_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	int ret, wanted;

	mutex_lock(&lock);
	ret = kstrtoint_from_user(from, count, 10, &wanted);
	if (ret)
		return ret; /* fault */
	level = wanted;
	mutex_unlock(&lock);
	return count;
}

ZOO_PROC_MODULE("Keeps a lock where the input is bad", NULL, level_write);
