/*
 * pageindex.h: from a page's content to its id, for the whole store: the table `index`.
 *
 * A log-structured index: every writer adds the pages it stored as a run, in the transaction that stores them,
 * and merges it with newer runs that are not much larger, up to RUN_MOST entries: so there are few runs, and
 * each entry is rewritten a few times. Nothing depends on it: an entry may lead to a page that is gone, and one
 * that is lost costs a duplicate. A store that an early pawl made has no such table until it is opened for
 * writing.
 */
#ifndef PAWL_STORE_PAGEINDEX_H
#define PAWL_STORE_PAGEINDEX_H

#include "store/indexrun.h"
#include "store/txn.h"

#define INDEX_RUNS_MOST 128u /* then the oldest is forgotten */

bool index_is_there(const struct store *store);
/* Adds entries, ascending by print, at most RUN_MOST. */
int index_add(struct store *store, MDB_txn *txn, const struct index_entry *entries, size_t n,
	      struct err *err);
/* Ids of pages that may have this content, from the newest run on; at most `most` of them. *ret_runs: how many
 * runs there are. What is damaged is passed over. */
size_t index_find(const struct store *store, MDB_txn *txn, uint32_t print, uint64_t *ids, size_t most,
		  size_t *ret_runs);

struct gc;
/* Part of a garbage collection: takes entries of dead pages out; where a run is damaged, or there is none,
 * makes the index anew from the packs. */
int index_collect(struct gc *gc, struct err *err);

#endif
