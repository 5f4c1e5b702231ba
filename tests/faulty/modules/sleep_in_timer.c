// SPDX-License-Identifier: GPL-2.0-only
/* What a timer calls may not sleep. */
#include <linux/delay.h>
#include <linux/timer.h>
#include "zoo.h"

static void tick(struct timer_list *unused);
static DEFINE_TIMER(timer, tick);

static void tick(struct timer_list *unused)
{
	msleep(20); /* fault */
	pr_info("polled\n");
}

static ssize_t poll_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	mod_timer(&timer, jiffies + HZ / 10);
	return count;
}

ZOO_PROC_MODULE("Sleeps in a timer", NULL, poll_write);
