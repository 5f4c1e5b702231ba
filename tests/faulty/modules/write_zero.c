// SPDX-License-Identifier: GPL-2.0-only
/* Takes all and says that it took nothing: many programs try for ever then. */
#include "zoo.h"

static char first;

static ssize_t first_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	ssize_t ret = 0;

	if (count && get_user(first, from))
		ret = -EFAULT;
	return ret; /* fault */
}

ZOO_PROC_MODULE("Writes and returns 0", NULL, first_write);
