// SPDX-License-Identifier: GPL-2.0-only
/* Messages that were of use once: of every step, and in every interrupt. */
#include <linux/hrtimer.h>
#include <linux/ktime.h>
#include "zoo.h"

#define FLOOD_TICKS	400
#define FLOOD_LINES	100

static struct hrtimer timer;
static int ticks;

static enum hrtimer_restart dump(struct hrtimer *unused)
{
	int i;

	for (i = 0; i < FLOOD_LINES; i++)
		pr_info("register %3d: 0x%08x, mask 0x%08x\n", i, i * 0x01010101, ~i); /* fault */
	if (++ticks >= FLOOD_TICKS)
		return HRTIMER_NORESTART;
	hrtimer_forward_now(&timer, ms_to_ktime(4));
	return HRTIMER_RESTART;
}

static ssize_t flood_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	int i;

	ticks = 0;
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	timer.function = dump;
	hrtimer_start(&timer, ms_to_ktime(4), HRTIMER_MODE_REL);
	for (i = 0; i < 20000 && READ_ONCE(ticks) < FLOOD_TICKS; i++)
		pr_info("step %d of the transfer\n", i);
	hrtimer_cancel(&timer);
	return count;
}

ZOO_PROC_MODULE("Logs far too much", NULL, flood_write);
