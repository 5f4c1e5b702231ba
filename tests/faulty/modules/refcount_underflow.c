// SPDX-License-Identifier: GPL-2.0-only
/* Every reader puts a reference, and none of them ever got one. */
#include <linux/kref.h>
#include "zoo.h"

static struct kref users;

static void users_release(struct kref *kref)
{
	pr_info("nobody uses it any more\n");
}

static ssize_t users_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	kref_put(&users, users_release); /* fault */
	return 0;
}

ZOO_PROC_OPS(users_read, NULL);

static int __init zoo_init(void)
{
	kref_init(&users);
	return zoo_proc_create() ? 0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	zoo_proc_remove();
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Puts references that it has not got");
