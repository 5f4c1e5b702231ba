// SPDX-License-Identifier: GPL-2.0-only
/* The path for a bad word frees the copy, and so does the end of the function. */
#include "zoo.h"

#define DOUBLE_FREE_ROOM	160

static ssize_t word_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	ssize_t ret = count;
	char *copy;

	if (count >= DOUBLE_FREE_ROOM)
		return -EINVAL;
	copy = kzalloc(DOUBLE_FREE_ROOM, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	if (copy_from_user(copy, from, count)) {
		kfree(copy);
		return -EFAULT;
	}
	if (strcmp(copy, "start") && strcmp(copy, "stop")) {
		ret = -EINVAL;
		kfree(copy);
	}
	OPTIMIZER_HIDE_VAR(copy);
	kfree(copy); /* fault */
	if (ret < 0)
		pr_info("no such command\n");
	return ret;
}

ZOO_PROC_MODULE("Frees twice where the input is bad", NULL, word_write);
