/*
 * approach.h: what must be known of a frozen process, and out of the way, before a system call may be made
 * in its name.
 *
 * A filter may answer our call by killing the job, a dispatcher may hand it to the job's own handler, a
 * small limit may make it fail. So filters are suspended where that is allowed, dispatch is switched off and
 * soft limits are lifted to the hard ones, for as long as the process stands still. What cannot be got out
 * of the way, or can be seen not to be savable, is refused by name here (ERR_UNSUPPORTED).
 */
#ifndef PAWL_CHECKPOINTER_APPROACH_H
#define PAWL_CHECKPOINTER_APPROACH_H

#include "checkpointer/freeze.h"

/* The namespaces that the processes of a job have to be in: those of the capsule's init; of an attached tree: ours. */
#define NAMESPACES_MOST 9
struct namespaces {
	struct namespace_link {
		char text[64];
		ssize_t len; /* negative: it cannot be asked for */
	} of[NAMESPACES_MOST];
};
void namespaces_read(struct namespaces *ret, const struct tree_root *root);

/* On failure nothing is changed. */
int approach_begin(struct frozen_process *p, const struct namespaces *job, struct err *err);
/* Puts limits and dispatch back; filters are in force again when the threads are let go. Takes one that was
 * never begun, and one that has died. */
int approach_end(struct frozen_process *p, struct err *err);

#endif
