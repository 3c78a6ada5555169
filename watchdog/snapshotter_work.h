/* snapshotter_work.h: what the snapshot thread does with a command; its own data. */
#ifndef PAWL_WATCHDOG_SNAPSHOTTER_WORK_H
#define PAWL_WATCHDOG_SNAPSHOTTER_WORK_H

#include <stdatomic.h>

#include "watchdog/move.h"
#include "watchdog/snapshotter.h"

struct snap_target {
	const struct capsule *capsule;
	struct checkpoint_config config;
	uint64_t parent; /* seq the next snapshot is taken against, 0: none */
	bool fresh;	 /* not looked at yet: the checkpointer is another's */
};

struct snap_work {
	struct snapshotter_config config;
	int wake; /* eventfd of the main thread */
	struct snap_target next, target;
	struct checkpointer *checkpointer;
	struct recovery *recovery; /* rebuilt, not released */
	atomic_bool cancelled;
	uint64_t garbage; /* bytes of snapshots that were dropped since space was freed … */
	bool freed;	  /* … which this watchdog has done */
	struct move *move; /* the final snapshot that is being taken is the job's leaving; or NULL */
};

void snap_work_do(struct snap_work *w, const struct snap_command *command,
		  struct snap_result *result);
/* Drops what the retention rule drops, but not `protect` (seq, 0: none), and frees its space when there is enough. */
void snap_work_thin(struct snap_work *w, uint64_t protect);
void snap_work_end(struct snap_work *w);

/* `sh -c command` with PAWL_JOB and, for seq not 0, PAWL_SNAPSHOT. Its exit status; 127 where it
 * could not be started, 128+N where signal N ended it. Output goes to standard error. */
int run_hook(const char *command, const char *job, uint64_t seq, const sigset_t *mask);

#endif
