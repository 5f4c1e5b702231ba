// SPDX-License-Identifier: GPL-2.0-only
/* The device goes with the module, its class stays. */
#include <linux/device.h>
#include "zoo.h"

static struct class *zoo_class;
static dev_t number;

static int __init zoo_init(void)
{
	struct device *device;
	int ret = alloc_chrdev_region(&number, 0, 1, KBUILD_MODNAME);

	if (ret)
		return ret;
	/* It takes no owner since 1aaba11da9aa, v6.4. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
	zoo_class = class_create(THIS_MODULE, KBUILD_MODNAME);
#else
	zoo_class = class_create(KBUILD_MODNAME);
#endif
	if (IS_ERR(zoo_class)) {
		unregister_chrdev_region(number, 1);
		return PTR_ERR(zoo_class);
	}
	device = device_create(zoo_class, NULL, number, NULL, KBUILD_MODNAME);
	if (IS_ERR(device)) {
		class_destroy(zoo_class);
		unregister_chrdev_region(number, 1);
		return PTR_ERR(device);
	}
	return 0;
}

static void __exit zoo_exit(void)
{
	device_destroy(zoo_class, number);
	unregister_chrdev_region(number, 1); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves a class in /sys");
