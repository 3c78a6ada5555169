/*
 * tree_root.h: what makes a process part of the job.
 *
 * A job in a capsule is all that is below the capsule's init, init itself excluded. An attached job
 * is a process that pawl did not start, with all below it; its pid may be given to another process
 * once it has ended, so that its start time counts too.
 */
#ifndef PAWL_CHECKPOINTER_TREE_ROOT_H
#define PAWL_CHECKPOINTER_TREE_ROOT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct tree_root {
	pid_t pid;     /* host */
	bool attached; /* pid itself belongs to the job, and nothing holds its orphans together */
	uint64_t start_time; /* attached: as in struct proc_stat */
};

#endif
