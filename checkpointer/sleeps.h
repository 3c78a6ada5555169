/*
 * sleeps.h: timed waits that only the kernel knows the rest of.
 *
 * A thread interrupted in nanosleep, poll or a futex wait with a relative timeout goes on through
 * restart_syscall(2) with an absolute end that no interface shows. What can be known is when the thread
 * went to sleep (sleepnotes.h, taken before the freeze); it is kept here from one snapshot to the next
 * because every freeze wakes the thread and because the second time its call number reads
 * restart_syscall.
 */
#ifndef PAWL_CHECKPOINTER_SLEEPS_H
#define PAWL_CHECKPOINTER_SLEEPS_H

#include <stdint.h>

#include "checkpointer/freeze.h"
#include "checkpointer/tracee/arch.h"
#include "store/snapshot.h"

struct sleeps;

int sleeps_new(struct sleeps **ret, struct err *err);
void sleeps_free(struct sleeps *sleeps);

/* Threads of a recovered snapshot go on sleeping where it left them. lead: of the job's CLOCK_MONOTONIC
 * before ours (proc_clock_lead). */
void sleeps_seed(struct sleeps *sleeps, const Snap__Snapshot *model, int64_t lead);

/* How a thread that was stopped in a call goes on. */
struct resumption {
	struct arch_regs saved; /* rewound, where it was in a call */
	bool restart;           /* a timed wait by the kernel's restart_block */
	uint64_t elapsed;       /* ns that it had waited already */
	uint32_t code;          /* any other call: enum arch_restart_code, else 0 */
	bool live_changed;
};

/*
 * Called with the thread's registers as frozen. *ret is what the snapshot holds; *live is changed (live_changed)
 * where the thread itself must go on differently: a call that even a mere stop ends with EINTR is made again, with
 * what is left of its timeout.
 */
int sleeps_resolve(struct sleeps *sleeps, struct frozen_process *process,
		   struct frozen_thread *thread, struct arch_regs *live, struct resumption *ret,
		   struct err *err);

/* Of a tree that is frozen and let go without being described: what the next one has to know, and every thread
 * goes on as if it had not been stopped. */
void sleeps_note(struct sleeps *sleeps, struct frozen_tree *tree);

#endif
