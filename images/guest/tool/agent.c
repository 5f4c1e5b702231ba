// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's end of adapters/agent.py: one process that runs step after step
 *
 * Where guests are emulated, a shell for each step costs more than the step. So
 * one process takes orders on stdin and answers on stdout, which are one SSH
 * channel, until stdin ends. All numbers are 32 bits, the lowest byte first.
 *
 * An order is its length, without these four bytes, and then texts that end
 * with a zero byte each: the marker before it and the marker behind it, or
 * nothing for none; a user's number, or nothing for root; how many words the
 * command has; the words. All that is left is the command's standard input. A
 * command whose first word is "sysio" is carried out in a process of its own,
 * but without execve(2).
 *
 * An answer is pieces, each a letter, a length and so many bytes: o and e of
 * the command's stdout and stderr, and at its end x with what waitpid(2) gave,
 * or f with why it could not be run. It has ended when its process has, and
 * nobody holds its stdout and stderr any more.
 *
 * A marker that cannot be written to the kernel's log is an f: what nobody can
 * find there must not be run. /run/lab/.step gets the number of the command's
 * first process, which leads a session, for lab-stacks.
 */

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tool.h"

enum {
	MAX_ORDER = 256 << 20,
	MAX_WORDS = 64,
	PIECE = 32768,
};

struct order {
	char *data;
	const char *begin;
	const char *end;
	const char *user;
	int count;
	char *words[MAX_WORDS + 1];
	const char *input;
	size_t input_size;
};

static int host_in, host_out;

/* The command's ends of these are closed by execve(2). */
struct pipes {
	int in[2], out[2], err[2];
};

static char *const environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", NULL,
};

bool write_all(int fd, const void *data, size_t size)
{
	const char *from = data;

	while (size) {
		ssize_t put = write(fd, from, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		from += put;
		size -= put;
	}
	return true;
}

static bool read_all(int fd, char *to, size_t size)
{
	while (size) {
		ssize_t got = read(fd, to, size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		to += got;
		size -= got;
	}
	return true;
}

/* Out of the way of the commands' descriptors, and closed by execve(2). */
static int put_aside(int fd)
{
	int aside = fcntl(fd, F_DUPFD_CLOEXEC, 100);

	if (aside < 0)
		die_of("fcntl");
	close(fd);
	return aside;
}

/* ---- answers ----------------------------------------------------------- */

static void tell(char letter, const void *data, uint32_t size)
{
	char head[5] = { letter };

	memcpy(head + 1, &size, sizeof(size));
	/* Without the host there is nobody to run anything for. */
	if (!write_all(host_out, head, sizeof(head)) ||
	    !write_all(host_out, data, size))
		exit(EXIT_FAILURE);
}

static void tell_failure(const char *what)
{
	char text[200];
	int size = snprintf(text, sizeof(text), "%s: %s", what,
			    strerror(errno));

	tell('f', text, size);
}

/* ---- orders ------------------------------------------------------------ */

/* The text at *at, behind which *at is then; NULL if it has no end. */
static char *take_text(char **at, const char *end)
{
	char *text = *at, *zero = memchr(text, '\0', end - text);

	if (!zero)
		return NULL;
	*at = zero + 1;
	return text;
}

static bool parse_order(struct order *order, size_t size)
{
	char *at = order->data;
	const char *end = order->data + size, *words;
	long long count;
	int i;

	order->begin = take_text(&at, end);
	order->end = order->begin ? take_text(&at, end) : NULL;
	order->user = order->end ? take_text(&at, end) : NULL;
	words = order->user ? take_text(&at, end) : NULL;
	if (!words || !parse_number(words, 10, &count) || count < 1 ||
	    count > MAX_WORDS)
		return false;
	order->count = count;
	for (i = 0; i < order->count; i++) {
		order->words[i] = take_text(&at, end);
		if (!order->words[i])
			return false;
	}
	order->words[order->count] = NULL;
	order->input = at;
	order->input_size = end - at;
	return true;
}

/* Blocks for the next order; false when there will be none. */
static bool take_order(struct order *order)
{
	uint32_t size;

	if (!read_all(host_in, (char *)&size, sizeof(size)))
		return false;
	order->data = size <= MAX_ORDER ? malloc(size + 1) : NULL;
	if (!order->data)
		die(EXIT_FAILURE, "no room for an order of %u bytes", size);
	return read_all(host_in, order->data, size) && parse_order(order, size);
}

/* ---- the command ------------------------------------------------------- */

static void note_process(void)
{
	char number[16];
	int fd = open("/run/lab/.step", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
		      0644);

	/* Not on a full disk, for one. */
	if (fd < 0)
		return;
	snprintf(number, sizeof(number), "%d\n", (int)getpid());
	write_all(fd, number, strlen(number));
	close(fd);
}

static void __attribute__((noreturn))
become_command(const struct order *order, const struct pipes *pipes)
{
	long long id;

	environ = (char **)environment;
	signal(SIGPIPE, SIG_DFL);
	setsid();
	dup2(pipes->in[0], STDIN_FILENO);
	dup2(pipes->out[1], STDOUT_FILENO);
	dup2(pipes->err[1], STDERR_FILENO);
	note_process();
	if (*order->user) {
		if (!parse_number(order->user, 10, &id) || id < 0)
			die(EXIT_FAILURE, "no number of a user: %s", order->user);
		if (become(id))
			die_of("setresuid");
	}
	if (strcmp(order->words[0], "sysio")) {
		execvp(order->words[0], order->words);
		die_of(order->words[0]);
	}
	/* As after execve(2): whoever waits for their end must not wait for us. */
	close(pipes->in[0]);
	close(pipes->in[1]);
	close(pipes->out[0]);
	close(pipes->out[1]);
	close(pipes->err[0]);
	close(pipes->err[1]);
	close(host_in);
	close(host_out);
	exit(sysio(order->count, (char **)order->words));
}

static bool open_pipes(struct pipes *pipes)
{
	return !pipe2(pipes->in, O_CLOEXEC) && !pipe2(pipes->out, O_CLOEXEC) &&
	       !pipe2(pipes->err, O_CLOEXEC);
}

/* Sends on what is there; false at its end. */
static bool pass_on(int fd, char letter)
{
	static char piece[PIECE];
	ssize_t got = read(fd, piece, sizeof(piece));

	if (got > 0)
		tell(letter, piece, got);
	return got > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN));
}

/* Gives the command as much of its input as it takes; false at its end. */
static bool feed(int fd, const struct order *order, size_t *fed)
{
	ssize_t put = write(fd, order->input + *fed, order->input_size - *fed);

	if (put > 0)
		*fed += put;
	else if (put < 0 && errno != EINTR && errno != EAGAIN)
		return false;	/* it has closed its end */
	return *fed < order->input_size;
}

static void close_it(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Until nobody can write to its stdout and stderr any more. */
static void attend(const struct order *order, struct pipes *pipes)
{
	size_t fed = 0;

	fcntl(pipes->in[1], F_SETFL, O_NONBLOCK);
	if (!order->input_size)
		close_it(&pipes->in[1]);
	while (pipes->out[0] >= 0 || pipes->err[0] >= 0) {
		struct pollfd polled[] = {
			{ .fd = pipes->out[0], .events = POLLIN },
			{ .fd = pipes->err[0], .events = POLLIN },
			{ .fd = pipes->in[1], .events = POLLOUT },
		};

		if (poll(polled, 3, -1) < 0 && errno != EINTR)
			die_of("poll");
		if (polled[0].revents && !pass_on(pipes->out[0], 'o'))
			close_it(&pipes->out[0]);
		if (polled[1].revents && !pass_on(pipes->err[0], 'e'))
			close_it(&pipes->err[0]);
		if (polled[2].revents && !feed(pipes->in[1], order, &fed))
			close_it(&pipes->in[1]);
	}
}

static bool mark(const char *text)
{
	static int kmsg = -1;
	char line[512];
	int size = snprintf(line, sizeof(line), "%s\n", text);

	if (!*text)
		return true;
	if (kmsg < 0)
		kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (kmsg >= 0 && kmsg < 100)
		kmsg = put_aside(kmsg);
	errno = kmsg < 0 ? errno : EMSGSIZE;
	/* In one write: each is a record of its own. */
	return kmsg >= 0 && size < (int)sizeof(line) &&
	       write(kmsg, line, size) == size;
}

/* Runs the command; false, and errno, where there is no process for it. */
static bool run_command(const struct order *order, int *status)
{
	struct pipes pipes = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	pid_t child = open_pipes(&pipes) ? fork() : -1;
	int number = errno;

	if (!child)
		become_command(order, &pipes);
	close_it(&pipes.in[0]);
	close_it(&pipes.out[1]);
	close_it(&pipes.err[1]);
	if (child > 0)
		attend(order, &pipes);
	close_it(&pipes.in[1]);
	close_it(&pipes.out[0]);
	close_it(&pipes.err[0]);
	while (child > 0 && waitpid(child, status, 0) < 0)
		if (errno != EINTR)
			return false;
	errno = number;
	return child > 0;
}

static void carry_out(const struct order *order)
{
	int status = 0;

	if (!mark(order->begin)) {
		tell_failure("the marker before it");
		return;
	}
	if (!run_command(order, &status))
		tell_failure("a process for it");
	else if (!mark(order->end))
		tell_failure("the marker behind it");
	else
		tell('x', &status, sizeof(status));
}

/* ---- all of it --------------------------------------------------------- */

int serve(void)
{
	struct order order;
	const char *home = getenv("HOME");

	host_in = put_aside(STDIN_FILENO);
	host_out = put_aside(STDOUT_FILENO);
	/* The lowest that are free: stdin and stdout. */
	if (open("/dev/null", O_RDWR) < 0 || open("/dev/null", O_RDWR) < 0)
		die_of("open");
	signal(SIGPIPE, SIG_IGN);
	if (home && chdir(home))
		die_of("chdir");
	while (take_order(&order)) {
		carry_out(&order);
		free(order.data);
	}
	return EXIT_SUCCESS;
}
