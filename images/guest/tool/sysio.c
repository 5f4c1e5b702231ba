// SPDX-License-Identifier: GPL-2.0
/*
 * sysio - exact system calls, for scenarios that mean one
 *
 * Shells and tools seek, retry, stat, map and guess before they read. This
 * program makes the calls that it is told to make, no more, and says what each
 * of them gave. It is linked statically, so that one binary serves any guest:
 *
 *	gcc -static -O2 -Wall -Wextra -Werror -o sysio sysio.c names.c agent.c
 *
 * There are two ways to use it: words, and raw.
 *
 * WORDS
 *
 *	sysio WORD...
 *
 * The words are checked first, all of them, and then carried out from left to
 * right in one process. Each prints one line on stdout, at once: its name and
 * what the call returned, or the name of the error. A call that fails is an
 * answer like any other, and the next word follows.
 *
 *	$ sysio open=/proc/helloworld read=5 badread=1 seek=-1,cur read=64
 *	open 3
 *	read 5 "Hello"
 *	badread EFAULT
 *	seek 4
 *	read 8 "oWorld!\n"
 *
 * In an answer, data stands between quotes, with \n \t \r \" \\ and three
 * octal digits (\000) for what is not printable ASCII. TEXT in a word takes
 * the same and \xHH; a comma or an at sign that is data is \054 or \100 (only
 * the last @ counts, and only if a number follows). N, OFF and the like are
 * numbers in C's notation, N up to 16 MiB. " overrun=K" behind an answer says
 * that the kernel wrote K bytes more than were asked for, into the guard behind
 * the buffer.
 *
 * Each word, an answer that it can give, and what it does:
 *
 * open=PATH[:FLAGS]	open 3
 *	FLAGS: r (default), w or rw, then any of t O_TRUNC, a O_APPEND,
 *	n O_NONBLOCK, c O_CREAT. The newest file is the current one, which the
 *	words below use.
 * use=N		use 0
 *	makes the N-th file current, counted from 0 in the order of opening
 * dup			dup 4
 *	one more descriptor of the current file, which becomes current
 * close		close 0
 *	the file stays current, so that the words behind get EBADF
 * read=N[@OFF]		read 3 "abc"
 *	read(2), or pread(2) with @OFF
 * readall=N		readall 12 "HelloWorld!\n"
 *	read(2) of N bytes until it gives 0. Or "readall EIO after 5", or
 *	"readall endless" after 64 KiB or 100000 calls.
 * readv=N,N...		readv 13 "HelloWorld!\n"
 * write=TEXT[@OFF]	write 3
 *	write(2), or pwrite(2) with @OFF
 * fill=N[@OFF]		write 1024
 *	the same with N times an x
 * writev=TEXT,TEXT...	writev 6
 * seek=OFF[,HOW]	seek 12
 *	HOW: set (default), cur, end, data, hole
 * stat[=PATH]		stat mode=0100644 size=0 uid=0 gid=0 nlink=1
 *	fstat(2) of the current file, or stat(2) of PATH
 * badread=N		badread EFAULT
 * badwrite=N		badwrite EFAULT
 *	read(2) and write(2) with memory that is not there
 * halfread=G,N		halfread 5 "Hello"
 *	read(2) of N bytes into memory of which only the first G are there
 * halfwrite=TEXT,N	halfwrite EFAULT
 *	write(2) of N bytes: TEXT, then memory that is not there
 * sendfile=N		sendfile 12 "HelloWorld!\n"
 *	one sendfile(2), to a temporary file
 * splice=N		splice 12 "HelloWorld!\n"
 *	one splice(2), to a pipe
 * poll			poll in out
 *	for in, out and pri, without waiting; "poll none"
 * ioctl		ioctl ENOTTY
 *	with a number that nobody knows
 * mmap=N		mmap ok
 *	shared, for reading
 * truncate=N		truncate 0
 * chmod=MODE		chmod 0
 * chown=UID,GID	chown 0
 *	ftruncate(2), fchmod(2) with MODE in octal, fchown(2)
 * uid=N		uid 1000
 *	becomes user and group N for good, without other groups
 * say=TEXT
 *	prints TEXT and a newline, for marks
 * sleep=MS		sleep 100
 * pause		pause
 *	answers, then waits for SIGTERM or SIGINT
 * forkhold		forkhold ok
 *	a child that holds every open file until this process ends
 * storm=MS[,READERS,WRITERS]	storm ok
 *	3 and 2 processes, if not said otherwise, that open the current path,
 *	read, pread or write, and close, all at once. Each value written is one
 *	letter, as often as belongs to that letter; each read must give one
 *	whole value (with no writers: what the file held before), and no call
 *	more than it was asked for. If not: "storm overlong=K torn=M errors=E
 *	died=D", with the first error on stderr. A file that goes away (ENOENT,
 *	ENODEV, EIO) is no error, "storm ok gone", but one that comes back with
 *	contents of its own is torn. "storm idle": not one call came through.
 * tally=MS[,READERS]	tally ok
 *	4 processes, if not said otherwise, that open the current path, read it
 *	to its end with buffers of 1 to 24 bytes, and close. It must give a
 *	number each time, none twice and none left out, so nobody else shall
 *	read it. If not: "tally repeated=K missing=M errors=E died=D". Gone and
 *	idle as above; what is lost with a file that goes away is not missing.
 *
 * Exit status: 0, whatever the calls gave; 64 for a word that is unknown or
 * malformed, with a line on stderr, before anything was done; 1 if stdout or
 * memory fails.
 *
 * RAW
 *
 *	sysio --read [--size N] [--offset O] [--limit BYTES] PATH
 *
 * open(2) to read, then read(2) with a buffer of N bytes (65536) until it
 * gives 0; with --offset one pread(2) instead. The bytes go to stdout as they
 * are. Exit status 3, after the first BYTES (1 MiB) of them, if there are more.
 *
 *	sysio --write [--offset O] [--append] PATH
 *
 * Takes all of stdin, which may be nothing, and makes one write(2) of it, or
 * one pwrite(2), after open(2) with O_TRUNC, or O_APPEND instead. Prints the
 * count that it returned.
 *
 *	sysio --load PATH [PARAMETERS [NAME]]
 *	sysio --unload NAME
 *
 * finit_module(2) of the file, or delete_module(2) of the module without
 * waiting: what insmod and rmmod do, but for their own checks and retries. With
 * the module's NAME it says where the code lies that was loaded, see names.c.
 *
 *	sysio --session FILE COMMAND [ARGUMENT...]
 *
 * Runs the command in a session of its own, whose number it leaves in FILE.
 * Ends with the command's status, or 128 and the number of the signal that
 * ended it.
 *
 *	sysio --user N COMMAND [ARGUMENT...]
 *
 * Becomes user and group N, without other groups, and then the command.
 *
 *	sysio --wake SECONDS FILE
 *
 * Sets the clock to so many seconds since 1970, and stirs the 64 bytes that it
 * reads from stdin into the kernel's random numbers. Prints what is in FILE, and
 * the kernel's release.
 *
 *	sysio --call ADDRESS PORT COMMAND [ARGUMENT...]
 *
 * Connects to a TCP port, and becomes the command, in a session of its own and
 * with the connection as its stdin and stdout.
 *
 *	sysio --names
 *	sysio --agent
 *
 * See names.c and agent.c.
 *
 * Exit status 1 if a call failed ("sysio: open: EACCES (Permission denied)"),
 * 64 for bad usage.
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/random.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

enum {
	EXIT_ENDLESS = 3,
	EXIT_USAGE = 64,

	GUARD = 4096,			/* bytes watched behind a buffer */
	MAX_BUFFER = 16 << 20,
	MAX_READALL = 64 << 10,
	MAX_READALL_CALLS = 100000,
	MAX_FILES = 64,
	MAX_PARTS = 16,
	MAX_PROCESSES = 64,
};

/* ---- leaving ----------------------------------------------------------- */

void die(int status, const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("sysio: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

static void *allocate(size_t size)
{
	void *memory = malloc(size ? size : 1);

	if (!memory)
		die(EXIT_FAILURE, "out of memory");
	return memory;
}

/* ---- names of errors --------------------------------------------------- */

#define NAME(number) { number, #number }

static const struct {
	int number;
	const char *name;
} error_names[] = {
	NAME(EPERM), NAME(ENOENT), NAME(ESRCH), NAME(EINTR), NAME(EIO),
	NAME(ENXIO), NAME(E2BIG), NAME(ENOEXEC), NAME(EBADF), NAME(ECHILD),
	NAME(EAGAIN), NAME(ENOMEM), NAME(EACCES), NAME(EFAULT), NAME(ENOTBLK),
	NAME(EBUSY), NAME(EEXIST), NAME(EXDEV), NAME(ENODEV), NAME(ENOTDIR),
	NAME(EISDIR), NAME(EINVAL), NAME(ENFILE), NAME(EMFILE), NAME(ENOTTY),
	NAME(ETXTBSY), NAME(EFBIG), NAME(ENOSPC), NAME(ESPIPE), NAME(EROFS),
	NAME(EMLINK), NAME(EPIPE), NAME(EDOM), NAME(ERANGE), NAME(EDEADLK),
	NAME(ENAMETOOLONG), NAME(ENOLCK), NAME(ENOSYS), NAME(ENOTEMPTY),
	NAME(ELOOP), NAME(ENOMSG), NAME(EIDRM), NAME(ENOSTR), NAME(ENODATA),
	NAME(ETIME), NAME(ENOSR), NAME(EREMOTE), NAME(ENOLINK), NAME(EPROTO),
	NAME(EBADMSG), NAME(EOVERFLOW), NAME(EBADFD), NAME(EILSEQ),
	NAME(EUSERS), NAME(ENOTSOCK), NAME(EDESTADDRREQ), NAME(EMSGSIZE),
	NAME(EPROTOTYPE), NAME(ENOPROTOOPT), NAME(EPROTONOSUPPORT),
	NAME(EOPNOTSUPP), NAME(EAFNOSUPPORT), NAME(EADDRINUSE),
	NAME(EADDRNOTAVAIL), NAME(ENETDOWN), NAME(ENETUNREACH),
	NAME(ECONNABORTED), NAME(ECONNRESET), NAME(ENOBUFS), NAME(EISCONN),
	NAME(ENOTCONN), NAME(ESHUTDOWN), NAME(ETIMEDOUT), NAME(ECONNREFUSED),
	NAME(EHOSTDOWN), NAME(EHOSTUNREACH), NAME(EALREADY), NAME(EINPROGRESS),
	NAME(ESTALE), NAME(EDQUOT), NAME(ENOMEDIUM), NAME(EMEDIUMTYPE),
	NAME(ECANCELED), NAME(ENOKEY), NAME(EKEYEXPIRED), NAME(EKEYREVOKED),
	NAME(EKEYREJECTED), NAME(EOWNERDEAD), NAME(ENOTRECOVERABLE),
};

static const char *error_name(int number)
{
	static char unknown[16];
	size_t i;

	for (i = 0; i < sizeof(error_names) / sizeof(*error_names); i++)
		if (error_names[i].number == number)
			return error_names[i].name;

	snprintf(unknown, sizeof(unknown), "E%d", number);
	return unknown;
}

void die_of(const char *call)
{
	int number = errno;

	die(EXIT_FAILURE, "%s: %s (%s)", call, error_name(number),
	    strerror(number));
}

/* ---- data as text ------------------------------------------------------ */

struct text {
	char *bytes;
	size_t length;
};

/* Bytes that have an escape of their own, and its letter. */
static const char escape_bytes[] = "\n\t\r\"\\";
static const char escape_letters[] = "ntr\"\\";

static void print_quoted(const void *data, size_t length)
{
	const unsigned char *bytes = data;
	const char *found;
	size_t i;

	putchar('"');
	for (i = 0; i < length; i++) {
		found = bytes[i] ? strchr(escape_bytes, bytes[i]) : NULL;
		if (found)
			printf("\\%c", escape_letters[found - escape_bytes]);
		else if (bytes[i] >= ' ' && bytes[i] < 0x7f)
			putchar(bytes[i]);
		else
			printf("\\%03o", bytes[i]);
	}
	putchar('"');
}

/* Takes up to @most digits of @base from @from, and says how many. */
static int take_digits(const char *from, int base, int most, char *byte)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *found;
	int value = 0;
	int taken;

	for (taken = 0; taken < most && from[taken]; taken++) {
		found = strchr(digits, from[taken]);
		if (!found || (found - digits) % 16 >= base)
			break;
		value = value * base + (found - digits) % 16;
	}
	*byte = value;
	return taken;
}

/* Takes one escape, behind its backslash, and says how long it is: 0 if it
 * is none.
 */
static int take_escape(const char *from, char *byte)
{
	const char *found = *from ? strchr(escape_letters, *from) : NULL;
	int taken;

	if (found) {
		*byte = escape_bytes[found - escape_letters];
		return 1;
	}
	if (*from == 'x') {
		taken = take_digits(from + 1, 16, 2, byte);
		return taken ? taken + 1 : 0;
	}
	return take_digits(from, 8, 3, byte);
}

/* Makes bytes of the @length characters at @from; false for a bad escape. */
static bool unescape(const char *from, size_t length, struct text *text)
{
	const char *end = from + length;
	int taken;

	text->bytes = allocate(length + 1);
	text->length = 0;
	while (from < end) {
		char byte = *from++;

		if (byte == '\\') {
			taken = take_escape(from, &byte);
			if (!taken || from + taken > end)
				return false;
			from += taken;
		}
		text->bytes[text->length++] = byte;
	}
	text->bytes[text->length] = '\0';
	return true;
}

/* ---- buffers with a guard ---------------------------------------------- */

struct buffer {
	unsigned char *bytes;
	size_t size;
};

static unsigned char guard_byte(size_t i)
{
	return 0xa5 ^ (i * 29);
}

static struct buffer new_buffer(size_t size)
{
	struct buffer buffer = { allocate(size + GUARD), size };
	size_t i;

	memset(buffer.bytes, 0, size);
	for (i = 0; i < GUARD; i++)
		buffer.bytes[size + i] = guard_byte(i);
	return buffer;
}

/* How many bytes behind the buffer were written to. */
static size_t overrun(const struct buffer *buffer)
{
	size_t i = GUARD;

	while (i && buffer->bytes[buffer->size + i - 1] == guard_byte(i - 1))
		i--;
	return i;
}

/* What a call that returned @count can have put there. */
static size_t filled(const struct buffer *buffer, ssize_t count)
{
	size_t most = buffer->size + GUARD;

	return (size_t)count < most ? (size_t)count : most;
}

/*
 * Memory of which the first @good bytes are there and the others, at least
 * @count, are not.
 */
static char *half_memory(size_t good, size_t count)
{
	size_t page = sysconf(_SC_PAGESIZE);
	size_t head = (good + page - 1) / page * page;
	size_t tail = (count + page) / page * page;
	char *memory = mmap(NULL, head + tail, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED ||
	    (head && mprotect(memory, head, PROT_READ | PROT_WRITE)))
		die_of("mmap");
	return memory + head - good;
}

/* ---- words: what they are made of -------------------------------------- */

/* How the part behind the '=' reads. */
enum syntax {
	NOTHING,
	PATH_FLAGS,		/* PATH[:FLAGS] */
	MAYBE_PATH,		/* [PATH] */
	NUMBER,			/* N */
	NUMBERS,		/* N[,N...] */
	NUMBER_AT,		/* N[@OFF] */
	OCTAL,			/* MODE */
	TEXT,			/* TEXT */
	TEXTS,			/* TEXT[,TEXT...] */
	TEXT_AT,		/* TEXT[@OFF] */
	TEXT_NUMBER,		/* TEXT,N */
	OFFSET_HOW,		/* OFF[,HOW] */
};

struct word;

/* A word of the command line, taken apart. */
struct step {
	const struct word *word;
	char *path;
	int flags;			/* for open(2), or lseek's whence */
	struct text texts[MAX_PARTS];
	long long numbers[MAX_PARTS];
	int count;			/* of texts or numbers */
	bool has_offset;
	long long offset;
};

struct word {
	const char *name;
	enum syntax syntax;
	int least, most;		/* how many numbers or texts */
	void (*run)(const struct step *step);
};

/* The files that were opened, and the current one. */
static struct {
	int fd;
	const char *path;
} files[MAX_FILES];
static int file_count;
static int current = -1;

static int fd_now(void)
{
	return current < 0 ? -1 : files[current].fd;
}

static const char *path_now(void)
{
	return current < 0 ? "" : files[current].path;
}

/* The children that hold the files, until the other end of the pipe closes. */
static pid_t holders[MAX_PROCESSES];
static int holder_count;
static int holder_pipe[2];

/* ---- words: answers ---------------------------------------------------- */

static void answer(const struct step *step, long long result)
{
	if (result < 0)
		printf("%s %s\n", step->word->name, error_name(errno));
	else
		printf("%s %lld\n", step->word->name, result);
}

static void answer_ok(const struct step *step, bool ok)
{
	printf("%s %s\n", step->word->name, ok ? "ok" : error_name(errno));
}

static void answer_data(const char *name, long long result, const void *data,
			size_t length, size_t over)
{
	if (result < 0) {
		printf("%s %s", name, error_name(errno));
	} else {
		printf("%s %lld ", name, result);
		print_quoted(data, length);
	}
	if (over)
		printf(" overrun=%zu", over);
	putchar('\n');
}

static void answer_buffer(const struct step *step, ssize_t result,
			  struct buffer *buffer)
{
	answer_data(step->word->name, result, buffer->bytes,
		    result < 0 ? 0 : filled(buffer, result), overrun(buffer));
	free(buffer->bytes);
}

/* ---- words: files ------------------------------------------------------ */

static void add_file(const struct step *step, int fd, const char *path)
{
	if (fd >= 0) {
		current = file_count++;
		files[current].fd = fd;
		files[current].path = path;
	}
	answer(step, fd);
}

static void run_open(const struct step *step)
{
	add_file(step, open(step->path, step->flags, 0666), step->path);
}

static void run_dup(const struct step *step)
{
	add_file(step, dup(fd_now()), path_now());
}

static void run_use(const struct step *step)
{
	if (step->numbers[0] < file_count) {
		current = step->numbers[0];
		answer(step, current);
	} else {
		errno = EBADF;
		answer(step, -1);
	}
}

static void run_close(const struct step *step)
{
	int result = close(fd_now());

	if (!result)
		files[current].fd = -1;
	answer(step, result);
}

/* ---- words: reading ---------------------------------------------------- */

static void run_read(const struct step *step)
{
	struct buffer buffer = new_buffer(step->numbers[0]);
	ssize_t result;

	if (step->has_offset)
		result = pread(fd_now(), buffer.bytes, buffer.size,
			       step->offset);
	else
		result = read(fd_now(), buffer.bytes, buffer.size);
	answer_buffer(step, result, &buffer);
}

static void run_readall(const struct step *step)
{
	struct buffer buffer = new_buffer(step->numbers[0]);
	struct buffer all = new_buffer(MAX_READALL);
	size_t total = 0;
	ssize_t result = 1;
	int calls;

	for (calls = 0; calls < MAX_READALL_CALLS; calls++) {
		result = read(fd_now(), buffer.bytes, buffer.size);
		if (result <= 0)
			break;
		if (total + filled(&buffer, result) > MAX_READALL)
			break;
		memcpy(all.bytes + total, buffer.bytes,
		       filled(&buffer, result));
		total += filled(&buffer, result);
	}

	if (result > 0)
		printf("readall endless\n");
	else if (result < 0)
		printf("readall %s after %zu\n", error_name(errno), total);
	else
		answer_data("readall", total, all.bytes, total,
			    overrun(&buffer));
	free(buffer.bytes);
	free(all.bytes);
}

static void run_readv(const struct step *step)
{
	struct buffer buffers[MAX_PARTS];
	struct iovec parts[MAX_PARTS];
	char *all;
	size_t length = 0;
	size_t over = 0;
	size_t all_size = 0;
	ssize_t result;
	int i;

	for (i = 0; i < step->count; i++) {
		buffers[i] = new_buffer(step->numbers[i]);
		parts[i].iov_base = buffers[i].bytes;
		parts[i].iov_len = buffers[i].size;
		all_size += buffers[i].size;
	}
	result = readv(fd_now(), parts, step->count);
	if (result < 0)
		all_size = 0;
	else if ((size_t)result < all_size)
		all_size = result;

	all = allocate(all_size);
	for (i = 0; i < step->count; i++) {
		size_t take = all_size - length;

		if (take > buffers[i].size)
			take = buffers[i].size;
		memcpy(all + length, buffers[i].bytes, take);
		length += take;
		over += overrun(&buffers[i]);
		free(buffers[i].bytes);
	}
	answer_data("readv", result, all, length, over);
	free(all);
}

static void run_badread(const struct step *step)
{
	size_t count = step->numbers[0];

	answer(step, read(fd_now(), half_memory(0, count), count));
}

static void run_halfread(const struct step *step)
{
	size_t good = step->numbers[0];
	size_t count = step->numbers[1];
	char *memory = half_memory(good, count);
	ssize_t result = read(fd_now(), memory, count);

	answer_data("halfread", result, memory,
		    result < 0 || (size_t)result < good ? (size_t)result : good,
		    0);
}

/* ---- words: writing ---------------------------------------------------- */

static ssize_t write_at(const struct step *step, const void *data, size_t size)
{
	if (step->has_offset)
		return pwrite(fd_now(), data, size, step->offset);
	return write(fd_now(), data, size);
}

static void answer_write(ssize_t result)
{
	if (result < 0)
		printf("write %s\n", error_name(errno));
	else
		printf("write %zd\n", result);
}

static void run_write(const struct step *step)
{
	answer_write(write_at(step, step->texts[0].bytes,
			      step->texts[0].length));
}

static void run_fill(const struct step *step)
{
	size_t size = step->numbers[0];
	char *data = allocate(size);

	memset(data, 'x', size);
	answer_write(write_at(step, data, size));
	free(data);
}

static void run_writev(const struct step *step)
{
	struct iovec parts[MAX_PARTS];
	int i;

	for (i = 0; i < step->count; i++) {
		parts[i].iov_base = step->texts[i].bytes;
		parts[i].iov_len = step->texts[i].length;
	}
	answer(step, writev(fd_now(), parts, step->count));
}

static void run_badwrite(const struct step *step)
{
	size_t count = step->numbers[0];

	answer(step, write(fd_now(), half_memory(0, count), count));
}

static void run_halfwrite(const struct step *step)
{
	const struct text *text = &step->texts[0];
	size_t count = step->numbers[0];
	char *memory = half_memory(text->length, count);

	memcpy(memory, text->bytes, text->length);
	answer(step, write(fd_now(), memory, count));
}

/* ---- words: other calls on the file ------------------------------------ */

static void run_seek(const struct step *step)
{
	answer(step, lseek(fd_now(), step->offset, step->flags));
}

static void run_stat(const struct step *step)
{
	struct stat st;
	int result = step->path ? stat(step->path, &st) : fstat(fd_now(), &st);

	if (result < 0)
		answer(step, result);
	else
		printf("stat mode=%07o size=%lld uid=%u gid=%u nlink=%lu\n",
		       st.st_mode, (long long)st.st_size, st.st_uid, st.st_gid,
		       (unsigned long)st.st_nlink);
}

static int open_temporary(void)
{
	static const char *const places[] = { "/tmp", "/dev/shm", "/run", "." };
	char path[64];
	size_t i;
	int fd;

	for (i = 0; i < sizeof(places) / sizeof(*places); i++) {
		snprintf(path, sizeof(path), "%s/sysio.XXXXXX", places[i]);
		fd = mkstemp(path);
		if (fd >= 0) {
			unlink(path);
			return fd;
		}
	}
	die_of("mkstemp");
}

static void run_sendfile(const struct step *step)
{
	struct buffer buffer = new_buffer(step->numbers[0]);
	int to = open_temporary();
	ssize_t result = sendfile(to, fd_now(), NULL, buffer.size);

	if (result > 0 && pread(to, buffer.bytes, buffer.size, 0) != result)
		die(EXIT_FAILURE, "sendfile: the bytes did not arrive");
	answer_buffer(step, result, &buffer);
	close(to);
}

static void run_splice(const struct step *step)
{
	struct buffer buffer = new_buffer(step->numbers[0]);
	ssize_t result;
	int ends[2];

	if (pipe(ends))
		die_of("pipe");
	result = splice(fd_now(), NULL, ends[1], NULL, buffer.size, 0);
	if (result > 0 && read(ends[0], buffer.bytes, buffer.size) != result)
		die(EXIT_FAILURE, "splice: the bytes did not arrive");
	answer_buffer(step, result, &buffer);
	close(ends[0]);
	close(ends[1]);
}

static void run_poll(const struct step *step)
{
	static const struct {
		int event;
		const char *name;
	} events[] = {
		{ POLLIN, "in" }, { POLLOUT, "out" }, { POLLPRI, "pri" },
		{ POLLERR, "err" }, { POLLHUP, "hup" }, { POLLNVAL, "nval" },
	};
	struct pollfd one = { fd_now(), POLLIN | POLLOUT | POLLPRI, 0 };
	int result = poll(&one, 1, 0);
	size_t i;

	if (result < 0) {
		answer(step, result);
		return;
	}
	printf("poll%s", result ? "" : " none");
	for (i = 0; i < sizeof(events) / sizeof(*events); i++)
		if (one.revents & events[i].event)
			printf(" %s", events[i].name);
	putchar('\n');
}

static void run_ioctl(const struct step *step)
{
	answer(step, ioctl(fd_now(), 0x5a5a, 0));
}

static void run_mmap(const struct step *step)
{
	size_t size = step->numbers[0];
	void *memory = mmap(NULL, size, PROT_READ, MAP_SHARED, fd_now(), 0);

	answer_ok(step, memory != MAP_FAILED);
	if (memory != MAP_FAILED)
		munmap(memory, size);
}

static void run_truncate(const struct step *step)
{
	answer(step, ftruncate(fd_now(), step->numbers[0]));
}

static void run_chmod(const struct step *step)
{
	answer(step, fchmod(fd_now(), step->numbers[0]));
}

static void run_chown(const struct step *step)
{
	answer(step, fchown(fd_now(), step->numbers[0], step->numbers[1]));
}

/* ---- words: the process ------------------------------------------------ */

int become(long long id)
{
	int result = setgroups(0, NULL);

	if (!result)
		result = setresgid(id, id, id);
	if (!result)
		result = setresuid(id, id, id);
	return result;
}

static void run_uid(const struct step *step)
{
	long long id = step->numbers[0];
	int result = become(id);

	answer(step, result < 0 ? result : id);
}

static void run_say(const struct step *step)
{
	fwrite(step->texts[0].bytes, 1, step->texts[0].length, stdout);
	putchar('\n');
}

static void sleep_ms(long long ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void run_sleep(const struct step *step)
{
	sleep_ms(step->numbers[0]);
	answer(step, step->numbers[0]);
}

static void run_pause(const struct step *step)
{
	sigset_t wanted, before;
	int got;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigprocmask(SIG_BLOCK, &wanted, &before);
	puts(step->word->name);
	fflush(stdout);
	sigwait(&wanted, &got);
	sigprocmask(SIG_SETMASK, &before, NULL);
}

static pid_t fork_or_die(void)
{
	pid_t parent = getpid();
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child < 0)
		die_of("fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(EXIT_FAILURE);
	}
	return child;
}

static void run_forkhold(const struct step *step)
{
	pid_t child;
	char end;

	if (!holder_count && pipe(holder_pipe))
		die_of("pipe");
	child = fork_or_die();
	if (!child) {
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		close(holder_pipe[1]);
		_exit(read(holder_pipe[0], &end, 1) != 0);
	}
	holders[holder_count++] = child;
	answer_ok(step, true);
}

/* Their files are closed when this returns, not some time later. */
static void end_holders(void)
{
	if (holder_count)
		close(holder_pipe[1]);
	while (holder_count)
		waitpid(holders[--holder_count], NULL, 0);
}

/* ---- words: storm and tally, many processes at once -------------------- */

enum {
	STORM_LETTERS = 26,
	STORM_BUFFER = 2048,
	TALLY_NUMBERS = 1 << 22,
};

/* What one process saw; each has its own, in memory that all share. */
struct sightings {
	unsigned long done;
	unsigned long overlong;
	unsigned long torn;
	unsigned long errors;
	unsigned long gone;
	int first_errno;
	char first_call[8];
};

struct crowd {
	const char *path;
	long long end_ms;
	struct text constant;		/* what a storm without writers reads */
	bool has_writers;
	unsigned char *seen;		/* by tally: how often each number */
	long long base;			/* the number that seen[0] is for */
};

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die_of("mmap");
	return memory;
}

/* Sees to the result of a call: true if it gave something to look at. */
static bool note(struct sightings *saw, const char *call, long long result)
{
	if (result >= 0) {
		saw->done++;
		return true;
	}
	if (errno == ENOENT || errno == ENODEV || errno == EIO) {
		saw->gone++;
		return false;
	}
	if (!saw->errors++) {
		saw->first_errno = errno;
		snprintf(saw->first_call, sizeof(saw->first_call), "%s", call);
	}
	return false;
}

static int open_noted(struct sightings *saw, const struct crowd *crowd,
		      int flags)
{
	int fd = open(crowd->path, flags);

	if (fd < 0) {
		note(saw, "open", fd);
		sleep_ms(1);
	}
	return fd;
}

static size_t storm_length(int letter)
{
	return 1 + (letter - 'a') * 37;
}

/* The value is one of those that writers write, or the first part of one. */
static bool is_storm_value(const unsigned char *bytes, size_t length,
			   bool whole)
{
	size_t expected, i;

	if (!length || bytes[0] < 'a' || bytes[0] >= 'a' + STORM_LETTERS)
		return false;
	for (i = 1; i < length; i++)
		if (bytes[i] != bytes[0])
			return false;

	expected = storm_length(bytes[0]);
	return whole ? length == expected : length <= expected;
}

static bool is_expected(const struct crowd *crowd, const unsigned char *bytes,
			size_t length, bool whole)
{
	if (crowd->has_writers)
		return is_storm_value(bytes, length, whole);
	if (length > crowd->constant.length ||
	    memcmp(bytes, crowd->constant.bytes, length))
		return false;
	return !whole || length == crowd->constant.length;
}

static void storm_look(struct sightings *saw, const struct crowd *crowd,
		       const struct buffer *buffer, ssize_t result, bool whole)
{
	if ((size_t)result > buffer->size || overrun(buffer))
		saw->overlong++;
	else if (!is_expected(crowd, buffer->bytes, result, whole))
		saw->torn++;
}

static void storm_read_once(struct sightings *saw, const struct crowd *crowd,
			    struct buffer *large, struct buffer *small)
{
	int fd = open_noted(saw, crowd, O_RDONLY);
	ssize_t result;

	if (fd < 0)
		return;
	result = read(fd, large->bytes, large->size);
	if (note(saw, "read", result))
		storm_look(saw, crowd, large, result, true);
	result = pread(fd, small->bytes, small->size, 0);
	if (note(saw, "pread", result))
		storm_look(saw, crowd, small, result, false);
	close(fd);
}

static void storm_reader(struct sightings *saw, const struct crowd *crowd)
{
	struct buffer large = new_buffer(STORM_BUFFER);
	struct buffer small = new_buffer(5);

	while (now_ms() < crowd->end_ms)
		storm_read_once(saw, crowd, &large, &small);
}

static void storm_write_once(struct sightings *saw, const struct crowd *crowd,
			     int letter)
{
	char value[STORM_BUFFER];
	size_t length = storm_length(letter);
	int fd = open_noted(saw, crowd, O_WRONLY);
	ssize_t result;

	if (fd < 0)
		return;
	memset(value, letter, length);
	result = write(fd, value, length);
	if (note(saw, "write", result)) {
		if ((size_t)result > length)
			saw->overlong++;
		else if ((size_t)result < length)
			saw->torn++;
	}
	close(fd);
}

static void storm_writer(struct sightings *saw, const struct crowd *crowd)
{
	int turn;

	for (turn = getpid(); now_ms() < crowd->end_ms; turn++)
		storm_write_once(saw, crowd, 'a' + turn % STORM_LETTERS);
}

static void tally_number(struct sightings *saw, const struct crowd *crowd,
			 const char *text)
{
	char *end;
	long long number = strtoll(text, &end, 10);

	if (end == text || strcmp(end, "\n")) {
		saw->torn++;
		return;
	}
	number -= crowd->base;
	if (number >= 0 && number < TALLY_NUMBERS)
		__sync_fetch_and_add(&crowd->seen[number], 1);
	else
		saw->errors++;
}

/* One reading with a buffer of @size; the number it gave is left in @text. */
static bool tally_read_once(struct sightings *saw, const struct crowd *crowd,
			    struct buffer *buffer, char *text, size_t room)
{
	int fd = open_noted(saw, crowd, O_RDONLY);
	size_t length = 0;
	ssize_t result;

	if (fd < 0)
		return false;
	for (;;) {
		result = read(fd, buffer->bytes, buffer->size);
		if (!note(saw, "read", result) || !result)
			break;
		if ((size_t)result > buffer->size || overrun(buffer)) {
			saw->overlong++;
			break;
		}
		if (length + result >= room) {
			saw->torn++;
			break;
		}
		memcpy(text + length, buffer->bytes, result);
		length += result;
	}
	text[length] = '\0';
	close(fd);
	return !result;
}

static void tally_reader(struct sightings *saw, const struct crowd *crowd)
{
	struct buffer buffer = new_buffer(32);
	char text[64];
	int turn;

	free(buffer.bytes);
	for (turn = 0; now_ms() < crowd->end_ms; turn++) {
		buffer = new_buffer(1 + turn % 24);
		if (tally_read_once(saw, crowd, &buffer, text, sizeof(text)))
			tally_number(saw, crowd, text);
		free(buffer.bytes);
	}
}

typedef void (*member)(struct sightings *saw, const struct crowd *crowd);

/* Runs the first @firsts processes as @first, the others as @second; returns
 * how many did not end well.
 */
static unsigned long run_crowd(struct crowd *crowd, struct sightings *saw,
			       int count, member first, int firsts,
			       member second)
{
	unsigned long died = 0;
	int status, i;
	pid_t pids[MAX_PROCESSES];

	for (i = 0; i < count; i++) {
		pids[i] = fork_or_die();
		if (!pids[i]) {
			(i < firsts ? first : second)(&saw[i], crowd);
			_exit(EXIT_SUCCESS);
		}
	}
	for (i = 0; i < count; i++)
		if (waitpid(pids[i], &status, 0) != pids[i] || status)
			died++;
	return died;
}

static struct sightings sum_of(const struct sightings *saw, int count)
{
	struct sightings sum = { 0 };
	int i;

	for (i = 0; i < count; i++) {
		if (saw[i].errors && !sum.errors) {
			sum.first_errno = saw[i].first_errno;
			memcpy(sum.first_call, saw[i].first_call,
			       sizeof(sum.first_call));
		}
		sum.done += saw[i].done;
		sum.overlong += saw[i].overlong;
		sum.torn += saw[i].torn;
		sum.errors += saw[i].errors;
		sum.gone += saw[i].gone;
	}
	return sum;
}

static void answer_crowd(const struct step *step, const struct sightings *sum)
{
	printf("%s %s%s\n", step->word->name, sum->done ? "ok" : "idle",
	       sum->done && sum->gone ? " gone" : "");
}

static void tell_first_error(const char *name, const struct sightings *sum)
{
	if (sum->first_errno)
		fprintf(stderr, "sysio: %s: first error: %s: %s\n", name,
			sum->first_call, error_name(sum->first_errno));
}

/* What the file holds now, for a storm in which nobody writes. */
static struct text read_constant(const char *path)
{
	struct text text = { allocate(STORM_BUFFER), 0 };
	int fd = open(path, O_RDONLY);
	ssize_t result = read(fd, text.bytes, STORM_BUFFER);

	if (result > 0)
		text.length = result;
	close(fd);
	return text;
}

static void run_storm(const struct step *step)
{
	int readers = step->count > 1 ? step->numbers[1] : 3;
	int writers = step->count > 2 ? step->numbers[2] : 2;
	struct crowd crowd = { .path = path_now(), .has_writers = writers };
	struct sightings *saw, sum;
	unsigned long died;

	saw = shared_memory(sizeof(*saw) * (readers + writers + 1));
	if (writers)
		storm_write_once(saw, &crowd, 'a');
	else
		crowd.constant = read_constant(crowd.path);

	memset(saw, 0, sizeof(*saw));
	crowd.end_ms = now_ms() + step->numbers[0];
	died = run_crowd(&crowd, saw, readers + writers, storm_reader, readers,
			 storm_writer);
	sum = sum_of(saw, readers + writers);
	munmap(saw, sizeof(*saw) * (readers + writers + 1));

	if (sum.overlong || sum.torn || sum.errors || died)
		printf("storm overlong=%lu torn=%lu errors=%lu died=%lu\n",
		       sum.overlong, sum.torn, sum.errors, died);
	else
		answer_crowd(step, &sum);
	tell_first_error("storm", &sum);
}

/* The number that one reading gives now, or -1. */
static long long read_number(const char *path)
{
	struct text text = read_constant(path);
	long long number = -1;
	char *end;

	if (text.length && text.length < STORM_BUFFER) {
		text.bytes[text.length] = '\0';
		number = strtoll(text.bytes, &end, 10);
		if (end == text.bytes)
			number = -1;
	}
	free(text.bytes);
	return number;
}

static void run_tally(const struct step *step)
{
	int readers = step->count > 1 ? step->numbers[1] : 4;
	struct crowd crowd = { .path = path_now() };
	unsigned long repeated = 0, missing = 0, died;
	struct sightings *saw, sum;
	long long last, i;

	crowd.base = read_number(crowd.path) + 1;
	crowd.seen = shared_memory(TALLY_NUMBERS);
	crowd.end_ms = now_ms() + step->numbers[0];
	saw = shared_memory(sizeof(*saw) * (readers + 1));
	died = run_crowd(&crowd, saw, readers, tally_reader, readers, NULL);
	sum = sum_of(saw, readers);
	last = read_number(crowd.path);
	for (i = 0; i < TALLY_NUMBERS; i++) {
		repeated += crowd.seen[i] > 1;
		missing += crowd.base + i < last && !crowd.seen[i];
	}
	munmap(crowd.seen, TALLY_NUMBERS);
	munmap(saw, sizeof(*saw) * (readers + 1));

	sum.errors += sum.overlong + sum.torn;
	if (repeated || missing || sum.errors || died)
		printf("tally repeated=%lu missing=%lu errors=%lu died=%lu\n",
		       repeated, missing, sum.errors, died);
	else
		answer_crowd(step, &sum);
	tell_first_error("tally", &sum);
}

/* ---- words: the table and how to take one apart ------------------------ */

static const struct word words[] = {
	{ "open", PATH_FLAGS, 0, 0, run_open },
	{ "use", NUMBER, 1, 1, run_use },
	{ "dup", NOTHING, 0, 0, run_dup },
	{ "close", NOTHING, 0, 0, run_close },
	{ "read", NUMBER_AT, 1, 1, run_read },
	{ "readall", NUMBER, 1, 1, run_readall },
	{ "write", TEXT_AT, 1, 1, run_write },
	{ "fill", NUMBER_AT, 1, 1, run_fill },
	{ "readv", NUMBERS, 1, MAX_PARTS, run_readv },
	{ "writev", TEXTS, 1, MAX_PARTS, run_writev },
	{ "seek", OFFSET_HOW, 0, 0, run_seek },
	{ "stat", MAYBE_PATH, 0, 0, run_stat },
	{ "badread", NUMBER, 1, 1, run_badread },
	{ "badwrite", NUMBER, 1, 1, run_badwrite },
	{ "halfread", NUMBERS, 2, 2, run_halfread },
	{ "halfwrite", TEXT_NUMBER, 1, 1, run_halfwrite },
	{ "sendfile", NUMBER, 1, 1, run_sendfile },
	{ "splice", NUMBER, 1, 1, run_splice },
	{ "poll", NOTHING, 0, 0, run_poll },
	{ "ioctl", NOTHING, 0, 0, run_ioctl },
	{ "mmap", NUMBER, 1, 1, run_mmap },
	{ "truncate", NUMBER, 1, 1, run_truncate },
	{ "chmod", OCTAL, 1, 1, run_chmod },
	{ "chown", NUMBERS, 2, 2, run_chown },
	{ "uid", NUMBER, 1, 1, run_uid },
	{ "say", TEXT, 1, 1, run_say },
	{ "sleep", NUMBER, 1, 1, run_sleep },
	{ "pause", NOTHING, 0, 0, run_pause },
	{ "forkhold", NOTHING, 0, 0, run_forkhold },
	{ "storm", NUMBERS, 1, 3, run_storm },
	{ "tally", NUMBERS, 1, 2, run_tally },
};

static const struct word *find_word(const char *name, size_t length)
{
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (strlen(words[i].name) == length &&
		    !strncmp(words[i].name, name, length))
			return &words[i];
	return NULL;
}

bool parse_number(const char *from, int base, long long *number)
{
	char *end;

	errno = 0;
	*number = strtoll(from, &end, base);
	return end != from && !*end && !errno;
}

/* Sizes and the like: none is negative, none larger than a buffer may be. */
static bool parse_size(struct step *step, const char *from, int base)
{
	long long *number = &step->numbers[step->count];

	if (step->count == MAX_PARTS || !parse_number(from, base, number))
		return false;
	step->count++;
	return *number >= 0 && *number <= MAX_BUFFER;
}

/* Cuts "[...]@OFF" at the last at sign, if a number follows that. */
static void parse_at(struct step *step, char *value)
{
	char *at = strrchr(value, '@');

	if (at && parse_number(at + 1, 0, &step->offset)) {
		step->has_offset = true;
		*at = '\0';
	}
}

static bool parse_list(struct step *step, char *value, bool texts)
{
	char *part;
	bool good;

	while ((part = strsep(&value, ","))) {
		if (texts)
			good = step->count < MAX_PARTS &&
			       unescape(part, strlen(part),
					&step->texts[step->count++]);
		else
			good = parse_size(step, part, 0);
		if (!good)
			return false;
	}
	return true;
}

static bool parse_flags(struct step *step, const char *letters)
{
	if (!strncmp(letters, "rw", 2)) {
		step->flags = O_RDWR;
		letters += 2;
	} else if (*letters == 'w') {
		step->flags = O_WRONLY;
		letters++;
	} else {
		step->flags = O_RDONLY;
		letters += *letters == 'r';
	}

	for (; *letters; letters++) {
		switch (*letters) {
		case 't':
			step->flags |= O_TRUNC;
			break;
		case 'a':
			step->flags |= O_APPEND;
			break;
		case 'n':
			step->flags |= O_NONBLOCK;
			break;
		case 'c':
			step->flags |= O_CREAT;
			break;
		default:
			return false;
		}
	}
	return true;
}

static bool parse_path_flags(struct step *step, char *value)
{
	char *colon = strrchr(value, ':');

	step->path = value;
	if (!colon)
		return *value;
	*colon = '\0';
	return *value && parse_flags(step, colon + 1);
}

static bool parse_offset_how(struct step *step, char *value)
{
	static const struct {
		const char *name;
		int whence;
	} hows[] = {
		{ "set", SEEK_SET }, { "cur", SEEK_CUR }, { "end", SEEK_END },
		{ "data", SEEK_DATA }, { "hole", SEEK_HOLE },
	};
	char *how = strchr(value, ',');
	size_t i;

	if (how)
		*how++ = '\0';
	if (!parse_number(value, 0, &step->offset))
		return false;
	for (i = 0; i < sizeof(hows) / sizeof(*hows); i++)
		if (!how || !strcmp(how, hows[i].name)) {
			step->flags = hows[i].whence;
			return true;
		}
	return false;
}

static bool parse_text_number(struct step *step, char *value)
{
	char *comma = strrchr(value, ',');

	if (!comma)
		return false;
	*comma = '\0';
	return unescape(value, strlen(value), &step->texts[0]) &&
	       parse_size(step, comma + 1, 0) &&
	       (size_t)step->numbers[0] >= step->texts[0].length;
}

static bool parse_value(struct step *step, char *value)
{
	enum syntax syntax = step->word->syntax;

	if (syntax == NOTHING)
		return !value;
	if (syntax == MAYBE_PATH) {
		step->path = value;
		return !value || *value;
	}
	if (!value)
		return false;
	if (syntax == NUMBER_AT || syntax == TEXT_AT)
		parse_at(step, value);

	switch (syntax) {
	case PATH_FLAGS:
		return parse_path_flags(step, value);
	case NUMBER:
	case NUMBER_AT:
		return parse_size(step, value, 0);
	case OCTAL:
		return parse_size(step, value, 8);
	case NUMBERS:
		return parse_list(step, value, false);
	case TEXTS:
		return parse_list(step, value, true);
	case TEXT_NUMBER:
		return parse_text_number(step, value);
	case OFFSET_HOW:
		return parse_offset_how(step, value);
	default:
		step->count = 1;
		return unescape(value, strlen(value), &step->texts[0]);
	}
}

static void parse_step(struct step *step, char *argument)
{
	char *equals = strchr(argument, '=');
	size_t length = equals ? (size_t)(equals - argument) : strlen(argument);
	char *copy = strdup(equals ? equals + 1 : "");

	if (!copy)
		die(EXIT_FAILURE, "out of memory");
	step->word = find_word(argument, length);
	if (!step->word)
		die(EXIT_USAGE, "unknown word: %s", argument);
	if (!parse_value(step, equals ? copy : NULL) ||
	    step->count < step->word->least || step->count > step->word->most)
		die(EXIT_USAGE, "malformed word: %s", argument);
}

/* Limits that would be exceeded half way are malformed input as well. */
static void check_steps(const struct step *steps, int count)
{
	int opens = 0, holds = 0;
	int i, j;

	for (i = 0; i < count; i++) {
		const struct word *word = steps[i].word;

		opens += word->run == run_open || word->run == run_dup;
		holds += word->run == run_forkhold;
		if (word->run != run_storm && word->run != run_tally)
			continue;
		for (j = 1; j < steps[i].count; j++)
			if (steps[i].numbers[j] > MAX_PROCESSES / 2)
				die(EXIT_USAGE, "%s: too many processes",
				    word->name);
	}
	if (opens > MAX_FILES)
		die(EXIT_USAGE, "more than %d files", MAX_FILES);
	if (holds > MAX_PROCESSES)
		die(EXIT_USAGE, "more than %d holders", MAX_PROCESSES);
}

static int run_words(int count, char **arguments)
{
	struct step *steps = calloc(count, sizeof(*steps));
	int i;

	if (!steps)
		die(EXIT_FAILURE, "out of memory");
	for (i = 0; i < count; i++)
		parse_step(&steps[i], arguments[i]);
	check_steps(steps, count);

	for (i = 0; i < count; i++) {
		steps[i].word->run(&steps[i]);
		if (fflush(stdout))
			break;
	}
	end_holders();
	if (ferror(stdout))
		die_of("stdout");
	return EXIT_SUCCESS;
}

/* ---- raw --------------------------------------------------------------- */

struct raw {
	const char *path;
	size_t size;
	size_t limit;
	long long offset;
	bool has_offset;
	bool append;
};

static void put(const void *data, size_t size)
{
	if (fwrite(data, 1, size, stdout) != size)
		die_of("stdout");
}

static void flush(void)
{
	if (fflush(stdout))
		die_of("stdout");
}

static ssize_t raw_read_once(const struct raw *raw, int fd,
			     struct buffer *buffer)
{
	ssize_t got;

	if (raw->has_offset)
		got = pread(fd, buffer->bytes, buffer->size, raw->offset);
	else
		got = read(fd, buffer->bytes, buffer->size);
	if (got < 0)
		die_of("read");
	if ((size_t)got > buffer->size || overrun(buffer))
		die(EXIT_FAILURE, "read: %zd bytes for a buffer of %zu", got,
		    buffer->size);
	return got;
}

static int raw_read(const struct raw *raw)
{
	struct buffer buffer = new_buffer(raw->size);
	size_t left = raw->limit;
	int fd = open(raw->path, O_RDONLY);
	size_t got;

	if (fd < 0)
		die_of("open");
	do {
		got = raw_read_once(raw, fd, &buffer);
		put(buffer.bytes, got < left ? got : left);
		if (got > left)
			die(EXIT_ENDLESS,
			    "read: still not at end of file after %zu bytes",
			    raw->limit);
		left -= got;
	} while (got && !raw->has_offset);
	flush();
	return EXIT_SUCCESS;
}

static struct text read_stdin(void)
{
	size_t room = 65536;
	struct text text = { allocate(room), 0 };
	size_t got;

	while ((got = fread(text.bytes + text.length, 1, room - text.length,
			    stdin))) {
		text.length += got;
		if (text.length == room) {
			room *= 2;
			text.bytes = realloc(text.bytes, room);
			if (!text.bytes)
				die(EXIT_FAILURE, "out of memory");
		}
	}
	if (ferror(stdin))
		die_of("stdin");
	return text;
}

static int raw_write(const struct raw *raw)
{
	struct text text = read_stdin();
	int fd = open(raw->path,
		      O_WRONLY | (raw->append ? O_APPEND : O_TRUNC));
	ssize_t result;

	if (fd < 0)
		die_of("open");
	if (raw->has_offset)
		result = pwrite(fd, text.bytes, text.length, raw->offset);
	else
		result = write(fd, text.bytes, text.length);
	if (result < 0)
		die_of("write");
	printf("%zd\n", result);
	flush();
	return EXIT_SUCCESS;
}

static long long option_number(const char *name, long long least)
{
	long long number;

	if (!parse_number(optarg, 0, &number) || number < least)
		die(EXIT_USAGE, "--%s: not a number for it: %s", name, optarg);
	return number;
}

static struct raw parse_raw(int argc, char **argv)
{
	static const struct option options[] = {
		{ "read", no_argument, NULL, 'r' },
		{ "write", no_argument, NULL, 'w' },
		{ "size", required_argument, NULL, 's' },
		{ "offset", required_argument, NULL, 'o' },
		{ "limit", required_argument, NULL, 'l' },
		{ "append", no_argument, NULL, 'a' },
		{ NULL, 0, NULL, 0 },
	};
	bool reading = !strcmp(argv[1], "--read");
	struct raw raw = { .size = 65536, .limit = 1 << 20 };
	bool good = true;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 's' && reading)
			raw.size = option_number("size", 0);
		else if (option == 'l' && reading)
			raw.limit = option_number("limit", 0);
		else if (option == 'o')
			raw.offset = option_number("offset", 0);
		else if (option == 'a' && !reading)
			raw.append = true;
		else
			good &= option == (reading ? 'r' : 'w');
		raw.has_offset |= option == 'o';
	}
	if (!good || optind + 1 != argc || raw.size > MAX_BUFFER)
		die(EXIT_USAGE, "usage: sysio %s [OPTION...] PATH", argv[1]);
	raw.path = argv[optind];
	return raw;
}

/* ---- modules ----------------------------------------------------------- */

static int load_module(const char *path, const char *parameters,
		       const char *name)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die_of("open");
	if (syscall(SYS_finit_module, fd, parameters, 0))
		die_of("finit_module");
	return name ? list_sections(name) : EXIT_SUCCESS;
}

static int unload_module(const char *name)
{
	if (syscall(SYS_delete_module, name, O_NONBLOCK))
		die_of("delete_module");
	return EXIT_SUCCESS;
}

/* ---- a session, a user ------------------------------------------------- */

static void begin_session(const char *path, char **command)
{
	FILE *file;

	if (setsid() < 0)
		die_of("setsid");
	file = fopen(path, "we");
	if (!file)
		die_of("fopen");
	fprintf(file, "%d\n", (int)getpid());
	if (fclose(file))
		die_of("fclose");
	execvp(command[0], command);
	die_of(command[0]);
}

static int run_session(const char *path, char **command)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		die_of("fork");
	if (!child)
		begin_session(path, command);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die_of("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) :
				     WEXITSTATUS(status);
}

static int run_user(const char *number, char **command)
{
	long long id;

	if (!parse_number(number, 10, &id) || id < 0)
		die(EXIT_USAGE, "--user: not a number for it: %s", number);
	if (become(id))
		die_of("setresuid");
	execvp(command[0], command);
	die_of(command[0]);
}

/* ---- a connection ------------------------------------------------------ */

static int call(const char *address, const char *port, char **command)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	long long number;
	int fd;

	if (!parse_number(port, 10, &number) || number < 1 || number > 65535 ||
	    inet_pton(AF_INET, address, &to.sin_addr) != 1)
		die(EXIT_USAGE, "--call: no address of a port: %s %s", address,
		    port);
	to.sin_port = htons(number);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0)
		die_of("socket");
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die_of("connect");
	setsid();
	dup2(fd, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
	execvp(command[0], command);
	die_of(command[0]);
}

/* ---- going on ---------------------------------------------------------- */

#define SEED_WORDS 16

#ifndef RNDRESEEDCRNG		/* headers before Linux 4.14 */
#define RNDRESEEDCRNG _IO('R', 0x07)
#endif

/*
 * Sets the clock, and makes random numbers of standard input: guests that go on
 * from one frozen state would all draw the same.
 */
static int wake(const char *seconds, const char *path)
{
	struct {
		int bits;
		int bytes;
		__u32 words[SEED_WORDS];
	} seed = { .bits = 32 * SEED_WORDS, .bytes = 4 * SEED_WORDS };
	struct timespec now = { 0 };
	struct utsname name;
	char word[64];
	long long number;
	ssize_t size;
	int fd;

	if (!parse_number(seconds, 10, &number) || number < 0)
		die(EXIT_USAGE, "--wake: not a number for it: %s", seconds);
	if (read(STDIN_FILENO, seed.words, sizeof(seed.words)) != sizeof(seed.words))
		die(EXIT_FAILURE, "--wake: no seed on standard input");
	now.tv_sec = number;
	if (clock_settime(CLOCK_REALTIME, &now))
		die_of("clock_settime");
	fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		die_of("open");
	/* Before Linux 4.8 only what is written reaches urandom at once. */
	if (write(fd, seed.words, sizeof(seed.words)) != sizeof(seed.words))
		die_of("write");
	if (ioctl(fd, RNDADDENTROPY, &seed))
		die_of("ioctl");
	/* Linux 4.14 and later (d848e5f8e1eb): use it now, not in five minutes. */
	if (ioctl(fd, RNDRESEEDCRNG) && errno != ENOTTY && errno != EINVAL)
		die_of("ioctl");
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? -1 : read(fd, word, sizeof(word));
	if (size < 0 || uname(&name))
		die_of(path);
	printf("%.*s %s\n", (int)size, word, name.release);
	flush();
	return EXIT_SUCCESS;
}

int sysio(int argc, char **argv)
{
	struct raw raw;

	if (argc < 2)
		die(EXIT_USAGE, "usage: sysio WORD... | --read PATH | --write PATH");
	if (!strcmp(argv[1], "--read")) {
		raw = parse_raw(argc, argv);
		return raw_read(&raw);
	}
	if (!strcmp(argv[1], "--write")) {
		raw = parse_raw(argc, argv);
		return raw_write(&raw);
	}
	if (!strcmp(argv[1], "--load") && argc >= 3 && argc <= 5)
		return load_module(argv[2], argc > 3 ? argv[3] : "",
				   argc > 4 ? argv[4] : NULL);
	if (!strcmp(argv[1], "--unload") && argc == 3)
		return unload_module(argv[2]);
	if (!strcmp(argv[1], "--session") && argc > 3)
		return run_session(argv[2], argv + 3);
	if (!strcmp(argv[1], "--wake") && argc == 4)
		return wake(argv[2], argv[3]);
	if (!strcmp(argv[1], "--user") && argc > 3)
		return run_user(argv[2], argv + 3);
	if (!strcmp(argv[1], "--call") && argc > 4)
		return call(argv[2], argv[3], argv + 4);
	if (!strcmp(argv[1], "--names") && argc == 2)
		return list_names();
	if (!strcmp(argv[1], "--agent") && argc == 2)
		return serve();
	return run_words(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	return sysio(argc, argv);
}
