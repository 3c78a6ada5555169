/*
 * yielding.h: hashing, compression and writing give way to the job: they run at a lower priority,
 * and no faster than allowed.
 *
 * A thread that has lowered its priority needs a privilege to raise it again (setpriority(2),
 * sched(7)), and what the job waits for must not be done at a low one. So such work gets a thread
 * of its own each time, about 50 µs; threads that this one starts inherit what it has.
 */
#ifndef PAWL_CHECKPOINTER_YIELDING_H
#define PAWL_CHECKPOINTER_YIELDING_H

#include <stdint.h>

#include "store/base/err.h"

#define YIELD_IDLE 20 /* instead of a nice value: runs only where nothing else would (SCHED_IDLE)  \
		       */

struct yielding {
	int nice;      /* added to our own, 0 to 19; or YIELD_IDLE; 0: no thread, nothing changes */
	uint64_t rate; /* bytes of pages a second; 0: no limit */
	uint64_t next; /* CLOCK_MONOTONIC: when the next bytes are due; the callee's */
};

/* Runs body(arg) so, and waits for it; its result. Where no thread can be had, it runs in the
 * caller. */
int yield_run(const struct yielding *how, int (*body)(void *arg, struct err *err), void *arg,
	      struct err *err);

/* How long to wait before so many bytes: the average of more than a moment stays below the rate.
 * Pure but for y->next. */
uint64_t yield_wait_ns(struct yielding *y, uint64_t bytes, uint64_t now);
/* Waits so long. */
void yield_pace(struct yielding *y, uint64_t bytes);

#endif
