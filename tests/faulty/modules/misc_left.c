// SPDX-License-Identifier: GPL-2.0-only
/* The device stays when the module goes. */
#include <linux/miscdevice.h>
#include "zoo.h"

static const struct file_operations misc_left_fops = {
	.owner = THIS_MODULE,
};

static struct miscdevice misc_left_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &misc_left_fops,
};

static int __init zoo_init(void)
{
	return misc_register(&misc_left_device);
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a device in /dev");
