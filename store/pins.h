/*
 * pins.h: how a session keeps pages that it found elsewhere in the store from being freed.
 *
 * A session refers to its own pages and to its parent's: those stay. Any other page may lose its last snapshot
 * at any time, and a garbage collection marks long before it deletes. So a session first writes the ids into its
 * record (pins_add) and then looks whether the pages are there; and whoever deletes packs reads the pins of all
 * sessions in the transaction that deletes (pins_read). LMDB has one writer at a time: the one or the other came
 * first.
 *
 * What is published while a collection goes on is not in its marks: then the pins stay behind (pins_leave) until
 * that collection, or the next one, has ended. A mark in the table `meta` says that one goes on.
 */
#ifndef PAWL_STORE_PINS_H
#define PAWL_STORE_PINS_H

#include "store/idset.h"
#include "store/session.h"

/* Adds ids [first, *end) to the session's record, where no other session has reserved any of them: *end is
 * lowered to the first that is. 1, 0: `first` itself is another session's, or there are too many pins; -1. */
int pins_add(struct store_session *session, uint64_t first, uint64_t *end, struct err *err);

/* Of all sessions. */
int pins_read(struct store *store, MDB_txn *txn, struct id_ranges *ret, struct err *err);

/* The end of a session that publishes: its record goes, or stays for its pins. */
int pins_leave(struct store_session *session, MDB_txn *txn, struct err *err);

/* A collection begins; ends, and forgets what the sessions `done` have left (those that were published when it
 * looked around). */
int pins_collecting(struct store *store, struct err *err);
int pins_collected(struct store *store, const struct id_ranges *done, struct err *err);

#endif
