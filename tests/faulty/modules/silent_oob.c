// SPDX-License-Identifier: GPL-2.0-only
/* Reads one byte behind the end; nothing comes of it that shows. */
#include "zoo.h"

static ssize_t name_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	char *name, last;

	if (!count || count > 100)
		return -EINVAL;
	name = memdup_user(from, count);
	if (IS_ERR(name))
		return PTR_ERR(name);
	OPTIMIZER_HIDE_VAR(name);
	last = READ_ONCE(name[count]); /* fault */
	kfree(name);
	return last == '!' ? -EINVAL : count;
}

ZOO_PROC_MODULE("Reads behind what it allocated", NULL, name_write);
