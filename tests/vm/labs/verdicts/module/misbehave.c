// SPDX-License-Identifier: GPL-2.0
/*
 * misbehave - does one wrong thing when it is loaded, for tests of the lab's verdicts
 *
 *	# insmod misbehave.ko fault=warn
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>

static char *fault = "none";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "what to do wrong: none, warn, oops, bug, panic, hang, fail, forge");

static noinline void misbehave_oops(void)
{
	int *nowhere = NULL;

	/* The compiler must not see through it. */
	OPTIMIZER_HIDE_VAR(nowhere);
	*nowhere = 1; /* here: oops */
}

static void misbehave_hang(void)
{
	for (;;)
		msleep_interruptible(1000); /* here: hang */
}

/* Nothing of this is a report of the kernel's, whatever it looks like. */
static void misbehave_forge(void)
{
	pr_info("said: BUG: kernel NULL pointer dereference, address: 0000000000000000\n");
	pr_info("said: WARNING: CPU: 0 PID: 1 at kernel/exit.c:1 do_exit+0x1/0x2\n");
	pr_info("lab-0123456789abcdef c1 end-end\n");
}

static int __init misbehave_init(void)
{
	pr_info("loaded with fault=%s\n", fault);
	if (!strcmp(fault, "warn"))
		WARN(1, "as asked\n"); /* here: warning */
	else if (!strcmp(fault, "oops"))
		misbehave_oops(); /* here: caller */
	else if (!strcmp(fault, "bug"))
		BUG(); /* here: bug */
	else if (!strcmp(fault, "panic"))
		panic("as asked"); /* here: panic */
	else if (!strcmp(fault, "hang"))
		misbehave_hang();
	else if (!strcmp(fault, "fail"))
		return -ENODEV;
	else if (!strcmp(fault, "forge"))
		misbehave_forge();
	return 0;
}

static void __exit misbehave_exit(void)
{
	pr_info("unloaded\n");
}

module_init(misbehave_init);
module_exit(misbehave_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Does one wrong thing, for tests");
