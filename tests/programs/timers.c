/*
 * timers.c: interval timers and POSIX timers keep their remaining time, period, signal and value.
 * Remaining time is held against CLOCK_MONOTONIC, which stands still while the job does not exist.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FAR_SECONDS  5000
#define TOLERANCE_NS 1000000000ll
#define TICK_NS	     50000000ll

/* Seen by handlers. */
static struct {
	volatile sig_atomic_t ticks, thread_ticks, wrong_thread, wrong_value;
	pid_t ticking_thread;
} seen;

struct timers {
	int64_t start; /* CLOCK_MONOTONIC when they were set */
	timer_t far, periodic, silent, threaded, deleted;
	pthread_t thread;
};

static void on_tick(int signo, siginfo_t *info, void *context)
{
	(void)signo;
	(void)context;
	if (info->si_value.sival_int != 4711 || info->si_code != SI_TIMER)
		seen.wrong_value = 1;
	seen.ticks += 1 + info->si_overrun;
}

static void on_thread_tick(int signo, siginfo_t *info, void *context)
{
	(void)signo;
	(void)context;
	if (gettid() != seen.ticking_thread)
		seen.wrong_thread = 1;
	seen.thread_ticks += 1 + info->si_overrun;
}

static void *thread_main(void *arg)
{
	seen.ticking_thread = gettid();
	pthread_barrier_wait(arg);
	for (;;)
		pause();
	return NULL;
}

static timer_t make_timer(struct sigevent *event, int64_t first, int64_t period)
{
	struct itimerspec spec = {
		.it_value = {first / 1000000000, first % 1000000000},
		.it_interval = {period / 1000000000, period % 1000000000},
	};
	timer_t timer;

	CHECK(timer_create(CLOCK_MONOTONIC, event, &timer) == 0);
	CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
	return timer;
}

static void handle(int signo, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};

	CHECK(sigaction(signo, &action, NULL) == 0);
}

static void start_thread(struct timers *t)
{
	pthread_barrier_t barrier;

	pthread_barrier_init(&barrier, NULL, 2);
	CHECK(pthread_create(&t->thread, NULL, thread_main, &barrier) == 0);
	pthread_barrier_wait(&barrier);
}

static void set_up(struct timers *t)
{
	struct sigevent tick = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	struct sigevent thread_tick = {.sigev_notify = SIGEV_THREAD_ID,
				       .sigev_signo = SIGRTMIN + 1};
	struct sigevent silent = {.sigev_notify = SIGEV_NONE};
	struct itimerval far = {.it_value = {FAR_SECONDS, 0}, .it_interval = {7, 500000}};
	struct itimerval cpu = {.it_value = {300, 0}, .it_interval = {11, 0}};

	handle(SIGRTMIN, on_tick);
	handle(SIGRTMIN + 1, on_thread_tick);
	start_thread(t);
	tick.sigev_value.sival_int = 4711;
	thread_tick._sigev_un._tid = seen.ticking_thread;
	t->deleted = make_timer(&silent, 1000000000, 0); /* ids must not close up */
	t->start = now_ns(CLOCK_MONOTONIC);
	t->far = make_timer(&tick, FAR_SECONDS * 1000000000ll, 3000000000ll);
	t->periodic = make_timer(&tick, TICK_NS, TICK_NS);
	t->silent = make_timer(&silent, FAR_SECONDS * 1000000000ll, 0);
	t->threaded = make_timer(&thread_tick, TICK_NS, TICK_NS);
	CHECK(timer_delete(t->deleted) == 0);
	CHECK(setitimer(ITIMER_REAL, &far, NULL) == 0);
	CHECK(setitimer(ITIMER_VIRTUAL, &cpu, NULL) == 0);
	CHECK(setitimer(ITIMER_PROF, &cpu, NULL) == 0);
}

static void check_about(int64_t remaining, int64_t start)
{
	int64_t expected = FAR_SECONDS * 1000000000ll - (now_ns(CLOCK_MONOTONIC) - start);

	if (remaining < expected - TOLERANCE_NS || remaining > expected + TOLERANCE_NS)
		target_fail(__FILE__, __LINE__, "remaining time", remaining, expected);
}

static void check_posix(timer_t timer, int64_t start, int64_t period)
{
	struct itimerspec spec;

	CHECK(timer_gettime(timer, &spec) == 0);
	check_about(spec.it_value.tv_sec * 1000000000ll + spec.it_value.tv_nsec, start);
	CHECK_EQ(spec.it_interval.tv_sec * 1000000000ll + spec.it_interval.tv_nsec, period);
}

static void check_interval_timers(const struct timers *t)
{
	struct itimerval val;

	CHECK(getitimer(ITIMER_REAL, &val) == 0);
	check_about(val.it_value.tv_sec * 1000000000ll + val.it_value.tv_usec * 1000ll, t->start);
	CHECK(val.it_interval.tv_sec == 7 && val.it_interval.tv_usec == 500000);
	for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; which++) {
		CHECK(getitimer(which, &val) == 0);
		CHECK(val.it_value.tv_sec >= 200 && val.it_value.tv_sec <= 300);
		CHECK(val.it_interval.tv_sec == 11);
	}
}

struct count {
	int ticks, thread_ticks;
	int64_t when;
};

static struct count count_now(void)
{
	return (struct count){seen.ticks, seen.thread_ticks, now_ns(CLOCK_MONOTONIC)};
}

/* Until both timers have ticked so often since, at least for so long. */
static struct count wait_for_ticks(const struct count *since, int ticks, int64_t ns)
{
	struct count now;

	do {
		sleep_ms(10);
		now = count_now();
		CHECK(now.when - since->when < 1000 * TICK_NS);
	} while (now.when - since->when < ns || now.ticks - since->ticks < ticks ||
		 now.thread_ticks - since->thread_ticks < ticks);
	return now;
}

/* Ticks of times when a thread got no CPU are told as overruns with the next signal: so counting
 * begins behind one, and may lag one behind. */
static void check_ticking(void)
{
	struct count first = count_now(), begin = wait_for_ticks(&first, 1, 0);
	struct count end = wait_for_ticks(&begin, 5, 10 * TICK_NS);
	int64_t due = (end.when - begin.when) / TICK_NS + 2;

	CHECK(end.ticks - begin.ticks <= due && end.thread_ticks - begin.thread_ticks <= due);
	CHECK(!seen.wrong_thread && !seen.wrong_value);
}

int main(int argc, char **argv)
{
	struct target target;
	struct timers t;

	target_start(&target, argc, argv);
	set_up(&t);
	target_ready(&target);
	target_wait(&target);

	check_ticking();
	check_posix(t.far, t.start, 3000000000ll);
	check_posix(t.silent, t.start, 0);
	check_interval_timers(&t);
	struct itimerspec spec;
	CHECK(timer_gettime(t.deleted, &spec) < 0 && errno == EINVAL);
	CHECK(timer_delete(t.periodic) == 0 && timer_delete(t.threaded) == 0);
	return target_pass(&target);
}
