// SPDX-License-Identifier: GPL-2.0-only
/* Polls a device for much too long and lets nobody else run. */
#include <linux/delay.h>
#include <linux/preempt.h>
#include "zoo.h"

#define POLLS	70

static int arrived;

static ssize_t poll_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	int i;

	preempt_disable();
	for (i = 0; i < POLLS && !READ_ONCE(arrived); i++)
		mdelay(100); /* fault */
	preempt_enable();
	return count;
}

ZOO_PROC_MODULE("Polls without a pause", NULL, poll_write);
