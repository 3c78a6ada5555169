/*
 * attached.h: a process tree that pawl did not start, as the job.
 *
 * It stands where a capsule otherwise does: what asks for the job's processes or waits for its end
 * need not know the difference. But it is not pawl's to kill: capsule_kill and capsule_destroy let
 * it be.
 */
#ifndef PAWL_WATCHDOG_ATTACHED_H
#define PAWL_WATCHDOG_ATTACHED_H

#include "checkpointer/checkpointer.h"
#include "store/base/err.h"
#include "store/store.h"
#include "watchdog/capsule.h"

/* The root of the tree, as found. */
struct attach_target {
	pid_t pid;
	uint64_t start_time; /* as in struct proc_stat */
	char **argv;	     /* NULL-terminated, owned */
	size_t argc;
	char *cwd; /* owned */
};

/* Looks at pid and whether it can be attached to; the error names what forbids it. Touches nothing.
 */
int attach_target_read(struct attach_target *ret, pid_t pid, struct err *err);
void attach_target_clear(struct attach_target *target);
/* Whether the job's record is about this very process. */
bool attach_target_is(const struct attach_target *target, const struct job_info *job);

/* ERR_BUSY where another pawl has attached to it. */
int attached_create(struct capsule **ret, const struct attach_target *target, struct err *err);

/* Whether the attached process that the record names still runs: then recovering the job would make
 * it run twice. */
bool attached_still_runs(const struct job_info *job);

/* How the root ended, as wait(2) says it. We are not its parent: false where the kernel does not
 * tell. */
bool attached_exit_status(const struct capsule *capsule, int *ret);

/* What the tree has of its surroundings: terminal and streams as its root has them at 0 to 2, and
 * pipes whose other end no process of the tree has. *ret_outside: malloc'ed. */
struct attached_streams {
	struct capsule_stream stream[3], terminal;
	struct capsule_stream *outside;
	size_t n_outside;
};
int attached_streams_find(struct attached_streams *ret, const struct tree_root *root,
			  struct err *err);
void attached_streams_clear(struct attached_streams *streams);

/* What a snapshot of pid and all below it would hold, and what it could not (checkpointer_look). */
int attached_look(pid_t pid, Snap__Snapshot **ret_model, struct refusals *ret_refusals,
		  struct err *err);

#endif
