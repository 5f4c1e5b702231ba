// SPDX-License-Identifier: GPL-2.0-only
/* A device is given time to settle, and a spinlock is held meanwhile. */
#include <linux/delay.h>
#include <linux/spinlock.h>
#include "zoo.h"

static DEFINE_SPINLOCK(lock);
static int resets;

static ssize_t reset_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	spin_lock(&lock);
	resets++;
	msleep(20); /* fault */
	spin_unlock(&lock);
	return count;
}

ZOO_PROC_MODULE("Sleeps with a spinlock held", NULL, reset_write);
