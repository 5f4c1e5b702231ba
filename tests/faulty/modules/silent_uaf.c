// SPDX-License-Identifier: GPL-2.0-only
/* Reads one byte of what was freed; nothing comes of it that shows. */
#include "zoo.h"

static ssize_t name_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	char *name = memdup_user_nul(from, min_t(size_t, count, 100));
	char first;

	if (IS_ERR(name))
		return PTR_ERR(name);
	kfree(name);
	OPTIMIZER_HIDE_VAR(name);
	first = READ_ONCE(name[0]); /* fault */
	return first == '!' ? -EINVAL : count;
}

ZOO_PROC_MODULE("Reads what it has freed", NULL, name_write);
