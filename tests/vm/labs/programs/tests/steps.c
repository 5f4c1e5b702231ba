// SPDX-License-Identifier: GPL-2.0
/* Prints TAP as a kselftest does: one test for each argument, which is its outcome. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	int i, status = 0;

	printf("TAP version 13\n1..%d\n", argc - 1);
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "crash"))
			__builtin_trap();
		if (!strcmp(argv[i], "fail"))
			printf("# expected 4, found \033[31m5\n");
		status |= !strcmp(argv[i], "fail");
		printf("%s %d %s%s\n", strcmp(argv[i], "fail") ? "ok" : "not ok",
		       i, argv[i], strcmp(argv[i], "skip") ? "" : " # SKIP not here");
	}
	return status;
}
