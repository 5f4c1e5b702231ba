// SPDX-License-Identifier: GPL-2.0-only
/* A cache is destroyed while one of its objects is out. */
#include "zoo.h"

static struct kmem_cache *cache;
static void *object;

/* A cache with a constructor shares its slabs with no other, so that it can be told apart. */
static void clear_object(void *new)
{
	memset(new, 0, 200);
}

static int __init zoo_init(void)
{
	cache = kmem_cache_create(KBUILD_MODNAME, 200, 0, 0, clear_object);
	if (!cache)
		return -ENOMEM;
	object = kmem_cache_alloc(cache, GFP_KERNEL);
	if (!object) {
		kmem_cache_destroy(cache);
		return -ENOMEM;
	}
	return 0;
}

static void __exit zoo_exit(void)
{
	kmem_cache_destroy(cache); /* fault */
	pr_info("unloaded\n");
}

module_init(zoo_init);
module_exit(zoo_exit);
ZOO_MODULE("Destroys a cache that is in use");
