// SPDX-License-Identifier: GPL-2.0-only
/* -1 is -EPERM. */
#include "zoo.h"

static int level;

static ssize_t level_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	int ret = kstrtoint_from_user(from, count, 10, &level);

	if (ret)
		return -1; /* fault */
	return count;
}

ZOO_PROC_MODULE("Returns -1 for an error", NULL, level_write);
