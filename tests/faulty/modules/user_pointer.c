// SPDX-License-Identifier: GPL-2.0-only
/* Reads what the user wrote without copy_from_user(). */
#include "zoo.h"

static ssize_t first_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	const char *text = (__force const char *)from;
	char first = READ_ONCE(*text); /* fault */

	pr_info("begins with %c\n", first);
	return count;
}

ZOO_PROC_MODULE("Reads user memory directly", NULL, first_write);
