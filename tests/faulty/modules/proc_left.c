// SPDX-License-Identifier: GPL-2.0-only
/* The entry in /proc stays when the module goes. */
#include "zoo.h"

ZOO_PROC_OPS(NULL, NULL);

static int __init zoo_init(void)
{
	return zoo_proc_create() ? 0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves an entry in /proc");
