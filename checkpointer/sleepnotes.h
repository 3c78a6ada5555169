/*
 * sleepnotes.h: since when threads sleep, as the scheduler knows it.
 *
 * Taken before a freeze, which wakes every thread. The source is se.exec_start of
 * /proc/PID/task/TID/sched: a thread's last moment on a CPU, on that CPU's own clock. These clocks
 * stand still while the hypervisor has taken the CPU away (kernel/sched/core.c,
 * update_rq_clock_task), so those of two CPUs drift apart without bound: each is compared with
 * CLOCK_MONOTONIC on its own CPU.
 */
#ifndef PAWL_CHECKPOINTER_SLEEPNOTES_H
#define PAWL_CHECKPOINTER_SLEEPNOTES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* It costs two files a thread: threads beyond so many have no note. */
#define SLEEP_NOTES_MOST 256

struct sleep_notes {
	struct {
		pid_t tid;
		uint64_t since;
	} note[SLEEP_NOTES_MOST];
	size_t n;
};

/* Of all sleeping threads of the processes. Moves the calling thread from CPU to CPU meanwhile; its
 * affinity is put back. What cannot be known has no note. */
void sleep_notes_take(struct sleep_notes *ret, const pid_t *pids, size_t n);
/* CLOCK_MONOTONIC when the thread went to sleep, never earlier than it did; 0: unknown. */
uint64_t sleep_notes_find(const struct sleep_notes *notes, pid_t tid);

#endif
