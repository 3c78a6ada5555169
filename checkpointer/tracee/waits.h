/*
 * waits.h: a tracer that waits in vain.
 *
 * The first thread of a process can be waited for only after all others of its process have been, also where a
 * SIGKILL has ended them at once (kernel/exit.c, wait_consider_task: delay_group_leader). A tracer that waits for
 * just that one to stop, and traces the others too, hears nothing. It cannot look about while it waits, and to wait
 * for all of its tracees would cost a walk over thousands at each stop; so another thread looks after it.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_WAITS_H
#define PAWL_CHECKPOINTER_TRACEE_WAITS_H

#include <sys/types.h>

/* To be called now and then while the thread `tracer`, another one of this process, works with tracees. Where it waits
 * for a first thread that has ended, the other threads of that process which have ended are waited for, and the tracer's
 * wait comes to its end once all have. The tracer then finds those gone (ERR_GONE; exited_on_us is false). */
void tracee_end_vain_wait(pid_t tracer);

#endif
