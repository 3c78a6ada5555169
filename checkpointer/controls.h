/*
 * controls.h: what prctl(2) and its like set, for collect_process.c and collect_threads.c.
 */
#ifndef PAWL_CHECKPOINTER_CONTROLS_H
#define PAWL_CHECKPOINTER_CONTROLS_H

#include "checkpointer/collect.h"
#include "checkpointer/tracee/controls.h"

/* Asks the process; refuses keyrings of its own, shadow stacks and tagged pointers. */
int collect_process_controls(struct collected_process *p, struct err *err);

/* Asked in the same batch as the rest of a thread; valid until the executor is reset. */
struct thread_queries {
	int *tsc;
	struct remote_call *mce_kill, *io_flusher, *cpuid, *securebits, *speculation[N_SPECULATION];
};
void queue_thread_controls(struct remote *r, struct thread_queries *q);
int take_thread_controls(struct collected_process *p, struct frozen_thread *thread,
			 const struct thread_queries *q, Snap__Thread *t, struct err *err);
/* Where they are not those of the process (collect_process.c). */
int collect_thread_credentials(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m,
			       uint32_t securebits, struct err *err);

/* With m->control there. Refuses SCHED_DEADLINE. */
int collect_scheduling(const struct collected_process *p, const struct frozen_thread *t, Snap__Thread *m,
		       struct err *err);
int collect_dispatch(const struct frozen_thread *t, Snap__Thread *m, struct err *err);
/* Mode and filters of seccomp(2) (collect_seccomp.c). */
int collect_seccomp(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m,
		    struct err *err);

#endif
