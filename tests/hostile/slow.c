// SPDX-License-Identifier: Apache-2.0
/* A slow file system: whatever changes or opens a name takes 20 ms more, a write 2 ms. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

static void wait_ms(long ms)
{
	struct timespec time = {0, ms * 1000000};

	nanosleep(&time, NULL);
}

int open64(const char *path, int flags, ...)
{
	mode_t mode;
	va_list more;

	va_start(more, flags);
	mode = va_arg(more, mode_t);
	va_end(more);
	wait_ms(20);
	return REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	mode_t mode;
	va_list more;

	va_start(more, flags);
	mode = va_arg(more, mode_t);
	va_end(more);
	wait_ms(20);
	return REAL(open)(path, flags, mode);
}

int rename(const char *from, const char *to)
{
	wait_ms(20);
	return REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode)
{
	wait_ms(20);
	return REAL(mkdir)(path, mode);
}

int unlink(const char *path)
{
	wait_ms(20);
	return REAL(unlink)(path);
}

ssize_t write(int fd, const void *data, size_t size)
{
	wait_ms(2);
	return REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place)
{
	wait_ms(2);
	return REAL(pwrite64)(fd, data, size, place);
}
