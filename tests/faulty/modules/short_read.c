// SPDX-License-Identifier: GPL-2.0-only
/* The newline at the end never arrives. */
#include "zoo.h"

static const char text[] = "ready\n";

static ssize_t text_read(struct file *file, char __user *to, size_t count,
			 loff_t *pos)
{
	size_t len = sizeof(text) - 2; /* fault */

	return simple_read_from_buffer(to, count, pos, text, len);
}

ZOO_PROC_MODULE("Loses the last byte", text_read, NULL);
