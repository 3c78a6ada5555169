/*
 * gc.h: the parts of a garbage collection: look and mark (mark.c), sweep (sweep.c, merge.c), give back
 * (compact.c).
 *
 * Nothing is counted: what no snapshot leads to is free. That is safe because pages and nodes are
 * reused only from a session's parent snapshot, which stays while the session lives, or from the
 * session itself, whose ids no sweep touches, or are pinned, which every transaction that deletes
 * packs looks at (pins.h). So what is unreachable now, and not pinned when it is deleted, stays so.
 */
#ifndef PAWL_STORE_GC_H
#define PAWL_STORE_GC_H

#include "store/idset.h"
#include "store/source.h"

struct gc_root_key {
	uint8_t bytes[16];
};

struct gc {
	struct store *store;
	struct gc_stats stats;
	bool thorough; /* STORE_GC_THOROUGH */
	uint64_t began, took; /* the last write transaction, CLOCK_MONOTONIC; nanoseconds */
	/* As one read transaction saw it: */
	struct next_ids next;                   /* ids from here on are not judged */
	struct id_ranges live_pages, live_nodes; /* reserved by sessions: not judged either */
	uint64_t *roots;
	size_t n_roots;
	struct gc_root_key *forget; /* "dropped" records that no session needs */
	size_t n_forget;
	struct id_ranges published; /* sessions of which only pins are left; by their ids */
	/* Marked: */
	struct idset pages, nodes;
};

/* Write transactions of a collection: a pause before each lets other writers go first, whom LMDB's lock would
 * leave waiting for many of ours in a row. */
int gc_write(struct gc *gc, MDB_txn **ret, struct err *err);
int gc_commit(struct gc *gc, MDB_txn *txn, struct err *err);

/* Fills all of the above but the last write transaction. ERR_CORRUPT where a snapshot's record does not tell its roots: then nothing
 * may be freed until that snapshot is removed. */
int gc_mark(struct gc *gc, struct err *err);
int gc_sweep(struct gc *gc, struct err *err);
/* ERR_BUSY where anybody else has the store open. */
int gc_give_back(struct gc *gc, struct err *err);

#endif
