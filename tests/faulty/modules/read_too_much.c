// SPDX-License-Identifier: GPL-2.0-only
/* Gives the whole text whatever was asked for. */
#include "zoo.h"

static const char text[] = "hello there\n";

static ssize_t text_read(struct file *file, char __user *to, size_t count,
			 loff_t *pos)
{
	if (*pos >= sizeof(text) - 1)
		return 0;
	if (copy_to_user(to, text, sizeof(text) - 1))
		return -EFAULT;
	*pos += sizeof(text) - 1;
	return sizeof(text) - 1; /* fault */
}

ZOO_PROC_MODULE("Returns more than was asked for", text_read, NULL);
