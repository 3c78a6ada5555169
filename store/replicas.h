/*
 * replicas.h: what a store knows of a job's copies at destinations, as of the last contact.
 */
#ifndef PAWL_STORE_REPLICAS_H
#define PAWL_STORE_REPLICAS_H

#include <stdbool.h>

#include "store/store.h"

struct replica_mark { /* a snapshot that is there */
	uint64_t seq, generation, time;
};

struct replica_state {
	char *destination;  /* owned, as are marks and error */
	uint8_t token[16];  /* of the hold last taken from here; all zero: none */
	uint8_t taking[16]; /* … or about to be taken when that was noted: it may have been; all zero: none */
	uint64_t tried, reached; /* CLOCK_REALTIME of the last attempt and the last success, ns; 0: never */
	char *error;        /* why the last attempt failed; NULL: it did not */
	struct replica_mark *marks;
	size_t n_marks;
};

void replica_state_clear(struct replica_state *state);
void replica_states_free(struct replica_state *states, size_t n);

/* *ret: malloc'ed; replica_states_free. */
int store_replicas_get(struct store *store, const char *job, struct replica_state **ret,
		       size_t *ret_n, struct err *err);
/* Replaces the state of that destination, or adds it. */
int store_replica_put(struct store *store, const char *job, const struct replica_state *state,
		      struct err *err);

/* Notes, before a hold with that token is asked for, that it may be ours from now on. */
int store_replica_taking(struct store *store, const char *job, const char *destination, const uint8_t token[16],
			 struct err *err);
/* Whether the holder of that token is this store. */
bool replica_state_owns(const struct replica_state *state, const uint8_t token[16]);

/* One process at a time copies a job to a destination: two with the same hold would sweep away each other's files.
 * *ret: a descriptor, closed to let go. ERR_BUSY. */
int store_replica_lock(struct store *store, const char *job, const char *destination, int *ret,
		       struct err *err);

/* Whether a snapshot of that identity is among the marks. */
bool replica_state_has(const struct replica_state *state, uint64_t time, uint64_t generation);

#endif
