/*
 * Timers, and signals that were waiting to be taken.
 */
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "recovery/batch.h"
#include "store/base/units.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS	77 /* Linux 6.15 */
#define PR_TIMER_CREATE_RESTORE_IDS_ON	1
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#endif

#define MAX_ATTEMPTS 65536

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC)};
}

static struct timeval to_timeval(uint64_t ns)
{
	return (struct timeval){(time_t)(ns / NSEC_PER_SEC), (long)(ns % NSEC_PER_SEC / 1000)};
}

/* Timers of CPU time are rounded up by a tick as they are set (kernel/time/itimer.c, set_cpu_itimer), which is
 * the resolution of the coarse clocks. Zero would disarm one that is all but due. */
static struct timeval first_expiry(size_t which, uint64_t remaining)
{
	struct timespec tick = {0};
	struct timeval value;

	clock_getres(CLOCK_REALTIME_COARSE, &tick);
	if (which != ITIMER_REAL && remaining > (uint64_t)tick.tv_nsec)
		remaining -= (uint64_t)tick.tv_nsec;
	value = to_timeval(remaining);
	if (value.tv_sec == 0 && value.tv_usec == 0)
		value.tv_usec = 1;
	return value;
}

/* A timer of a thread's own time is that of the thread that makes it. */
static struct tracee *maker_of(struct stub *stub, const Snap__PosixTimer *t)
{
	for (size_t i = 0; t->made_by && i < stub->n_threads; i++)
		if (stub->model->threads[i]->tid == t->made_by)
			return &stub->threads[i];
	return &stub->threads[0];
}

/* ret: the id given, or a negative errno. */
static int create_timer(struct stub *stub, const Snap__PosixTimer *t, long *ret, struct err *err)
{
	struct remote *r = &stub->remote;
	struct sigevent event = {
		.sigev_value.sival_ptr = (void *)(uintptr_t)t->value,
		.sigev_signo = t->signal,
		.sigev_notify = t->notify,
	};
	const int32_t *id;
	int32_t wanted = t->id;
	uint64_t event_at, id_at;
	struct remote_call *call;

	if (t->notify & SIGEV_THREAD_ID)
		event._sigev_un._tid = t->thread;
	remote_reset(r);
	event_at = remote_push(r, &event, sizeof(event));
	id = remote_data(r, sizeof(*id), &id_at);
	if (!event_at || !id)
		return err_set(err, ERR_SYSTEM, "no room for timer %d", t->id);
	memcpy((void *)(uintptr_t)id, &wanted, sizeof(wanted));
	call = remote_call(r, SYS_timer_create, (uint64_t)t->clock, event_at, id_at);
	if (remote_run(r, maker_of(stub, t), err) < 0)
		return err_wrap(err, "process %d: timer %d", stub->model->pid, t->id);
	*ret = call->ret < 0 ? (long)call->ret : *id;
	remote_reset(r);
	return 0;
}

/* Older kernels count ids up: those in between are created and deleted again. */
static int create_with_id(struct stub *stub, const Snap__PosixTimer *t, struct err *err)
{
	long id = -1;

	for (int i = 0; i < MAX_ATTEMPTS; i++) {
		if (create_timer(stub, t, &id, err) < 0)
			return -1;
		if (id < 0)
			return err_code(err, (int)-id, "process %d: timer %d", stub->model->pid,
					t->id);
		if (id == t->id)
			return 0;
		if (stub_call(stub, &stub->threads[0], NULL, err, "timer", SYS_timer_delete,
			      ARGS((uint64_t)id)) < 0)
			return -1;
		if (id > t->id)
			break;
	}
	return err_set(err, ERR_UNSUPPORTED, "process %d: timer %d cannot have its id back",
		       stub->model->pid, t->id);
}

static int choose_ids(struct stub *stub, bool on, struct err *err)
{
	long ignored; /* unknown before Linux 6.15 */

	return stub_call(stub, &stub->threads[0], &ignored, err, "timer ids", SYS_prctl,
			 ARGS(PR_TIMER_CREATE_RESTORE_IDS, on ? PR_TIMER_CREATE_RESTORE_IDS_ON
							      : PR_TIMER_CREATE_RESTORE_IDS_OFF));
}

static int create_timers(struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;

	if (p->n_posix_timers == 0)
		return 0;
	if (choose_ids(stub, true, err) < 0)
		return -1;
	for (size_t i = 0; i < p->n_posix_timers; i++) {
		if (create_with_id(stub, p->posix_timers[i], err) < 0)
			return -1;
	}
	return choose_ids(stub, false, err);
}

/* clock_getcpuclockid(3): clocks of processes and threads are negative numbers. */
static bool is_cpu_clock(int32_t clock)
{
	return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID || clock < 0;
}

/* What is due goes off at once. */
static uint64_t left_after(uint64_t remaining, uint64_t passed)
{
	return remaining > passed ? remaining - passed : 1;
}

static int queue_arming(struct batch *b, const Snap__Process *p, uint64_t passed, struct err *err)
{
	for (size_t i = 0; i < p->n_posix_timers; i++) {
		const Snap__PosixTimer *t = p->posix_timers[i];
		uint64_t left = left_after(t->remaining, is_cpu_clock(t->clock) ? 0 : passed);
		struct itimerspec spec = {to_timespec(t->interval), to_timespec(left)};

		if (t->remaining == 0)
			continue;
		if (batch_room(b, 1, sizeof(spec), err) < 0 ||
		    batch_call(b, BATCH_MUST, err, SYS_timer_settime,
			       ARGS((uint64_t)t->id, 0, batch_push(b, &spec, sizeof(spec))),
			       "timer %d", t->id) < 0)
			return -1;
	}
	for (size_t i = 0; i < p->n_interval_timers; i++) {
		const Snap__IntervalTimer *t = p->interval_timers[i];
		uint64_t left = left_after(t->value, i == ITIMER_REAL ? passed : 0);
		struct itimerval value = {to_timeval(t->interval), first_expiry(i, left)};

		if (t->value == 0)
			continue;
		if (batch_room(b, 1, sizeof(value), err) < 0 ||
		    batch_call(b, BATCH_MUST, err, SYS_setitimer,
			       ARGS(i, batch_push(b, &value, sizeof(value))), "interval timer %zu",
			       i) < 0)
			return -1;
	}
	return 0;
}

/* What the job has sent itself names its old pid. */
static void rename_sender(siginfo_t *info, int32_t old, int32_t now)
{
	bool sent = info->si_code == SI_USER || info->si_code == SI_QUEUE || info->si_code == SI_TKILL ||
		    info->si_code == SI_MESGQ;

	if (sent && info->si_pid == old)
		info->si_pid = now;
}

/* A thread may send itself a signal with any siginfo (kernel/signal.c do_rt_sigqueueinfo). All are
 * blocked until the registers are set. */
static int queue_signals(struct batch *b, const ProtobufCBinaryData *pending, size_t n,
			 int32_t tgid, int32_t tid, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		siginfo_t info;
		uint64_t at, signo, id;
		int result;

		if (batch_room(b, 1, sizeof(info), err) < 0)
			return -1;
		memcpy(&info, pending[i].data, sizeof(info));
		rename_sender(&info, b->stub->model->pid, tgid);
		at = batch_push(b, &info, sizeof(info));
		signo = (uint64_t)info.si_signo;
		id = (uint64_t)tgid;
		result = tid ? batch_call(b, BATCH_MUST, err, SYS_rt_tgsigqueueinfo,
					  ARGS(id, (uint64_t)tid, signo, at), "pending signal %d",
					  info.si_signo)
			     : batch_call(b, BATCH_MUST, err, SYS_rt_sigqueueinfo,
					  ARGS(id, signo, at), "pending signal %d", info.si_signo);
		if (result < 0)
			return -1;
	}
	return 0;
}

static bool any_trap(const ProtobufCBinaryData *pending, size_t n)
{
	bool any = false;

	for (size_t i = 0; i < n; i++)
		any |= ((const siginfo_t *)(const void *)pending[i].data)->si_signo == SIGTRAP;
	return any;
}

/* The executor's own trap must not be taken for a SIGTRAP of the job's that it makes pending. */
static int send_signals(struct stub *stub, size_t thread, const ProtobufCBinaryData *pending, size_t n,
			int32_t tgid, int32_t tid, struct err *err)
{
	struct batch b;
	int result;

	stub->remote.one_by_one = any_trap(pending, n);
	batch_begin(&b, stub, &stub->threads[thread]);
	result = queue_signals(&b, pending, n, tgid, tid, err);
	if (result == 0)
		result = batch_run(&b, err);
	stub->remote.one_by_one = false;
	return result;
}

/* Those that were created by the executor were born with its mask, which lets its trap through. */
static int block_all(struct stub *stub, struct err *err)
{
	for (size_t i = 0; i < stub->n_threads; i++)
		if (tracee_set_sigmask(&stub->threads[i], UINT64_MAX, err) < 0)
			return -1;
	return 0;
}

int stub_set_timers(struct recovery *rec, struct stub *stub, struct err *err)
{
	bool new_ids = rec->host->new_ids;
	const Snap__Process *p = stub->model;
	/* Without a capsule, the job's namespace is ours. */
	int32_t pid = new_ids ? stub->pid : p->pid;
	struct batch b;

	if (create_timers(stub, err) < 0 || block_all(stub, err) < 0)
		return -1;
	if (send_signals(stub, 0, p->pending, p->n_pending, pid, 0, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (queue_arming(&b, p, recovery_time_passed(rec), err) < 0 || batch_run(&b, err) < 0)
		return -1;
	for (size_t i = 0; i < p->n_threads; i++) {
		const Snap__Thread *t = p->threads[i];

		if (send_signals(stub, i, t->pending, t->n_pending, pid,
				 new_ids ? stub->threads[i].tid : t->tid, err) < 0)
			return -1;
	}
	return 0;
}
