/*
 * hold.h: who may send snapshots of a job here (store/replica/destination.h, "fencing").
 *
 * A hold is a random token in the job's record. Whoever takes it says which version of the record he has
 * seen: of several who saw the same, one succeeds. Everything an older holder asks for fails from then on,
 * checked in the transaction that would do it.
 */
#ifndef PAWL_STORE_HOLD_H
#define PAWL_STORE_HOLD_H

#include "store/sessionkeep.h"

struct hold_view {
	uint64_t version, taken;
	uint8_t token[HOLD_TOKEN]; /* all zero: nobody */
	char holder[160];
	struct job_info job;       /* job_info_clear */
};

/* ERR_NOT_FOUND. */
int store_hold_look(struct store *store, const char *name, struct hold_view *ret, struct err *err);
/* Makes the token's bearer (all zero: it becomes a new one) the holder, if the record's version is `version` (0: there is
 * no job of that name), and the record what `job` says; or he is the holder already. ERR_FENCED: it is not; ERR_BUSY: the
 * job runs here. */
int store_hold_take(struct store *store, const struct job_info *job, uint64_t version,
		    const char *holder, uint8_t token[HOLD_TOKEN], struct err *err);
/* What is said of the job, by its holder. ERR_FENCED. */
int store_hold_put(struct store *store, const uint8_t token[HOLD_TOKEN], const struct job_info *job,
		   struct err *err);
/* Drops snapshots, by the holder; those that are gone already are fine. */
int store_hold_drop(struct store *store, const uint8_t token[HOLD_TOKEN], const char *name,
		    const uint64_t *seqs, size_t n, struct err *err);

#endif
