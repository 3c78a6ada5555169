/*
 * env.h: the LMDB environment of a store: made, checked, opened, closed.
 */
#ifndef PAWL_STORE_ENV_H
#define PAWL_STORE_ENV_H

#include "store/txn.h"

#define STORE_FORMAT_VERSION 1u

/* Bytes of the store's record, both copies. */
#define ENV_STORE_RECORD (2u * (16u + 224u))

/* What a new environment begins with: the store's record, and what fill puts (the store is open then). */
struct env_seed {
	const uint8_t *record;
	int (*fill)(void *ctx, struct err *err);
	void *ctx;
};

/* A new DIR/data.mdb, which appears whole or not at all: empty, with an identity of its own, where seed is NULL.
 * Under LOCK_MAKE, or as the only user. */
int env_make(struct store *store, const struct env_seed *seed, struct err *err);
/* Uuid and secret from the store's record. ERR_CORRUPT, ERR_VERSION. */
int env_read_record(struct store *store, const void *record, size_t len, struct err *err);
/* Checks the file, opens it, fills env, dbis, secret and uuid. ERR_CORRUPT, ERR_VERSION. */
int env_open(struct store *store, struct err *err);
void env_close(struct store *store);

#endif
