// SPDX-License-Identifier: GPL-2.0-only
/* Waits for an interrupt with interrupts off. */
#include <linux/irqflags.h>
#include "zoo.h"

static int arrived;

static ssize_t wait_write(struct file *file, const char __user *from,
			  size_t count, loff_t *pos)
{
	local_irq_disable();
	while (!READ_ONCE(arrived))
		cpu_relax(); /* fault */
	local_irq_enable();
	return count;
}

ZOO_PROC_MODULE("Waits with interrupts off", NULL, wait_write);
