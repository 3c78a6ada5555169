/*
 * freeze.h: a process tree that stands still.
 *
 * Every thread of every process of the job is seized and interrupted until no new one appears. The
 * tree stays as it is until thaw_tree or kill_tree.
 */
#ifndef PAWL_CHECKPOINTER_FREEZE_H
#define PAWL_CHECKPOINTER_FREEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <sys/resource.h>

#include "checkpointer/tracee/filters.h"
#include "checkpointer/tracee/procfs.h"
#include "checkpointer/tracee/tracee.h"
#include "checkpointer/tree_root.h"
#include "store/base/err.h"

#define FROZEN_LIFTED 4

struct frozen_thread {
	struct tracee tracee;
	pid_t vtid;		   /* in the capsule */
	uint64_t slept_since;	   /* CLOCK_MONOTONIC when it went to sleep, 0: unknown */
	struct proc_status status; /* of all but the first: see frozen_status */
	bool resolved;		   /* its registers are those that it goes on with */
	bool own_fs;		   /* a working directory and umask of its own */
	bool has_dispatch;	   /* approach.h: switched off, and to be switched on again */
	struct dispatch_config dispatch;
};

struct frozen_process {
	pid_t pid;	    /* host; under which /proc shows it: a living thread's */
	pid_t tgid;	    /* host: its true one. Differs only when leader_exited */
	bool leader_exited; /* the first thread is a zombie, and not in threads */
	pid_t vpid, vppid, vpgid, vsid;
	bool zombie;
	struct proc_stat stat;
	struct proc_status status;
	struct frozen_thread **threads; /* the leader first; empty for a zombie */
	size_t n_threads;
	struct rlimit limits[FROZEN_LIFTED]; /* approach.h: its own, where lifted */
	bool limit_lifted[FROZEN_LIFTED];
};

/* What /proc says of the thread: credentials and filters are each thread's own. */
static inline const struct proc_status *frozen_status(const struct frozen_process *p,
						      const struct frozen_thread *t)
{
	return t == p->threads[0] ? &p->status : &t->status;
}

struct frozen_tree {
	struct frozen_process *processes; /* parents before children */
	size_t n;
	uint64_t begin_ns; /* CLOCK_MONOTONIC when the first thread was asked to stop */
};

/* Freezes all of the job. ERR_GONE: nothing is left to freeze. ERR_BUSY: a thread did not stop in
 * good time (it is named), or more came than could be stopped: worth another try. On failure
 * everything that was stopped runs again. */
int freeze_tree(struct frozen_tree *ret, const struct tree_root *root, struct err *err);
/* Lets all run on. Takes a zeroed tree. Frees. */
void thaw_tree(struct frozen_tree *tree);
/* Ends all with SIGKILL, reaps what we trace. Frees. */
void kill_tree(struct frozen_tree *tree);

/* Host pids of the job's processes, parents before children, as they are now. *ret malloc'ed. */
int list_tree(const struct tree_root *root, pid_t **ret, size_t *ret_n, struct err *err);

/* vfork.c: waits for a moment until nobody is in vfork(2). ERR_BUSY names who is still. */
int vfork_await(const struct tree_root *root, struct err *err);

/* Forgets thread i, which is gone. */
void frozen_drop_thread(struct frozen_process *p, size_t i);

/* freeze_settle.c: waits until every thread that was asked to has stopped, and drops the dead. A
 * thread in vfork(2) stops only once its child has executed a program or ended: that is let run on
 * meanwhile, and *ran set. */
int freeze_settle(struct frozen_tree *tree, bool *ran, struct err *err);

#endif
