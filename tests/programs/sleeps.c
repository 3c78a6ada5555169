/*
 * sleeps.c: timed waits of every kind last as long as they were asked to, counted on
 * CLOCK_MONOTONIC (which stands still while the job does not exist), however often they are
 * interrupted by snapshots. With variant "epoll" also epoll_wait; with "big" also in a process that is large enough to
 * be stopped for the arming of its tracker alone.
 */
#include "target.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS	     3000
#define TOLERANCE_MS 1800 /* a loaded machine needs it */
#define BIG	     (48 << 20)
#define ASLEEP_MS    2000 /* before the first snapshot: a wait that starts anew would take that much longer */

static struct timespec in_ms(long ms)
{
	return (struct timespec){ms / 1000, ms % 1000 * 1000000};
}

static struct timespec after_ms(int clock, long ms)
{
	int64_t at = now_ns(clock) + ms * 1000000ll;

	return (struct timespec){at / 1000000000, at % 1000000000};
}

static void wait_nanosleep(long ms)
{
	struct timespec ts = in_ms(ms);

	CHECK(nanosleep(&ts, NULL) == 0);
}

static void wait_clock_relative(long ms)
{
	struct timespec ts = in_ms(ms);

	CHECK(clock_nanosleep(CLOCK_BOOTTIME, 0, &ts, NULL) == 0);
}

static void wait_clock_absolute(long ms)
{
	struct timespec ts = after_ms(CLOCK_MONOTONIC, ms);

	CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == 0);
}

static void wait_poll(long ms)
{
	CHECK(poll(NULL, 0, ms) == 0);
}

static void wait_ppoll(long ms)
{
	struct timespec ts = in_ms(ms);
	sigset_t none;

	sigemptyset(&none);
	CHECK(ppoll(NULL, 0, &ts, &none) == 0);
}

static void wait_select(long ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	CHECK(select(0, NULL, NULL, NULL, &tv) == 0);
}

static void wait_pselect(long ms)
{
	struct timespec ts = in_ms(ms);
	sigset_t none;

	sigemptyset(&none);
	CHECK(pselect(0, NULL, NULL, NULL, &ts, &none) == 0);
}

static void wait_futex_relative(long ms)
{
	struct timespec ts = in_ms(ms);
	uint32_t word = 1;

	CHECK(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, &ts, NULL, 0) < 0);
	CHECK_EQ(errno, ETIMEDOUT);
}

static void wait_condition(long ms)
{
	struct timespec ts = after_ms(CLOCK_MONOTONIC, ms);
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	int error = 0;

	pthread_mutex_lock(&lock);
	while (!error) /* spurious wakeups are allowed */
		error = pthread_cond_clockwait(&cond, &lock, CLOCK_MONOTONIC, &ts);
	pthread_mutex_unlock(&lock);
	CHECK_EQ(error, ETIMEDOUT);
}

static void wait_semaphore(long ms)
{
	struct timespec ts = after_ms(CLOCK_MONOTONIC, ms);
	sem_t sem;

	sem_init(&sem, 0, 0);
	CHECK(sem_clockwait(&sem, CLOCK_MONOTONIC, &ts) < 0);
	CHECK_EQ(errno, ETIMEDOUT);
}

/* signal(7): these two fail with EINTR after a stop even without a handler; callers must go on. */
static void wait_sigtimedwait(long ms)
{
	int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000ll, left;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	while ((left = end - now_ns(CLOCK_MONOTONIC)) > 0) {
		struct timespec ts = {left / 1000000000, left % 1000000000};

		CHECK(sigtimedwait(&set, NULL, &ts) < 0);
		CHECK(errno == EAGAIN || errno == EINTR);
	}
}

static void wait_epoll(long ms)
{
	int64_t end = now_ns(CLOCK_MONOTONIC) + ms * 1000000ll, left;
	int fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;

	while ((left = end - now_ns(CLOCK_MONOTONIC)) > 0)
		if (epoll_wait(fd, &event, 1, (int)(left / 1000000) + 1) < 0)
			CHECK_EQ(errno, EINTR);
	close(fd);
}

struct sleeper {
	const char *name;
	void (*wait)(long ms);
	const struct target *target;
	pthread_t thread;
};

/* Waits again and again until told; each wait must take its time, no less and not much more. */
static void *sleeper_main(void *arg)
{
	struct sleeper *s = arg;

	do {
		int64_t start = now_ns(CLOCK_MONOTONIC);

		s->wait(WAIT_MS);
		int64_t took = (now_ns(CLOCK_MONOTONIC) - start) / 1000000;
		if (took < WAIT_MS - 2 || took > WAIT_MS + TOLERANCE_MS)
			target_fail(__FILE__, __LINE__, s->name, took, WAIT_MS);
	} while (!target_told(s->target));
	return NULL;
}

static void touch(size_t size)
{
	volatile char *bytes = malloc(size);

	CHECK(bytes);
	for (size_t i = 0; i < size; i += 4096)
		bytes[i] = 1;
}

int main(int argc, char **argv)
{
	struct target target;
	struct sleeper sleepers[] = {
		{.name = "nanosleep", .wait = wait_nanosleep},
		{.name = "clock_nanosleep relative", .wait = wait_clock_relative},
		{.name = "clock_nanosleep absolute", .wait = wait_clock_absolute},
		{.name = "poll", .wait = wait_poll},
		{.name = "ppoll", .wait = wait_ppoll},
		{.name = "select", .wait = wait_select},
		{.name = "pselect", .wait = wait_pselect},
		{.name = "futex", .wait = wait_futex_relative},
		{.name = "pthread_cond_clockwait", .wait = wait_condition},
		{.name = "sem_clockwait", .wait = wait_semaphore},
		{.name = "sigtimedwait", .wait = wait_sigtimedwait},
		{.name = "epoll_wait", .wait = wait_epoll},
	};
	size_t n = sizeof(sleepers) / sizeof(sleepers[0]);

	target_start(&target, argc, argv);
	if (!strcmp(target.variant, "big"))
		touch(BIG);
	else if (strcmp(target.variant, "epoll"))
		n--;
	for (size_t i = 0; i < n; i++) {
		sleepers[i].target = &target;
		CHECK(pthread_create(&sleepers[i].thread, NULL, sleeper_main, &sleepers[i]) == 0);
	}
	sleep_ms(ASLEEP_MS);
	target_ready(&target);
	for (size_t i = 0; i < n; i++)
		CHECK(pthread_join(sleepers[i].thread, NULL) == 0);
	return target_pass(&target);
}
