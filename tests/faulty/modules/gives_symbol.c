// SPDX-License-Identifier: GPL-2.0-only
/* Exports a function; there is nothing wrong with it. */
#include "zoo.h"
#include "gives_symbol.h"

int gives_symbol_answer(void)
{
	return 42;
}
EXPORT_SYMBOL_GPL(gives_symbol_answer);

static int __init zoo_init(void)
{
	return 0;
}

static void __exit zoo_exit(void)
{
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Exports a function");
