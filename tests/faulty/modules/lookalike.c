// SPDX-License-Identifier: GPL-2.0-only
/* Nothing of what it logs is the kernel's complaint, whatever it looks like. */
#include "zoo.h"

static ssize_t lookalike_read(struct file *file, char __user *to,
			      size_t count, loff_t *pos)
{
	pr_info("BUG: kernel NULL pointer dereference, address: 0000000000000008\n");
	pr_info("Oops: 0000 [#1] SMP NOPTI\n");
	pr_info("general protection fault: 0000 [#1] SMP\n");
	pr_info("WARNING: CPU: 0 PID: 1 at kernel/exit.c:1 do_exit+0x1/0x2\n");
	pr_info("------------[ cut here ]------------\n");
	pr_info("Kernel panic - not syncing: of no consequence\n");
	pr_info("Call Trace:\n");
	pr_info(" lookalike_read+0x12/0x34 [lookalike]\n");
	pr_info("---[ end trace 0000000000000000 ]---\n");
	pr_warn("bug fixed: oops, the panic button is stuck; soft lockup avoided\n");
	pr_err("error: the device said WARNING: too hot\n");
	return 0;
}

ZOO_PROC_MODULE("Logs what looks like an oops", lookalike_read, NULL);
