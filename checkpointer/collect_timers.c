#include "checkpointer/collect.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"

/* POSIX timers: /proc lists them, what remains of each the process is asked. */

#define CALLS_BETWEEN 64

static uint64_t timespec_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * NSEC_PER_SEC + (uint64_t)ts->tv_nsec;
}

/* A timer's target as the capsule numbers it. */
static pid_t timer_thread(const struct collected_process *p, pid_t host_tid)
{
	for (size_t i = 0; i < p->frozen->n_threads; i++)
		if (p->frozen->threads[i]->tracee.tid == host_tid)
			return p->frozen->threads[i]->vtid;
	return 0;
}

struct timer_query {
	struct itimerspec *spec;
	struct remote_call *get, *overrun;
};

static int add_timer(struct collected_process *p, const struct proc_timer *t,
		     const struct timer_query *q, struct err *err)
{
	Snap__PosixTimer *m = snap_append(&p->model->posix_timers, &p->model->n_posix_timers,
					  Snap__PosixTimer, SNAP__POSIX_TIMER__INIT);

	if (!m)
		return err_set(err, ERR_SYSTEM, "out of memory while describing timers");
	m->id = t->id;
	m->clock = t->clock;
	m->notify = t->notify;
	m->signal = t->signal;
	m->value = t->sigev_value;
	m->thread = t->notify & SIGEV_THREAD_ID ? timer_thread(p, t->target) : 0;
	if (q->get->ret == 0) {
		m->remaining = timespec_ns(&q->spec->it_value);
		m->interval = timespec_ns(&q->spec->it_interval);
	}
	m->overrun = q->overrun->ret > 0 ? (int32_t)q->overrun->ret : 0;
	return 0;
}

/* CLOCK_THREAD_CPUTIME_ID, and what /proc shows for it: a thread's clock without its number
 * (include/linux/posix-timers_types.h, CPUCLOCK_PERTHREAD). */
static bool is_own_time(int32_t clock)
{
	return clock == CLOCK_THREAD_CPUTIME_ID || (clock < 0 && clock & 4 && ~(clock >> 3) == 0);
}

/* That is the time of the thread that has made the timer, and nothing shows which that was.
 * Its timer runs on while it makes calls, and stands still while another does. */
static int runs_with(struct collected_process *p, const Snap__PosixTimer *timer, struct tracee *thread, bool *ret,
		     struct err *err)
{
	struct itimerspec *before, *after;
	uint64_t before_at, after_at;
	int result;

	before = remote_data(&p->remote, sizeof(*before), &before_at);
	after = remote_data(&p->remote, sizeof(*after), &after_at);
	remote_call(&p->remote, SYS_timer_gettime, (uint64_t)timer->id, before_at);
	for (int i = 0; i < CALLS_BETWEEN; i++)
		remote_call(&p->remote, SYS_getpid, 0);
	remote_call(&p->remote, SYS_timer_gettime, (uint64_t)timer->id, after_at);
	result = remote_run(&p->remote, thread, err);
	*ret = result == 0 && timespec_ns(&after->it_value) != timespec_ns(&before->it_value);
	remote_reset(&p->remote);
	return result;
}

/* Of one that is not armed there is no telling: whom it signals is as good a guess as any. */
static int find_maker(struct collected_process *p, Snap__PosixTimer *timer, struct err *err)
{
	bool found = false;

	timer->made_by = timer->thread;
	for (size_t i = 0; timer->remaining && !found && i < p->frozen->n_threads; i++) {
		if (runs_with(p, timer, &p->frozen->threads[i]->tracee, &found, err) < 0)
			return -1;
		if (found)
			timer->made_by = p->frozen->threads[i]->vtid;
	}
	return 0;
}

static int find_makers(struct collected_process *p, struct err *err)
{
	for (size_t i = 0; i < p->model->n_posix_timers; i++) {
		Snap__PosixTimer *timer = p->model->posix_timers[i];

		if (is_own_time(timer->clock) && p->frozen->n_threads > 1 &&
		    find_maker(p, timer, err) < 0)
			return -1;
	}
	return 0;
}

int collect_posix_timers(struct collected_process *p, struct err *err)
{
	struct proc_timer *timers = NULL;
	cleanup_free struct timer_query *queries = NULL;
	size_t n = 0;
	int result = 0;

	if (proc_read_timers(p->frozen->pid, &timers, &n, err) < 0)
		return err->kind == ERR_NOT_FOUND ? 0 : -1;
	queries = calloc(n + 1, sizeof(*queries));
	if (!queries)
		result = err_set(err, ERR_SYSTEM, "out of memory while describing timers");
	for (size_t i = 0; result == 0 && i < n; i++) {
		uint64_t addr;

		queries[i].spec = remote_data(&p->remote, sizeof(*queries[i].spec), &addr);
		queries[i].get = remote_call(&p->remote, SYS_timer_gettime, (uint64_t)timers[i].id, addr);
		queries[i].overrun =
			remote_call(&p->remote, SYS_timer_getoverrun, (uint64_t)timers[i].id);
		if (!queries[i].spec || !queries[i].get || !queries[i].overrun)
			result = err_set(err, ERR_UNSUPPORTED, "process %d: it has %zu POSIX timers",
					 p->frozen->vpid, n);
	}
	if (result == 0)
		result = remote_run(&p->remote, &p->frozen->threads[0]->tracee, err);
	for (size_t i = 0; result == 0 && i < n; i++)
		result = add_timer(p, &timers[i], &queries[i], err);
	remote_reset(&p->remote);
	free(timers);
	return result < 0 ? -1 : find_makers(p, err);
}
