// SPDX-License-Identifier: GPL-2.0
/*
 * squatter - takes a name in /proc, so that another module cannot have it
 *
 *	# insmod squatter.ko name=helloworld
 *	# insmod procfs1.ko
 *	insmod: ERROR: could not insert module procfs1.ko:
 *	Cannot allocate memory
 *	# test -d /proc/helloworld && echo still there
 *	still there
 *	# rmmod squatter
 *	# dmesg
 *	squatter: /proc/helloworld taken
 *	[proc_create() warns here that the entry is already registered]
 *	procfs1: /proc/helloworld could not be created
 *	squatter: /proc/helloworld given back
 *
 * The entry is a directory, which no module under test makes: whoever finds a
 * directory has found this one. A load without a name fails with EINVAL.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/printk.h>
#include <linux/proc_fs.h>

static char *squatter_name = "";
module_param_named(name, squatter_name, charp, 0444);
MODULE_PARM_DESC(name, "The name to take, as it stands below /proc");

static struct proc_dir_entry *squatter_entry;

static int __init squatter_init(void)
{
	if (!*squatter_name) {
		pr_err("no name given\n");
		return -EINVAL;
	}

	squatter_entry = proc_mkdir(squatter_name, NULL);
	if (!squatter_entry) {
		pr_err("/proc/%s could not be taken\n", squatter_name);
		return -ENOMEM;
	}

	pr_info("/proc/%s taken\n", squatter_name);
	return 0;
}

static void __exit squatter_exit(void)
{
	proc_remove(squatter_entry);
	pr_info("/proc/%s given back\n", squatter_name);
}

module_init(squatter_init);
module_exit(squatter_exit);

MODULE_DESCRIPTION("Takes a name in /proc so that another module cannot");
MODULE_AUTHOR("The lab developers");
MODULE_LICENSE("GPL");
