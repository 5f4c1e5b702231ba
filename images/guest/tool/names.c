// SPDX-License-Identifier: GPL-2.0
/*
 * The names that a module can leave behind, as plan/leftovers.py takes them
 *
 * Folders are read and nothing in them is touched: even lstat(2) of a file in
 * /proc looks into the module that made it (Linux 5.10, fs/proc/inode.c,
 * proc_get_inode(): de->proc_ops), and where that is gone it is an oops. The
 * kernel's lists come last: reading one that has a name of such a module in it
 * can be an oops too, which ends this process. What was printed has left it by
 * then.
 */

#define _GNU_SOURCE

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tool.h"

enum {
	MAX_PATH = 4096,
	ROOM = 65536,
};

/* As getdents64(2) gives it (Linux, include/linux/dirent.h). */
struct entry {
	unsigned long long inode;
	long long offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

/*
 * A star stands for one name that begins with no dot, as in a shell. Links to
 * folders are not followed but where they are named here.
 */
static const char *const places[] = {
	"/proc/[!0-9]*", "/proc/.*", "/proc/net/*", "/proc/net/stat/*",
	"/proc/irq/*/*", "/proc/fs/*", "/proc/bus/*", "/proc/driver/*",
	"/proc/tty/driver/*", "/proc/scsi/*", "/proc/acpi/*", "/proc/asound/*",
	"/dev/*", "/dev/.*", "/dev/*/*",
	"/sys/module/*", "/sys/class/*", "/sys/class/*/*", "/sys/bus/*",
	"/sys/bus/*/drivers/*", "/sys/bus/*/devices/*", "/sys/fs/*",
	"/sys/fs/*/*", "/sys/kernel/*", "/sys/kernel/slab/*",
	"/sys/kernel/debug/*", "/sys/firmware/*", "/sys/devices/*",
};

/*
 * A cache that shares the slabs of another is a link, and the link outlives it
 * (Linux 6.1, mm/slub.c, sysfs_slab_alias()).
 */
static const char slabs[] = "/sys/kernel/slab/";

static const char *const lists[] = {
	"/proc/devices", "/proc/filesystems", "/proc/iomem", "/proc/ioports",
};

static const char *const sysctls[] = {
	"/proc/sys/*", "/proc/sys/*/*", "/proc/sys/dev/*/*",
	"/proc/sys/net/*/*",
};

static char out[ROOM];
static size_t pending;

static void flush_out(void)
{
	if (!write_all(STDOUT_FILENO, out, pending))
		die_of("stdout");
	pending = 0;
}

static void put_record(const char *folder, const char *name)
{
	size_t most = strlen(folder) + strlen(name) + 1;

	if (pending + most > sizeof(out))
		flush_out();
	if (most <= sizeof(out))
		pending += snprintf(out + pending, sizeof(out) - pending,
				    "%s%s", folder, name) + 1;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool fits(size_t length, const char *name)
{
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	if (length == 2)	/* .* */
		return *name == '.';
	if (*name == '.')
		return false;
	return length == 1 || !is_digit(*name);	/* [!0-9]* */
}

static void list_place(char *folder, const char *rest);

/* One name in @folder that fits; @rest is what the pattern has behind it. */
static void take_entry(char *folder, const struct entry *entry,
		       const char *rest)
{
	size_t length = strlen(folder);

	if (!*rest) {
		if (entry->type != DT_LNK || strcmp(folder, slabs))
			put_record(folder, entry->name);
		return;
	}
	if (entry->type != DT_DIR && entry->type != DT_UNKNOWN)
		return;
	if (length + strlen(entry->name) + 1 > MAX_PATH)
		return;
	strcpy(folder + length, entry->name);
	list_place(folder, rest);
	folder[length] = '\0';
}

/* Lists what fits the pattern @rest, which begins with a slash, in @folder. */
static void list_place(char *folder, const char *rest)
{
	size_t before = strlen(folder), plain = strcspn(rest, "*[."), length;
	_Alignas(struct entry) char room[8192];
	long got, at;
	int fd;

	if (before + plain + 1 > MAX_PATH)
		return;
	memcpy(folder + before, rest, plain);
	folder[before + plain] = '\0';
	rest += plain;
	length = strcspn(rest, "/");

	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (fd >= 0 &&
	       (got = syscall(SYS_getdents64, fd, room, sizeof(room))) > 0) {
		for (at = 0; at < got;) {
			const struct entry *entry = (void *)(room + at);

			if (fits(length, entry->name))
				take_entry(folder, entry, rest + length);
			at += entry->length;
		}
	}
	if (fd >= 0)
		close(fd);
	folder[before] = '\0';
}

static void list_places(const char *const *first, size_t count)
{
	char folder[MAX_PATH + 1] = "";
	size_t i;

	for (i = 0; i < count; i++)
		list_place(folder, first[i]);
}

/* Copies a file of the kernel's to stdout; nothing, where there is none. */
static void copy_file(const char *path)
{
	char bytes[8192];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	while (fd >= 0 && (got = read(fd, bytes, sizeof(bytes))) > 0)
		if (!write_all(STDOUT_FILENO, bytes, got))
			die_of("stdout");
	if (fd >= 0)
		close(fd);
}

int list_names(void)
{
	size_t i;

	copy_file("/proc/sys/kernel/tainted");
	list_places(places, sizeof(places) / sizeof(*places));
	list_places(sysctls, sizeof(sysctls) / sizeof(*sysctls));
	put_record("", "");
	flush_out();
	for (i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		copy_file(lists[i]);
		put_record("", "");
		flush_out();
	}
	return 0;
}

/*
 * Where the code of a module that is loaded lies: a line for each section, its
 * name and its address.
 *
 * Each file is read at once. Since Linux 5.8 (ed66f991bb19) a read of less gets
 * no more than that, and where 11990a5bd7e5 (5.9) is missing, as in Ubuntu's
 * 5.3, reading it byte by byte overruns a buffer of the kernel's.
 */
int list_sections(const char *module)
{
	_Alignas(struct entry) char room[8192];
	char folder[MAX_PATH], path[MAX_PATH + 512], address[64];
	long got, at;
	int fd;

	snprintf(folder, sizeof(folder), "/sys/module/%s/sections", module);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	while ((got = syscall(SYS_getdents64, fd, room, sizeof(room))) > 0) {
		for (at = 0; at < got;) {
			const struct entry *entry = (void *)(room + at);
			int file;
			ssize_t size;

			at += entry->length;
			if (*entry->name != '.' || !strstr(entry->name, "text"))
				continue;
			snprintf(path, sizeof(path), "%s/%s", folder,
				 entry->name);
			file = open(path, O_RDONLY | O_CLOEXEC);
			size = file < 0 ? 0 : read(file, address,
						   sizeof(address) - 1);
			if (size > 0) {
				address[size] = '\0';
				printf("%s %.*s\n", entry->name,
				       (int)strcspn(address, "\n"), address);
			}
			if (file >= 0)
				close(file);
		}
	}
	close(fd);
	return fflush(stdout) ? 1 : 0;
}
