// SPDX-License-Identifier: GPL-2.0-only
/* Each opening takes a reference to the module, and closing gives none back. */
#include "zoo.h"

static int count_open(struct inode *inode, struct file *file)
{
	if (!try_module_get(THIS_MODULE)) /* fault */
		return -EBUSY;
	return 0;
}

static ssize_t count_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	return simple_read_from_buffer(to, count, pos, "1\n", 2);
}

static const struct proc_ops count_proc_ops = {
	.proc_open = count_open,
	.proc_read = count_read,
	.proc_lseek = default_llseek,
};

static int __init zoo_init(void)
{
	return proc_create(KBUILD_MODNAME, 0444, NULL, &count_proc_ops) ?
		       0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Takes references to itself and keeps them");
