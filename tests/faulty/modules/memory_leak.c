// SPDX-License-Identifier: GPL-2.0-only
/* Each reader has a buffer, and nobody ever frees it. */
#include "zoo.h"

static ssize_t state_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	char *text = kasprintf(GFP_KERNEL, "ready at %lld\n", *pos); /* fault */

	if (!text)
		return -ENOMEM;
	return simple_read_from_buffer(to, count, pos, text, strlen(text));
}

ZOO_PROC_MODULE("Loses memory with every read", state_read, NULL);
