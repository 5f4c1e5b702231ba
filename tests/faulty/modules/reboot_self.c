// SPDX-License-Identifier: GPL-2.0-only
/* Resets the whole machine where it means the device. */
#include <linux/reboot.h>
#include "zoo.h"

static ssize_t reset_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	emergency_restart(); /* fault */
	return count;
}

ZOO_PROC_MODULE("Restarts the machine", NULL, reset_write);
