// SPDX-License-Identifier: GPL-2.0
/*
 * look - says that it is there
 *
 *	# insmod look.ko
 *	# dmesg
 *	look: ready
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/printk.h>

static int __init look_init(void)
{
	pr_info("ready\n");
	return 0;
}

static void __exit look_exit(void)
{
}

module_init(look_init);
module_exit(look_exit);

MODULE_DESCRIPTION("Says that it is there");
MODULE_LICENSE("GPL");
