#include "checkpointer/yielding.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/units.h"
#include "store/base/parallel.h"

/* As linux/ioprio.h, which Debian 12 does not have. */
#define IOPRIO_WHO_PROCESS  1
#define IOPRIO_BEST_EFFORT  2
#define IOPRIO_IDLE	    3
#define IOPRIO(class, data) ((class) << 13 | (data))

/* What may be done at once after a rest. */
#define BURST_NS (NSEC_PER_SEC / 20)

struct call {
	int nice;
	int (*body)(void *arg, struct err *err);
	void *arg;
	struct err *err;
	int result;
};

/* Of the calling thread alone (setpriority(2), "C library/kernel differences"). Where the system
 * does not allow it, the work is done all the same. */
static void give_way(int nice)
{
	const struct sched_param none = {0};
	int own = getpriority(PRIO_PROCESS, 0);

	if (nice == YIELD_IDLE) {
		sched_setscheduler(0, SCHED_IDLE, &none);
		syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO(IOPRIO_IDLE, 0));
		return;
	}
	setpriority(PRIO_PROCESS, 0, own + nice > 19 ? 19 : own + nice);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO(IOPRIO_BEST_EFFORT, 7));
}

static void *run(void *arg)
{
	struct call *call = arg;

	give_way(call->nice);
	call->result = call->body(call->arg, call->err);
	return NULL;
}

int yield_run(const struct yielding *how, int (*body)(void *arg, struct err *err), void *arg,
	      struct err *err)
{
	struct call call = {how->nice, body, arg, err, 0};
	pthread_t thread;

	if (how->nice == 0 || thread_start(&thread, run, &call) != 0)
		return body(arg, err);
	pthread_join(thread, NULL);
	return call.result;
}

uint64_t yield_wait_ns(struct yielding *y, uint64_t bytes, uint64_t now)
{
	uint64_t begin;

	if (y->rate == 0)
		return 0;
	begin = y->next + BURST_NS < now ? now - BURST_NS : y->next;
	y->next = begin + (uint64_t)((double)bytes * 1e9 / (double)y->rate);
	return begin > now ? begin - now : 0;
}

void yield_pace(struct yielding *y, uint64_t bytes)
{
	uint64_t wait = yield_wait_ns(y, bytes, clock_ns(CLOCK_MONOTONIC));
	struct timespec rest = {(time_t)(wait / NSEC_PER_SEC), (long)(wait % NSEC_PER_SEC)};

	while (wait && nanosleep(&rest, &rest) < 0 && errno == EINTR)
		;
}
