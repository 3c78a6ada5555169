/*
 * interrupted.h: system calls that end with EINTR because their thread was stopped, and for nothing else.
 *
 * Most calls go on by themselves after a stop. Some do not (signal(7), "Interruption of system calls and library
 * functions by stop signals"), and a job that was only looked at must not notice: they are made again, with what is
 * left of their timeout.
 */
#ifndef PAWL_CHECKPOINTER_INTERRUPTED_H
#define PAWL_CHECKPOINTER_INTERRUPTED_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpointer/freeze.h"
#include "checkpointer/tracee/arch.h"

/* ns for which the frozen thread has slept; 0: unknown. */
uint64_t interrupted_slept(const struct frozen_thread *thread);

/* live: the thread's registers as frozen, of kind ARCH_INTERRUPTED. Changes them so that the call is made again;
 * *ret_again false, and nothing is changed: a signal is due, and the EINTR stands. */
int interrupted_make_again(struct frozen_process *process, struct frozen_thread *thread, struct arch_regs *live,
			   bool *ret_again, struct err *err);

/* The same with the thread itself, whatever it does. One that has been resolved (sleeps.h) goes on as it is. */
int interrupted_settle(struct frozen_process *process, struct frozen_thread *thread, struct err *err);

#endif
