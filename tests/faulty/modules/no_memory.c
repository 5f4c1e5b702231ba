// SPDX-License-Identifier: GPL-2.0-only
/* Asks for more than a single allocation can give. */
#include "zoo.h"

static void *table;

static int __init zoo_init(void)
{
	size_t size = KMALLOC_MAX_SIZE;

	OPTIMIZER_HIDE_VAR(size);
	table = kmalloc(2 * size, GFP_KERNEL | __GFP_NOWARN); /* fault */
	return table ? 0 : -ENOMEM;
}

static void __exit zoo_exit(void)
{
	kfree(table);
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Fails to load for want of memory");
