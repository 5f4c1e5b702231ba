// SPDX-License-Identifier: GPL-2.0
/*
 * evil - does to its kernel, and to who watches it, what it is told to, when it is loaded
 *
 *	# insmod evil.ko deed=silent
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/init.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <asm/desc.h>

static char *deed = "none";
module_param(deed, charp, 0444);
MODULE_PARM_DESC(deed, "none, silent, triple, flood, names, threads or quiet-warn");

/* What a terminal, a browser, XML and a CI system might obey. */
#define EVIL_TEXT "\033]52;c;ZXZpbA==\007\033]0;owned\007\033[2J<script>]]><blink>&\342\200\256"

static void evil_halt(void *unused)
{
	local_irq_disable();
	for (;;)
		asm volatile("cli; hlt");
}

static void evil_triple(void)
{
	struct desc_ptr none = { 0, 0 };

	load_idt(&none);
	asm volatile("int3");
}

static void evil_flood(void)
{
	int number;

	for (number = 0; number < 2000; number++)
		pr_info("flood %d\n", number);
}

static void evil_names(void)
{
	pr_warn(EVIL_TEXT "\n");
	pr_warn("::error file=/etc/passwd,line=1::owned\n");
	pr_warn("##[error]owned\n");
	pr_warn("section_start:0:owned\r\033[0K\n");
	proc_mkdir("<blink>evil\033[31m::error::", NULL);
	WARN(1, EVIL_TEXT "::error::owned\n");
}

static int evil_sleeps(void *unused)
{
	while (!kthread_should_stop())
		msleep(1000);
	return 0;
}

static void evil_threads(void)
{
	struct task_struct *task;

	task = kthread_run(evil_sleeps, NULL, "\033[2J<b>]]>&::x");
	if (IS_ERR(task))
		return;
	/* Nobody ends it: the load waits for ever. */
	for (;;)
		msleep(1000);
}

/* A complaint of which the console never hears. */
static void evil_warn_quietly(void)
{
	add_taint(TAINT_WARN, LOCKDEP_STILL_OK);
}

static int __init evil_init(void)
{
	if (!strcmp(deed, "silent"))
		on_each_cpu(evil_halt, NULL, 0);
	else if (!strcmp(deed, "triple"))
		evil_triple();
	else if (!strcmp(deed, "flood"))
		evil_flood();
	else if (!strcmp(deed, "names"))
		evil_names();
	else if (!strcmp(deed, "threads"))
		evil_threads();
	else if (!strcmp(deed, "quiet-warn"))
		evil_warn_quietly();
	return 0;
}

static void __exit evil_exit(void)
{
}

module_init(evil_init);
module_exit(evil_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Attacks its guest and the lab, for tests");
