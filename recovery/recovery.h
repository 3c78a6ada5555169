/*
 * recovery.h: from a snapshot back to a live process tree.
 *
 * Two halves. The plan is pure: model in, ordered and printable steps out, with everything this
 * machine must offer checked before anything is created. The steps then rebuild, inside a capsule
 * that the caller (the watchdog) has made and whose init spawns empty stub processes for us.
 *
 * Afterwards every process is stopped under ptrace with its registers set: recovery_release lets them
 * run, or recovery_free without it ends them. On any error all stubs are killed, and files that were
 * put back are as the snapshot has them (they belong to the job); nothing half-written remains.
 */
#ifndef PAWL_RECOVERY_RECOVERY_H
#define PAWL_RECOVERY_RECOVERY_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "store/base/err.h"
#include "store/store.h"

/* What recovery needs of the capsule. Implemented by watchdog/capsule. */
struct recovery_host {
	void *ctx;
	/* Asks the capsule's init for a child with pid `vpid` (clone3 set_tid) that blocks all signals and
	 * waits in a loop. *ret_pid is its pid in our namespace, *ret_pidfd is the caller's to close. */
	int (*spawn)(void *ctx, pid_t vpid, pid_t *ret_pid, int *ret_pidfd, struct err *err);
	/* A socket whose other end every stub has at descriptor number stub_socket: descriptors are sent
	 * into stubs through it (SCM_RIGHTS), one stub at a time. */
	int socket;
	int stub_socket;
	/* Descriptors that stand for the capsule's streams 0, 1, 2 and its terminal's slave; -1: none. The
	 * watchdog's own; recovery sends copies. */
	int stream[3];
	int terminal;
	bool user_namespace;
	/* Pids cannot be chosen: the job gets new ones (store/new_ids.h), and spawn takes no heed of vpid. */
	bool new_ids;
	pid_t init; /* of the capsule, in our namespace: its /proc/PID/root is the capsule's; 0: no capsule */
};

struct recovery;
struct lazy;
struct ahead; /* ahead.h */

struct recovery_options {
	bool dry_run;      /* print the plan to plan_out, create nothing */
	FILE *plan_out;    /* may be NULL */
	bool leave_files;  /* a trial: memory, threads and attributes only, nothing outside the capsule */
	/* In a trial: told of each run of pages that are not as stored; may be NULL. pid: the model's. */
	void (*differs)(void *ctx, pid_t pid, uint64_t address, uint64_t pages);
	void *ctx;
	/* The snapshot is `seq` of `job`: it is kept in the store while it is read. NULL: that is the caller's
	 * affair. */
	const char *job;
	uint64_t seq;
	/* What of the memory can be filled while the job runs is left to that (lazy.h). Needs job. */
	bool lazy;
	struct ahead *ahead; /* whose donor is of this host; used up. Or NULL */
};


struct recovery_result {
	pid_t leader;           /* host pid of the job's leader */
	uint64_t pages, bytes;  /* filled */
	uint64_t compared;      /* pages, in a trial */
	uint64_t wall_us;
	struct lazy *lazy;      /* NULL: all memory is there. Of recovery until it is released, then the caller's */
};

/* Checks model against this machine and prints/keeps the plan. Creates nothing. */
int recovery_check(const Snap__Snapshot *model, struct store *store,
		   const struct recovery_options *options, struct err *err);

/* Whether its processes can get their parents, sessions, groups and what they share again; pure, and little
 * work. ERR_UNSUPPORTED names the process. For checkpoint_config's check_model. */
int recovery_check_relations(const Snap__Snapshot *model, struct err *err);

/* Rebuilds all of it, stopped. The model and host must outlive it. ERR_NOT_FOUND where the snapshot has been removed
 * before anything was done; later that does no harm. */
int recovery_rebuild(struct recovery **ret, struct store *store, const Snap__Snapshot *model,
		     const struct recovery_host *host, const struct recovery_options *options,
		     struct recovery_result *ret_result, struct err *err);
/* Lets the job run (stopped: leaves each process in a SIGSTOP for a debugger). Frees, and gives away what
 * recovery_result has as `lazy`, also after a failure. */
int recovery_release(struct recovery *recovery, bool stopped, struct err *err);
/* Kills what was built. Takes NULL. */
void recovery_free(struct recovery *recovery);

#endif
