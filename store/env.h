/*
 * env.h: the LMDB environment of a store: made, checked, opened, closed.
 */
#ifndef PAWL_STORE_ENV_H
#define PAWL_STORE_ENV_H

#include "store/txn.h"

#define STORE_FORMAT_VERSION 1u

/* A new, empty DIR/data.mdb, which appears whole or not at all. Under LOCK_MAKE. */
int env_make(struct store *store, struct err *err);
/* Checks the file, opens it, fills env, dbis, secret and uuid. ERR_CORRUPT, ERR_VERSION. */
int env_open(struct store *store, struct err *err);
void env_close(struct store *store);

#endif
