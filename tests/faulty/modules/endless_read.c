// SPDX-License-Identifier: GPL-2.0-only
/* The offset is not looked at, so the end never comes. */
#include "zoo.h"

static const char text[] = "ready\n";

static ssize_t state_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	size_t len = min(count, sizeof(text) - 1);

	if (copy_to_user(to, text, len))
		return -EFAULT;
	*pos += len;
	return len; /* fault */
}

ZOO_PROC_MODULE("Is read without an end", state_read, NULL);
