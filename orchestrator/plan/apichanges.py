"""What the kernel's API looked like before and after, by what a compiler says of the misuse.

An entry of ``API_CHANGES`` is added with one call of ``_since`` (from this version on it is
like this) or ``_before`` (up to this version it was not there yet): the version, the commit
that made the change, one sentence that says what to write instead, and what gcc or modpost
says, as regular expressions that ``re.search`` tries on the message alone. ``_gone``,
``_arguments``, ``_member``, ``_header`` and ``_callback`` write the usual ones. Typographic
quotes have become plain ones before. An entry must name a commit and a version that were
looked up: the table says "likely" to users who cannot check it.

Distributions carry changes back, so a version is no proof: what is found here explains an
error that is there, and decides nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.plan.version import KernelVersion, VersionRange

MAX_MESSAGE = 2000
"""How much of a message is looked at; the longest that gcc was seen to write has 500."""


@dataclass(frozen=True)
class ApiChange:
    """A change of the kernel's API that breaks modules, and how to tell."""

    kernels: VersionRange
    """The versions for which ``advice`` is right."""
    bound: str
    """The same in words: ``since 5.6``, ``before 5.6``."""
    commit: str
    """The first twelve digits of the commit that made the change."""
    advice: str
    """What to write, in a sentence without its full stop."""
    patterns: tuple[str, ...]
    """What the compiler's or modpost's message is like: one of them is found in it."""
    source: str = ""
    """What the line of the source must be like too, where the message says too little."""

    def explain(self) -> str:
        """The change in a sentence for the user: ``likely: …, since 5.6 (d56c0d45f0e2)``."""
        return f"likely: {self.advice}, {self.bound} ({self.commit})"


def find_change(message: str, source: str, version: KernelVersion) -> ApiChange | None:
    """The change that explains an error of a build for this kernel; None if none is known.

    ``message`` is the compiler's or modpost's, ``source`` the line of the module that it is
    about, empty where that is not known.
    """
    text = message[:MAX_MESSAGE].translate(_PLAIN_QUOTES)
    return next(
        (
            change
            for change in API_CHANGES
            if any(re.search(pattern, text) for pattern in change.patterns)
            and (not change.source or re.search(change.source, source[:MAX_MESSAGE]))
            and change.kernels.contains(version)
        ),
        None,
    )


# gcc writes these around names where the locale is UTF-8.
_PLAIN_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'"})


def _since(version: str, commit: str, advice: str, *patterns: str, source: str = "") -> ApiChange:
    kernels = VersionRange.parse(f">={version}")
    return ApiChange(kernels, f"since {version}", commit, advice, patterns, source)


def _before(version: str, commit: str, advice: str, *patterns: str, source: str = "") -> ApiChange:
    kernels = VersionRange.parse(f"<{version}")
    return ApiChange(kernels, f"before {version}", commit, advice, patterns, source)


# --- what compilers and modpost say ----------------------------------------------------------


def _gone(*names: str) -> str:
    """A function, macro or type that is not there, or is not exported."""
    name = f"(?:{'|'.join(names)})"
    return (
        f"implicit declaration of function '{name}'|'{name}' undeclared|"
        f"unknown type name '{name}'|\"{name}\" \\[.*\\] undefined!"
    )


def _arguments(*names: str) -> str:
    """A function or macro that is called with too many or too few arguments."""
    name = f"(?:{'|'.join(names)})"
    return f"arguments to function '{name}'|macro \"{name}\" (?:passed|requires) "


def _member(struct: str, *names: str) -> str:
    """A structure that does not have a member of this name."""
    name = f"(?:{'|'.join(names)})"
    return f"'(?:const )?struct {struct}' has no member named '{name}'"


def _header(path: str) -> str:
    """A header that is not there."""
    return f"^{re.escape(path)}: No such file or directory"


def _callback(wanted: str, given: str) -> str:
    """A pointer to a function of another type than wanted; gcc 8 and later say which."""
    return f"'{re.escape(wanted)}' .*from incompatible pointer type '{re.escape(given)}'"


# --- the changes, by version -----------------------------------------------------------------

API_CHANGES: tuple[ApiChange, ...] = (
    _since(
        "4.11",
        "11bac8000449",
        "a fault handler takes a struct vm_fault alone, and vmf->vma is the area",
        r"'(?:int|vm_fault_t) \(\*\)\(struct vm_fault \*\)' .*from incompatible pointer type "
        r"'(?:int|vm_fault_t) \(\*\)\(struct vm_area_struct \*, struct vm_fault \*\)'",
    ),
    _since(
        "4.13",
        "ac6424b981bc",
        "wait_queue_t is called wait_queue_entry_t",
        _gone("wait_queue_t"),
    ),
    _before(
        "4.14",
        "686fef928bba",
        "there is no timer_setup(): write setup_timer(), whose callback takes an unsigned long",
        _gone("timer_setup", "from_timer"),
    ),
    _since(
        "4.15",
        "b899a850431e",
        "ACCESS_ONCE() is gone: write READ_ONCE() or WRITE_ONCE()",
        _gone("ACCESS_ONCE"),
    ),
    _since(
        "5.0",
        "96d4f267e40f",
        "access_ok() takes no type: write access_ok(address, size)",
        _arguments("access_ok"),
    ),
    _before(
        "5.0",
        "96d4f267e40f",
        "access_ok() takes a type first: write access_ok(VERIFY_WRITE, address, size)",
        _arguments("access_ok"),
    ),
    _since(
        "5.0",
        "dfd32cad146e",
        "dma_zalloc_coherent() is gone: dma_alloc_coherent() gives zeroed memory",
        _gone("dma_zalloc_coherent"),
    ),
    _since(
        "5.4",
        "8651ec01daed",
        "the symbol is in a namespace: name it with MODULE_IMPORT_NS()",
        r"uses symbol \S+ from namespace \S+, but does not import it",
    ),
    _before(
        "5.4",
        "8651ec01daed",
        "symbols have no namespaces: leave MODULE_IMPORT_NS() out",
        "expected declaration specifiers or '...' before|data definition has no type",
        source=r"\bMODULE_IMPORT_NS\b",
    ),
    _since(
        "5.6",
        "d56c0d45f0e2",
        "files in /proc take a struct proc_ops instead of a struct file_operations",
        "passing argument [45] of 'proc_create(?:_data)?' from incompatible pointer type",
    ),
    _before(
        "5.6",
        "d56c0d45f0e2",
        "there is no struct proc_ops: files in /proc take a struct file_operations",
        "passing argument [45] of 'proc_create(?:_data)?' from incompatible pointer type",
        _member("proc_ops", r"\w+"),
    ),
    _before(
        "5.6",
        "d56c0d45f0e2",
        "there is no struct proc_ops: files in /proc take a struct file_operations",
        "has initializer but incomplete type|storage size of '.*' isn't known",
        source=r"\bstruct proc_ops\b",
    ),
    _since(
        "5.6",
        "4bdc0d676a64",
        "ioremap_nocache() is gone: ioremap() does the same",
        _gone("ioremap_nocache", "devm_ioremap_nocache"),
    ),
    _since(
        "5.7",
        "0bd476e6c671",
        "kallsyms_lookup_name() is not exported to modules any more",
        _gone("kallsyms_lookup_name", "kallsyms_on_each_symbol"),
    ),
    _since(
        "5.7",
        "3d745ea5b095",
        "blk_queue_make_request() is gone: the queue, later the disk, is allocated with its "
        "function",
        _gone("blk_queue_make_request"),
    ),
    _since(
        "5.8",
        "da1c55f1b272",
        "mmap_sem is called mmap_lock: write mmap_read_lock(mm), mmap_write_lock(mm)",
        _member("mm_struct", "mmap_sem"),
    ),
    _since(
        "5.8",
        "88dca4ca5a93",
        "__vmalloc() takes no protection: write __vmalloc(size, flags)",
        _arguments("__vmalloc", "__vmalloc_noprof"),
    ),
    _since(
        "5.8",
        "f5678e7f2ac3",
        "use_mm() is called kthread_use_mm(), unuse_mm() kthread_unuse_mm()",
        _gone("use_mm", "unuse_mm"),
    ),
    _before(
        "5.8",
        "f5678e7f2ac3",
        "kthread_use_mm() is called use_mm(), kthread_unuse_mm() unuse_mm()",
        _gone("kthread_use_mm", "kthread_unuse_mm"),
    ),
    _since(
        "5.9",
        "64019a2e467a",
        "get_user_pages_remote() takes no task: its first argument is the mm",
        "arguments to function 'get_user_pages_remote'|"
        "passing argument 1 of 'get_user_pages_remote' from incompatible pointer type",
    ),
    _since(
        "5.9",
        "c62b37d96b6e",
        "make_request_fn is submit_bio in struct block_device_operations",
        _member("request_queue", "make_request_fn"),
    ),
    _before(
        "5.9",
        "12cc923f1ccc",
        "there is no tasklet_setup(): write tasklet_init(), whose callback takes an unsigned long",
        _gone("tasklet_setup"),
    ),
    _since(
        "5.10",
        "47058bb54b57",
        "set_fs() is gone on x86: for files write kernel_read() and kernel_write()",
        _gone("get_fs", "set_fs", "mm_segment_t", "KERNEL_DS", "USER_DS"),
    ),
    _since(
        "5.11",
        "1d6cd3929360",
        'a module must name its license: write MODULE_LICENSE("GPL"), or what it is',
        r"missing MODULE_LICENSE\(\)",
    ),
    _since(
        "5.15",
        "c0891ac15f04",
        "the compiler's own headers are out of reach: include <linux/stdarg.h>",
        _header("stdarg.h"),
    ),
    _before(
        "5.15",
        "c0891ac15f04",
        "there is no linux/stdarg.h: include <stdarg.h>",
        _header("linux/stdarg.h"),
    ),
    _since(
        "5.15",
        "9c2b9dbafc06",
        "alloc_disk() is gone: write blk_alloc_disk() or blk_mq_alloc_disk()",
        _gone("alloc_disk", "alloc_disk_node"),
    ),
    _since(
        "5.15",
        "56ec5880a28e",
        "alloc_tty_driver() is gone: write tty_alloc_driver(lines, flags)",
        _gone("alloc_tty_driver"),
    ),
    _since(
        "5.17",
        "359745d78351",
        "PDE_DATA() is called pde_data()",
        _gone("PDE_DATA"),
    ),
    _before(
        "5.17",
        "359745d78351",
        "pde_data() is called PDE_DATA()",
        _gone("pde_data"),
    ),
    _since(
        "5.17",
        "cead18552660",
        "complete_and_exit() is called kthread_complete_and_exit()",
        _gone("complete_and_exit"),
    ),
    _since(
        "5.17",
        "adeef3e32146",
        "a network device's address is const: write eth_hw_addr_set() or dev_addr_mod()",
        "assignment of read-only location '.*dev_addr",
    ),
    _since(
        "5.18",
        "322cbb50de71",
        "linux/genhd.h is gone: include <linux/blkdev.h>",
        _header("linux/genhd.h"),
    ),
    _since(
        "5.18",
        "7968778914e5",
        "the pci_ functions for DMA are gone: write the dma_ ones, with &pdev->dev",
        _gone(
            r"pci_(?:un)?map_(?:single|page|sg)",
            r"pci_z?alloc_consistent",
            "pci_free_consistent",
            r"pci_set_(?:consistent_)?dma_mask",
            "pci_dma_mapping_error",
            r"PCI_DMA_(?:TODEVICE|FROMDEVICE|BIDIRECTIONAL|NONE)",
        ),
    ),
    _since(
        "5.18",
        "cdb4f26a63c3",
        "default_attrs is gone: write default_groups, as ATTRIBUTE_GROUPS() makes them",
        _member("kobj_type", "default_attrs"),
    ),
    _since(
        "5.18",
        "a0386bba7093",
        "an SPI driver's remove() returns nothing",
        _callback("void (*)(struct spi_device *)", "int (*)(struct spi_device *)"),
    ),
    _since(
        "5.19",
        "7e0a126519b8",
        "readpage() is read_folio(), which takes a struct folio",
        _member("address_space_operations", "readpage"),
    ),
    _since(
        "6.0",
        "8b9ab6266204",
        "blk_cleanup_disk() is gone: write put_disk()",
        _gone("blk_cleanup_disk"),
    ),
    _since(
        "6.1",
        "ed5c2f5fd10d",
        "an I2C driver's remove() returns nothing",
        _callback("void (*)(struct i2c_client *)", "int (*)(struct i2c_client *)"),
    ),
    _since(
        "6.1",
        "b48b89f9c189",
        "netif_napi_add() takes no weight: write netif_napi_add(dev, napi, poll)",
        _arguments("netif_napi_add"),
    ),
    _before(
        "6.1",
        "b48b89f9c189",
        "netif_napi_add() takes a weight: write netif_napi_add(dev, napi, poll, NAPI_POLL_WEIGHT)",
        _arguments("netif_napi_add"),
    ),
    _since(
        "6.1",
        "de492c83cae0",
        "prandom_u32() is gone: write get_random_u32()",
        _gone("prandom_u32", "prandom_bytes"),
    ),
    _before(
        "6.2",
        "bb663f0f3c39",
        "timer_delete() is called del_timer(), timer_delete_sync() del_timer_sync()",
        _gone("timer_delete", "timer_delete_sync"),
    ),
    _since(
        "6.2",
        "ff62b8e6588f",
        "a class's devnode() takes a const struct device",
        r"'char \* \(\*\)\(const struct device \*, umode_t \*\)' .*from incompatible pointer type "
        r"'char \* \(\*\)\(struct device \*, umode_t \*\)'",
    ),
    _since(
        "6.3",
        "bc292ab00f6c",
        "vm_flags is const: write vm_flags_set(), vm_flags_clear() or vm_flags_mod()",
        "assignment of read-only member 'vm_flags'",
    ),
    _before(
        "6.3",
        "bc292ab00f6c",
        "there is no vm_flags_set(): write to vma->vm_flags",
        _gone("vm_flags_set", "vm_flags_clear", "vm_flags_mod"),
    ),
    _since(
        "6.3",
        "03c835f498b5",
        "an I2C driver's probe() takes no id: i2c_client_get_device_id() finds it",
        _callback(
            "int (*)(struct i2c_client *)",
            "int (*)(struct i2c_client *, const struct i2c_device_id *)",
        ),
    ),
    _since(
        "6.3",
        "c54bd91e9eab",
        "an inode's operations take a struct mnt_idmap instead of a struct user_namespace",
        r"\(\*\)\(struct mnt_idmap \*, .*from incompatible pointer type "
        r"'[^']*\(\*\)\(struct user_namespace \*, ",
    ),
    _since(
        "6.4",
        "1aaba11da9aa",
        "class_create() takes no owner: write class_create(name)",
        _arguments("class_create"),
        "passing argument 1 of 'class_create' from incompatible pointer type",
    ),
    _before(
        "6.4",
        "1aaba11da9aa",
        "class_create() takes the owner first: write class_create(THIS_MODULE, name)",
        _arguments("class_create"),
    ),
    _since(
        "6.5",
        "54d020692b34",
        "get_user_pages() takes no vmas: leave the last argument out",
        "too many arguments to function 'get_user_pages'",
    ),
    _since(
        "6.5",
        "d32e2bf83791",
        "a block device's open() takes a struct gendisk and a blk_mode_t",
        r"'int \(\*\)\(struct gendisk \*, blk_mode_t\)' .*from incompatible pointer type "
        r"'int \(\*\)\(struct block_device \*, fmode_t\)'",
    ),
    _before(
        "6.5",
        "05bdb9965305",
        "blk_mode_t is fmode_t",
        _gone("blk_mode_t"),
    ),
    _since(
        "6.6",
        "13bc24457850",
        "i_ctime is private: write inode_get_ctime(), inode_set_ctime_current()",
        _member("inode", "i_ctime"),
    ),
    _since(
        "6.7",
        "12cd44023651",
        "i_atime and i_mtime are private: write inode_get_mtime(), inode_set_mtime_to_ts() "
        "and the like",
        _member("inode", "i_atime", "i_mtime"),
    ),
    _since(
        "6.8",
        "d26270061ae6",
        "strlcpy() is gone: write strscpy(), which returns -E2BIG where it cut",
        _gone("strlcpy"),
    ),
    _since(
        "6.8",
        "5e0a760b4441",
        "MAX_ORDER is called MAX_PAGE_ORDER",
        _gone("MAX_ORDER"),
    ),
    _before(
        "6.8",
        "5e0a760b4441",
        "MAX_PAGE_ORDER is called MAX_ORDER, one more than it in 6.3 and older",
        _gone("MAX_PAGE_ORDER"),
    ),
    _since(
        "6.9",
        "74fa8f9c553f",
        "blk_alloc_disk() takes the queue's limits first: write blk_alloc_disk(NULL, node)",
        _arguments("blk_alloc_disk"),
    ),
    _since(
        "6.11",
        "0edb555a65d1",
        "a platform driver's remove() returns nothing",
        _callback("void (*)(struct platform_device *)", "int (*)(struct platform_device *)"),
    ),
    _before(
        "6.11",
        "0edb555a65d1",
        "a platform driver's remove() returns an int",
        _callback("int (*)(struct platform_device *)", "void (*)(struct platform_device *)"),
    ),
    _since(
        "6.11",
        "d69d80484598",
        "a bus's match() takes a const struct device_driver",
        _callback(
            "int (*)(struct device *, const struct device_driver *)",
            "int (*)(struct device *, struct device_driver *)",
        ),
    ),
    _since(
        "6.11",
        "78eb4ea25cd5",
        "a sysctl's handler takes a const struct ctl_table",
        r"'int \(\*\)\(const struct ctl_table \*, .*from incompatible pointer type "
        r"'int \(\*\)\(struct ctl_table \*, ",
    ),
    _since(
        "6.12",
        "cb787f4ac0c2",
        "no_llseek is gone: leave .llseek out",
        _gone("no_llseek"),
    ),
    _since(
        "6.12",
        "5f60d5f6bbc1",
        "asm/unaligned.h has moved: include <linux/unaligned.h>",
        _header("asm/unaligned.h"),
    ),
    _before(
        "6.12",
        "5f60d5f6bbc1",
        "there is no linux/unaligned.h: include <asm/unaligned.h>",
        _header("linux/unaligned.h"),
    ),
    _before(
        "6.13",
        "908a1d775422",
        "there is no hrtimer_setup(): write hrtimer_init(), and set .function yourself",
        _gone("hrtimer_setup"),
    ),
    _since(
        "6.13",
        "cdd30ebb1b9f",
        'a namespace is a string: write MODULE_IMPORT_NS("NAME")',
        "undeclared here|expected ',' or ';' before",
        source=r"\bMODULE_IMPORT_NS\s*\(",
    ),
    _since(
        "6.13",
        "e70140ba0d2b",
        "remove_new is gone: remove returns nothing itself",
        _member("platform_driver", "remove_new"),
    ),
    _since(
        "6.15",
        "8fa7292fee5c",
        "del_timer() is called timer_delete(), del_timer_sync() timer_delete_sync()",
        _gone("del_timer", "del_timer_sync"),
    ),
    _since(
        "6.15",
        "9779489a31d7",
        "hrtimer_init() is gone: write hrtimer_setup(), which takes the function too",
        _gone("hrtimer_init"),
    ),
    _since(
        "6.16",
        "41cb08555c41",
        "from_timer() is called timer_container_of()",
        _gone("from_timer"),
    ),
    _before(
        "6.16",
        "41cb08555c41",
        "timer_container_of() is called from_timer()",
        _gone("timer_container_of"),
    ),
)
