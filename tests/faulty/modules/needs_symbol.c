// SPDX-License-Identifier: GPL-2.0-only
/* Uses a function of another module, which must be loaded first. */
#include "zoo.h"
#include "gives_symbol.h"

static int __init zoo_init(void)
{
	pr_info("the answer is %d\n", gives_symbol_answer()); /* fault */
	return 0;
}

static void __exit zoo_exit(void)
{
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Needs another module");
