// SPDX-License-Identifier: GPL-2.0-only
/* Messages that were of use once: of every step, and of every tick. */
#include <linux/timer.h>
#include "zoo.h"

#define FLOOD_TICKS	250
#define FLOOD_LINES	100

static void dump(struct timer_list *unused);
static DEFINE_TIMER(timer, dump);
static int ticks;

static void dump(struct timer_list *unused)
{
	int i;

	for (i = 0; i < FLOOD_LINES; i++)
		pr_info("register %3d: 0x%08x, mask 0x%08x, shadow 0x%08x, never changed since the reset\n",
			i, i * 0x01010101, ~i, i); /* fault */
	if (++ticks < FLOOD_TICKS)
		mod_timer(&timer, jiffies + 1);
}

static ssize_t flood_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	int i;

	ticks = 0;
	mod_timer(&timer, jiffies + 1);
	for (i = 0; i < 1000 && READ_ONCE(ticks) < FLOOD_TICKS; i++)
		pr_info("step %d of the transfer\n", i);
	timer_delete_sync(&timer);
	return count;
}

ZOO_PROC_MODULE("Logs far too much", NULL, flood_write);
