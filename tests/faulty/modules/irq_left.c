// SPDX-License-Identifier: GPL-2.0-only
/* The handler of an interrupt stays when its code goes. */
#include <linux/interrupt.h>
#include "zoo.h"

/* Nothing in the lab's guests uses it. */
#define IRQ_LEFT_LINE	5

static irqreturn_t line_handler(int irq, void *unused)
{
	return IRQ_NONE;
}

static int __init zoo_init(void)
{
	return request_irq(IRQ_LEFT_LINE, line_handler, 0, KBUILD_MODNAME,
			   NULL);
}

static void __exit zoo_exit(void)
{
	pr_info("unloaded\n"); /* fault */
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Leaves an interrupt taken");
