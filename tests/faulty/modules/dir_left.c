// SPDX-License-Identifier: GPL-2.0-only
/* A folder in /proc is removed with its file still in it. */
#include "zoo.h"

ZOO_PROC_OPS(NULL, NULL);

static int __init zoo_init(void)
{
	struct proc_dir_entry *folder = proc_mkdir(KBUILD_MODNAME, NULL);

	if (!folder)
		return -ENOMEM;
	if (!proc_create("state", 0444, folder, &zoo_proc_ops)) {
		zoo_proc_remove();
		return -ENOMEM;
	}
	return 0;
}

static void __exit zoo_exit(void)
{
	remove_proc_entry(KBUILD_MODNAME, NULL); /* fault */
	pr_info("unloaded\n");
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Removes a folder in /proc that is not empty");
