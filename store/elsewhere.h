/*
 * elsewhere.h: pages that a session finds in the store though neither its parent's table nor itself has them at
 * hand: another job's, another process's, or what this memory held a few snapshots ago.
 *
 * Only hooks are looked up, one page in eight (indexrun.h), fewer where that finds nothing. What is found makes
 * its whole pack known, and so do the packs behind it as long as their pages come: content that was stored
 * together comes back together. Before they are used the pages are pinned (pins.h), and their hashes compared.
 */
#ifndef PAWL_STORE_ELSEWHERE_H
#define PAWL_STORE_ELSEWHERE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/idset.h"
#include "store/indexrun.h"
#include "store/txn.h"

struct store_session;

struct elsewhere { /* starts as {0} */
	struct index_entry *hooks; /* of the pages stored since they were last added to the index */
	size_t n_hooks, room;
	struct id_ranges pinned;
	uint64_t near_end;         /* ids from here to the end of the pack that became known last */
	uint64_t next_pack;        /* where the one behind it begins at the earliest; 0: none is known */
	uint64_t window;           /* ids to pin at once */
	uint64_t looked, found;    /* hooks */
	unsigned refused;          /* pins */
	bool off;                  /* it is of no use in this session */
};

void elsewhere_clear(struct elsewhere *e);

/* Id of a page of that content that may be referred to, 0: none was found. Whatever goes wrong on the way: none. */
uint64_t elsewhere_find(struct store_session *session, struct page_hash hash);
/* A known page was met: whether that makes others worth knowing. */
void elsewhere_met(struct store_session *session, uint64_t id);
/* A page was stored. */
void elsewhere_note(struct store_session *session, struct page_hash hash, uint64_t id);
/* Adds what was noted to the index, in a transaction that stores the pages, or after it. */
int elsewhere_flush(struct store_session *session, MDB_txn *txn, struct err *err);

#endif
