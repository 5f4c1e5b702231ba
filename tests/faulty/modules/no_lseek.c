// SPDX-License-Identifier: GPL-2.0-only
/* Nothing says what a seek does; what it does then depends on the kernel. */
#include "zoo.h"

static const char text[] = "hello there\n";

static ssize_t text_read(struct file *file, char __user *to, size_t count,
			 loff_t *pos)
{
	return simple_read_from_buffer(to, count, pos, text,
				       sizeof(text) - 1);
}

static const struct proc_ops no_lseek_ops = {
	.proc_read = text_read, /* fault */
};

static int __init zoo_init(void)
{
	return proc_create(KBUILD_MODNAME, 0444, NULL, &no_lseek_ops) ?
		       0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Has a file in /proc that cannot seek");
