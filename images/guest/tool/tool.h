/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the guest's one program have in common. */

#ifndef LAB_TOOL_H
#define LAB_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

void die(int status, const char *format, ...)
	__attribute__((noreturn, format(printf, 2, 3)));
void die_of(const char *call) __attribute__((noreturn));
int become(long long id);
bool parse_number(const char *from, int base, long long *number);
bool write_all(int fd, const void *data, size_t size);

/* What the program does with a command line; the status to exit with. */
int sysio(int argc, char **argv);

int list_names(void);
int list_sections(const char *module);
int serve(void);

#endif
