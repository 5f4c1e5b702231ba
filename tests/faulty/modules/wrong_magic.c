// SPDX-License-Identifier: GPL-2.0-only
/* Says that it is for another kernel. The first vermagic is what the kernel reads. */
#include "zoo.h"

MODULE_INFO(vermagic, "3.2.0-4-486 mod_unload 486 "); /* fault */

static int __init zoo_init(void)
{
	return 0;
}

static void __exit zoo_exit(void)
{
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Is for another kernel");
