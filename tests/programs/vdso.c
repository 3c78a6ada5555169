/*
 * vdso.c: threads that read clocks through the vdso without pause. No clock goes back, each agrees
 * with the system call, and the monotonic ones do not jump ahead across a recovery.
 */
#include "target.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define N_THREADS 2
#define JUMP_NS	  4000000000ll /* generous: a pause on a busy machine, never the time it was away */

static int64_t by_system_call(int clock)
{
	struct timespec ts;

	CHECK(syscall(SYS_clock_gettime, clock, &ts) == 0);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void check_agrees(int clock)
{
	int64_t before = by_system_call(clock), vdso = now_ns(clock), after = by_system_call(clock);

	CHECK(before - 1000000 <= vdso && vdso <= after + 1000000);
}

static void check_others(void)
{
	struct timeval tv;
	unsigned cpu, node;
	int64_t real = now_ns(CLOCK_REALTIME);

	CHECK(gettimeofday(&tv, NULL) == 0);
	CHECK(tv.tv_sec - real / 1000000000 >= 0 && tv.tv_sec - real / 1000000000 < 60);
	CHECK(time(NULL) - tv.tv_sec >= -1);
	CHECK(getcpu(&cpu, &node) == 0);
	CHECK(clock_getres(CLOCK_MONOTONIC, NULL) == 0);
}

static void *reader_main(void *arg)
{
	static const int clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE};
	int64_t last[3];

	for (int i = 0; i < 3; i++)
		last[i] = now_ns(clocks[i]);
	while (!target_told(arg)) {
		for (int n = 0; n < 200000; n++) {
			int i = n % 3;
			int64_t now = now_ns(clocks[i]);

			if (now < last[i] || now - last[i] > JUMP_NS)
				target_fail(__FILE__, __LINE__, "clock", clocks[i], now - last[i]);
			last[i] = now;
		}
		check_agrees(CLOCK_MONOTONIC);
		check_agrees(CLOCK_BOOTTIME);
		check_agrees(CLOCK_REALTIME);
		check_others();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct target target;
	pthread_t threads[N_THREADS];

	target_start(&target, argc, argv);
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, reader_main, &target) == 0);
	target_ready(&target);
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return target_pass(&target);
}
