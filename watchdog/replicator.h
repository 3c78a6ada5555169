/*
 * replicator.h: the thread that copies a job's snapshots to one destination, behind the job's back.
 *
 * Whatever the destination does (hang, be full, be gone), the job and its snapshots wait for nothing here. The
 * newest snapshot that is not there goes first; older ones that it supersedes are not sent any more. What
 * fails is tried again, ever more rarely up to a minute. What is where is kept in the job's record
 * (store/replicas.h).
 */
#ifndef PAWL_WATCHDOG_REPLICATOR_H
#define PAWL_WATCHDOG_REPLICATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "store/replica/destination.h"
#include "watchdog/watchdog.h"

struct replicator;

struct replicator_config {
	struct store *store;
	const char *job;
	const char *destination;
	struct retention retention;
	int wake; /* eventfd that is written when fenced */
	bool succeeds; /* the job was handed over by another machine, which may hold it there: it is taken unless
			* somebody else has resumed it */
};

/* d: becomes the replicator's; hold NULL: not taken yet, because the destination did not answer (then it is taken at
 * the first contact, unless somebody else has since). */
int replicator_start(struct replicator **ret, const struct replicator_config *config,
		     struct destination *d, const struct replica_hold *hold, struct err *err);
/* There may be a new snapshot. */
void replicator_nudge(struct replicator *r);
/* Somebody has asked the watchdog for something, and gets there by ssh as `theirs` says (ssh_environment_get): from the
 * next connection on so do we, who may have been started long ago. */
void replicator_environment(struct replicator *r, char *const *theirs);
/* True once somebody else has resumed the job: *ret says who. Nothing is sent any more. */
bool replicator_fenced(struct replicator *r, struct err *ret);
const char *replicator_destination(const struct replicator *r);

/* The end, first for all, then for each. The last snapshot and the job's record are to get there by `deadline`
 * (CLOCK_MONOTONIC). */
void replicator_end(struct replicator *r, const struct job_info *job);
/* Waits. True: it is all there; else *ret says why not. Frees where the thread has ended; else it goes on until the
 * process ends, with what it was given. *ret_left: whether it goes on. */
bool replicator_finish(struct replicator *r, uint64_t deadline, bool *ret_left, struct err *ret);

#endif
