// SPDX-License-Identifier: GPL-2.0
/*
 * late - starts a timer when it is unloaded, whose function goes with the module
 *
 *	# insmod late.ko seconds=1
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/timer.h>

static unsigned int seconds;
module_param(seconds, uint, 0444);
MODULE_PARM_DESC(seconds, "when the timer fires, counted from the unload; 0: there is none");

static void late_fire(struct timer_list *timer)
{
	pr_info("fired\n");
}

/* Not in the module's memory: only its function is to be gone. */
static struct timer_list *late_timer;

static int __init late_init(void)
{
	late_timer = kzalloc(sizeof(*late_timer), GFP_KERNEL);
	if (!late_timer)
		return -ENOMEM;
	timer_setup(late_timer, late_fire, 0);
	return 0;
}

static void __exit late_exit(void)
{
	if (seconds)
		mod_timer(late_timer, jiffies + seconds * HZ);
	else
		kfree(late_timer);
}

module_init(late_init);
module_exit(late_exit);

MODULE_DESCRIPTION("Starts a timer when it is unloaded");
MODULE_LICENSE("GPL");
