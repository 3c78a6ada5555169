/*
 * caller.h: what pawl was started with and the job must find unchanged: signal mask, dispositions,
 * inherited descriptors. Taken before pawl changes any of it.
 */
#ifndef PAWL_WATCHDOG_CALLER_H
#define PAWL_WATCHDOG_CALLER_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "checkpointer/checkpointer.h"
#include "store/base/err.h"

struct caller {
	sigset_t mask;
	struct sigaction sigchld;
	bool closed[3]; /* standard streams that were closed; their numbers are held by /dev/null
			   now */
	int *fds;	/* inherited descriptors above 2 without FD_CLOEXEC, ascending; owned */
	size_t n_fds;
	/* Those of them whose other ends are outside the job: pipes and sockets. Owned; outlives
	 * fds. */
	struct capsule_stream *outside;
	size_t n_outside;
};

/* Also reserves the numbers 0 to 2 and gives SIGCHLD its default disposition (an ignored one would
 * let the kernel reap our children). */
int caller_capture(struct caller *ret, struct err *err);

/* Closes the inherited descriptors here: the job has its own, and a pipe that the job closes must
 * really be closed. */
void caller_release_fds(struct caller *caller);

/* Mask and dispositions back to what they were. For the end, and for children before exec. */
void caller_restore(const struct caller *caller);
void caller_clear(struct caller *caller);

#endif
