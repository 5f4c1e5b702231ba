// SPDX-License-Identifier: Apache-2.0
/* Stands in for QEMU within its walls: carries out orders that pry, and tells what came of each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *named(long result)
{
	return result < 0 ? strerrorname_np(errno) : "done";
}

static void list(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			printf(" %s", entry->d_name);
	if (!dir)
		printf(" %s", strerrorname_np(errno));
}

static struct sockaddr_in local(const char *port, in_addr_t to)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	address.sin_port = htons(atoi(port));
	address.sin_addr.s_addr = to;
	return address;
}

static void dial(const char *port, in_addr_t to)
{
	struct sockaddr_in address = local(port, to);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	printf(" %s", named(connect(fd, (void *)&address, sizeof(address))));
}

static void dial_unix(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	int abstract = name[0] == '@';

	strcpy(address.sun_path + abstract, name + abstract);
	printf(" %s", named(connect(fd, (void *)&address, offsetof(struct sockaddr_un, sun_path) +
				    strlen(name) + !abstract)));
}

/* A server that says back what it hears, on a port that it tells. */
static void serve(void)
{
	struct sockaddr_in address = local("0", htonl(INADDR_LOOPBACK));
	socklen_t size = sizeof(address);
	int server = socket(AF_INET, SOCK_STREAM, 0);
	char text[4096];
	ssize_t got;

	bind(server, (void *)&address, sizeof(address));
	listen(server, 5);
	getsockname(server, (void *)&address, &size);
	printf(" %d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		int client = accept(server, NULL, NULL);

		while ((got = read(client, text, sizeof(text))) > 0)
			if (write(client, text, got) < 0)
				break;
		close(client);
	}
}

/* Keeps a file mapped, to be written. */
static void keep_mapped(const char *fd)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(fd), 0);

	page[0] = 'x';
	printf(" mapped\n");
	fflush(stdout);
	pause();
}

static void fork_all(void)
{
	int count = 0;
	pid_t pid;

	while (count < 5000 && (pid = fork()) >= 0) {
		if (pid == 0) {
			pause();
			_exit(0);
		}
		count++;
	}
	printf(" %d", count);
}

static void do_order(const char *order, const char *what)
{
	printf("%s %s:", order, what);
	if (!strcmp(order, "list"))
		list(what);
	else if (!strcmp(order, "read"))
		printf(" %s", named(open(what, O_RDONLY)));
	else if (!strcmp(order, "create"))
		printf(" %s", named(open(what, O_WRONLY | O_CREAT, 0600)));
	else if (!strcmp(order, "dial"))
		dial(what, htonl(INADDR_LOOPBACK));
	else if (!strcmp(order, "dial-out"))
		dial(what, inet_addr("192.0.2.1"));
	else if (!strcmp(order, "dial-unix"))
		dial_unix(what);
	else if (!strcmp(order, "kill"))
		printf(" %s", named(kill(atoi(what), 0)));
	else if (!strcmp(order, "unshare-user"))
		printf(" %s", named(unshare(CLONE_NEWUSER)));
	else if (!strcmp(order, "environment"))
		for (char **each = environ; *each; each++)
			printf(" %s", *each);
	else if (!strcmp(order, "serve"))
		serve();
	else if (!strcmp(order, "keep-mapped"))
		keep_mapped(what);
	else if (!strcmp(order, "fork-all"))
		fork_all();
	else if (!strcmp(order, "exit"))
		exit(atoi(what));
	else if (!strcmp(order, "die"))
		__builtin_trap();
	else if (!strcmp(order, "sleep"))
		pause();
	printf("\n");
	fflush(stdout);
}

static void tell_status(void)
{
	char line[256];
	FILE *file = fopen("/proc/self/status", "r");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "Uid", 3) || !strncmp(line, "CapEff", 6) ||
		    !strncmp(line, "CapBnd", 6) || !strncmp(line, "NoNewPrivs", 10))
			printf("%s", line);
	fflush(stdout);
}

static void grow(void)
{
	static char block[1 << 20];

	for (;;)
		if (write(1, block, sizeof(block)) < 0)
			exit(1);
}

int main(int argc, char **argv)
{
	/* What QEMU is asked before it is walled in. */
	if (argc > 1 && (!strcmp(argv[1], "-L") || !strcmp(argv[1], "--version")))
		return 0;
	for (int at = 1; at < argc; at++) {
		char *colon = strchr(argv[at], ':');

		if (!strcmp(argv[at], "status"))
			tell_status();
		else if (!strcmp(argv[at], "grow"))
			grow();
		else if (colon) {
			*colon = 0;
			do_order(argv[at], colon + 1);
		}
	}
	return 0;
}
