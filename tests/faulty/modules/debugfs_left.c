// SPDX-License-Identifier: GPL-2.0-only
/* The folder in debugfs stays when the module goes. */
#include <linux/debugfs.h>
#include "zoo.h"

static u32 hits;

static int __init zoo_init(void)
{
	struct dentry *folder = debugfs_create_dir(KBUILD_MODNAME, NULL);

	debugfs_create_u32("hits", 0444, folder, &hits);
	return 0;
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a folder in debugfs");
