// SPDX-License-Identifier: GPL-2.0-only
/* Room for the text and none for the NUL behind it. */
#include "zoo.h"

static ssize_t text_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	char *text;

	if (!count || count > 4096)
		return -EINVAL;
	text = kmalloc(count, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	if (copy_from_user(text, from, count)) {
		kfree(text);
		return -EFAULT;
	}
	OPTIMIZER_HIDE_VAR(text);
	WRITE_ONCE(text[count], '\0'); /* fault */
	pr_info("%zu characters\n", strlen(text));
	kfree(text);
	return count;
}

ZOO_PROC_MODULE("Writes one byte behind what it allocated", NULL, text_write);
