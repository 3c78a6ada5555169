/*
 * salvage.h: the part of store_salvage that makes a new data.mdb of what can be read in a damaged one.
 */
#ifndef PAWL_STORE_SALVAGE_H
#define PAWL_STORE_SALVAGE_H

#include "store/txn.h"

/* The store is not open, but locked for us alone. Its data.mdb becomes data.mdb.damaged, and a new one has all
 * records and pages of it whose checksums are good. ERR_CORRUPT: not even the store's own record, without which no
 * checksum can be told, is there. On errors everything is as it was. */
int salvage_env(struct store *store, struct err *err);

#endif
