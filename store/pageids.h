/*
 * pageids.h: what the pages of a stored page table are, by id. For copying snapshots out of a store.
 */
#ifndef PAWL_STORE_PAGEIDS_H
#define PAWL_STORE_PAGEIDS_H

#include "store/store.h"

struct page_ids {
	uint64_t first, n; /* pages */
	uint64_t id;       /* ID_ZERO: all of them zeroes; else of the first, and the others' follow it */
};

/* The next run at or after `from`: 1 found, 0 none, -1 error. */
int page_reader_next_ids(struct page_reader *reader, uint64_t from, struct page_ids *ret,
			 struct err *err);

#endif
