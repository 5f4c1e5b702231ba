// SPDX-License-Identifier: Apache-2.0
/* A wall clock that jumps: five years on, or back, or not at all, for a second each. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

#define JUMP (5L * 365 * 24 * 3600)

static int (*real)(clockid_t, struct timespec *);

static long jump(void)
{
	struct timespec now;

	real(CLOCK_MONOTONIC, &now);
	return (now.tv_sec % 3 - 1) * JUMP;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int ret;

	if (!real)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	ret = real(clock, now);
	if (!ret && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += jump();
	return ret;
}

time_t time(time_t *where)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (where)
		*where = now.tv_sec;
	return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec fine;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &fine);
	now->tv_sec = fine.tv_sec;
	now->tv_usec = fine.tv_nsec / 1000;
	return 0;
}
