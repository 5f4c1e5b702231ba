// SPDX-License-Identifier: GPL-2.0-only
/* The number of the device stays taken when the module goes. */
#include "zoo.h"

static dev_t number;

static int __init zoo_init(void)
{
	return alloc_chrdev_region(&number, 0, 1, KBUILD_MODNAME);
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a device number taken");
