/*
 * trial.h: whether a snapshot can be rebuilt here, tried.
 */
#ifndef PAWL_WATCHDOG_TRIAL_H
#define PAWL_WATCHDOG_TRIAL_H

#include "store/store.h"

struct trial_result {
	uint64_t seq;
	uint32_t processes;
	uint64_t pages; /* compared */
};

/* Rebuilds the processes of a snapshot (seq 0: the newest), stopped, in a capsule that exists for this only,
 * compares their memory with what is stored, and ends them. Nothing outside that capsule is touched, neither
 * files nor sockets, whether the job runs or not: so descriptors are not opened. Problems (it cannot be
 * rebuilt here, memory differs) are reported and counted; -1: it could not be tried. Ends with the calling
 * thread (capsule.h). */
int trial_run(struct store *store, const char *job, uint64_t seq, verify_report *report, void *ctx,
	      uint64_t *ret_problems, struct trial_result *ret, struct err *err);

#endif
