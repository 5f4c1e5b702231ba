// SPDX-License-Identifier: GPL-2.0-only
/* Ends the kernel's trust over a word that it does not know. */
#include <linux/bug.h>
#include "zoo.h"

static ssize_t mode_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	char mode;

	if (!count || get_user(mode, from))
		return -EFAULT;
	BUG_ON(mode != 'a' && mode != 'b'); /* fault */
	return count;
}

ZOO_PROC_MODULE("Has a BUG_ON() for what users write", NULL, mode_write);
