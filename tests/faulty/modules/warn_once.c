// SPDX-License-Identifier: GPL-2.0-only
/* Warns the first time that it is read, and again when it was loaded anew. */
#include <linux/bug.h>
#include "zoo.h"

static ssize_t level_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	int level = 0;

	OPTIMIZER_HIDE_VAR(level);
	WARN_ONCE(level < 1, "level %d is not possible\n", level); /* fault */
	return 0;
}

ZOO_PROC_MODULE("Warns once", level_read, NULL);
