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

/* The namespaces must be those of the capsule's init; of an attached tree: ours. On failure nothing is
 * changed. */
int approach_begin(struct frozen_process *p, const struct tree_root *root, struct err *err);
/* Puts limits and dispatch back; filters are in force again when the threads are let go. Takes one that was
 * never begun, and one that has died. */
int approach_end(struct frozen_process *p, struct err *err);

#endif
