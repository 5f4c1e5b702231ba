// SPDX-License-Identifier: GPL-2.0-only
/* As deep as the input says. */
#include "zoo.h"

static noinline int descend(int depth)
{
	char frame[400];

	memset(frame, depth, sizeof(frame));
	OPTIMIZER_HIDE_VAR(depth);
	if (depth > 0)
		frame[0] = descend(depth - 1); /* fault */
	barrier_data(frame);
	return frame[0] + frame[depth & 255];
}

static ssize_t depth_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	int depth, ret = kstrtoint_from_user(from, count, 10, &depth);

	if (ret)
		return ret;
	pr_info("%d at the bottom\n", descend(depth));
	return count;
}

ZOO_PROC_MODULE("Recurses until the stack is full", NULL, depth_write);
