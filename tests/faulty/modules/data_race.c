// SPDX-License-Identifier: GPL-2.0-only
/* Two threads count in one variable, and neither knows of the other. */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include "zoo.h"

static struct task_struct *threads[2];
static unsigned long hits;

static int count_hits(void *unused)
{
	while (!kthread_should_stop()) {
		int i;

		for (i = 0; i < 1000; i++) {
			hits++; /* fault */
			barrier();
		}
		cond_resched();
	}
	return 0;
}

static int __init zoo_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		threads[i] = kthread_run(count_hits, NULL, "data_race/%d", i);
		if (IS_ERR(threads[i])) {
			int ret = PTR_ERR(threads[i]);

			while (i--)
				kthread_stop(threads[i]);
			return ret;
		}
	}
	return 0;
}

static void __exit zoo_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(threads); i++)
		kthread_stop(threads[i]);
	pr_info("%lu hits\n", hits);
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Counts in two threads at once");
