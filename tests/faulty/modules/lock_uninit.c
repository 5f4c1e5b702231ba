// SPDX-License-Identifier: GPL-2.0-only
/* A lock of zeros happens to be one that nobody holds. */
#include <linux/spinlock.h>
#include "zoo.h"

struct counter {
	spinlock_t lock;
	int value;
};

static ssize_t count_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	struct counter *counter = kzalloc(sizeof(*counter), GFP_KERNEL);

	if (!counter)
		return -ENOMEM;
	spin_lock(&counter->lock); /* fault */
	counter->value++;
	spin_unlock(&counter->lock);
	kfree(counter);
	return count;
}

ZOO_PROC_MODULE("Uses a lock that it never initialised", NULL, count_write);
