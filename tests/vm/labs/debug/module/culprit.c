// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mistakes that a stock kernel does not see: each is made at load when its parameter asks for
 * it, does no harm that shows, and the load succeeds.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>

static char *fault = "none";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "use-after-free, inversion, leak, sleep, race, or none");

static DEFINE_MUTEX(culprit_first);
static DEFINE_MUTEX(culprit_second);

static int culprit_use_after_free(void)
{
	char *gone = kmalloc(64, GFP_KERNEL);

	if (!gone)
		return -ENOMEM;
	strcpy(gone, "gone");
	kfree(gone);
	/* Not for the compiler to see, nor to leave out. */
	OPTIMIZER_HIDE_VAR(gone);
	pr_info("reads %d of what is gone\n", READ_ONCE(gone[1]) != 0);
	return 0;
}

/* Never at the same time, so nothing ever blocks: only the order is wrong. */
static int culprit_inversion(void)
{
	mutex_lock(&culprit_first);
	mutex_lock(&culprit_second);
	mutex_unlock(&culprit_second);
	mutex_unlock(&culprit_first);

	mutex_lock(&culprit_second);
	mutex_lock(&culprit_first);
	mutex_unlock(&culprit_first);
	mutex_unlock(&culprit_second);
	return 0;
}

static int culprit_leak(void)
{
	int i;

	/* More than one: a stale copy of a pointer on some stack hides a single one. */
	for (i = 0; i < 16; i++) {
		void *lost = kmalloc(128, GFP_KERNEL);

		if (!lost)
			return -ENOMEM;
		OPTIMIZER_HIDE_VAR(lost);
	}
	return 0;
}

static int culprit_sleep(void)
{
	/* kmalloc() may sleep; a preempt count above 0 forbids it. */
	preempt_disable();
	kfree(kmalloc(32, GFP_KERNEL));
	preempt_enable();
	return 0;
}

static unsigned long culprit_count;

static int culprit_counter(void *unused)
{
	while (!kthread_should_stop()) {
		int i;

		for (i = 0; i < 1000; i++) {
			culprit_count++;
			barrier();
		}
		cond_resched();
	}
	return 0;
}

/* Two threads count in one variable and neither knows of the other. */
static int culprit_race(void)
{
	struct task_struct *threads[2];
	int i, ret = 0;

	for (i = 0; i < 2; i++) {
		threads[i] = kthread_run(culprit_counter, NULL, "culprit/%d", i);
		if (IS_ERR(threads[i])) {
			ret = PTR_ERR(threads[i]);
			break;
		}
	}
	if (!ret)
		msleep(3000);
	while (i--)
		kthread_stop(threads[i]);
	return ret;
}

static int __init culprit_init(void)
{
	int ret = 0;

	if (!strcmp(fault, "use-after-free"))
		ret = culprit_use_after_free();
	else if (!strcmp(fault, "inversion"))
		ret = culprit_inversion();
	else if (!strcmp(fault, "leak"))
		ret = culprit_leak();
	else if (!strcmp(fault, "sleep"))
		ret = culprit_sleep();
	else if (!strcmp(fault, "race"))
		ret = culprit_race();
	else if (strcmp(fault, "none"))
		return -EINVAL;
	pr_info("loaded with fault=%s\n", fault);
	return ret;
}

static void __exit culprit_exit(void)
{
	pr_info("unloaded\n");
}

module_init(culprit_init);
module_exit(culprit_exit);

MODULE_AUTHOR("The kmod-lab authors");
MODULE_DESCRIPTION("Mistakes that only a debug kernel sees");
MODULE_LICENSE("GPL");
