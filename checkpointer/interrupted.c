#include "checkpointer/interrupted.h"

#include <time.h>

#include "store/base/io.h"
#include "store/base/units.h"

uint64_t interrupted_slept(const struct frozen_thread *t)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	return t->slept_since && t->slept_since < now ? now - t->slept_since : 0;
}

/* A signal that is about to be delivered is why the call ended: then its EINTR stands. */
static int signal_is_due(struct tracee *t, bool *ret, struct err *err)
{
	uint64_t mask, pending;

	if (tracee_get_sigmask(t, &mask, err) < 0 || tracee_pending_signals(t, &pending, err) < 0)
		return -1;
	*ret = pending & ~mask;
	return 0;
}

/* A call that is made again waits for what is left. Its timeout may lie in memory that is not ours to
 * change, so it is pointed to a shorter one below the stack; the kernel copies it as the call begins.
 * Where that cannot be done it waits its whole time again. */
static void shorten_timeout(struct frozen_process *p, struct arch_regs *live, uint64_t elapsed)
{
	int arg = arch_timeout_arg(live);
	uint64_t pointer = arg < 0 ? 0 : arch_call_arg(live, (unsigned)arg);
	uint64_t scratch, timeout, left;
	struct timespec ts;
	struct err ignored;

	arch_shorten_timeout(live, elapsed);
	if (!pointer || mem_read(p->pid, pointer, &ts, sizeof(ts), &ignored) < 0 || ts.tv_sec < 0 ||
	    (uint64_t)ts.tv_sec > UINT64_MAX / NSEC_PER_SEC - 1)
		return;
	timeout = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
	left = elapsed < timeout ? timeout - elapsed : 0;
	ts.tv_sec = (time_t)(left / NSEC_PER_SEC);
	ts.tv_nsec = (long)(left % NSEC_PER_SEC);
	scratch = arch_scratch(live, sizeof(ts));
	if (mem_write(p->pid, scratch, &ts, sizeof(ts), &ignored) == 0)
		arch_set_call_arg(live, (unsigned)arg, scratch);
}

int interrupted_make_again(struct frozen_process *process, struct frozen_thread *thread, struct arch_regs *live,
			   bool *ret_again, struct err *err)
{
	bool due;

	if (signal_is_due(&thread->tracee, &due, err) < 0)
		return -1;
	*ret_again = !due;
	if (due)
		return 0;
	shorten_timeout(process, live, interrupted_slept(thread));
	arch_make_again(live);
	return 0;
}

int interrupted_settle(struct frozen_process *process, struct frozen_thread *thread, struct err *err)
{
	struct arch_regs live;
	bool again;

	if (thread->resolved || thread->tracee.state != TRACEE_STOPPED)
		return 0;
	if (tracee_get_regs(&thread->tracee, &live, err) < 0)
		return -1;
	if (arch_restart_kind(&live) != ARCH_INTERRUPTED)
		return 0;
	if (interrupted_make_again(process, thread, &live, &again, err) < 0)
		return -1;
	return again ? tracee_set_regs(&thread->tracee, &live, err) : 0;
}
