// SPDX-License-Identifier: GPL-2.0-only
/* The folder below /sys/kernel stays when the module goes. */
#include <linux/kobject.h>
#include "zoo.h"

static struct kobject *folder;

static int __init zoo_init(void)
{
	folder = kobject_create_and_add(KBUILD_MODNAME, kernel_kobj);
	return folder ? 0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a folder in /sys");
