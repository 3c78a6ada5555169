/*
 * pages.h: page contents of one process, from its memory into its page table.
 *
 * The same capture serves while the job runs (pre-copy) and while it stands still (contents are
 * copied aside, bounded by a budget, and put when it runs again).
 */
#ifndef PAWL_CHECKPOINTER_PAGES_H
#define PAWL_CHECKPOINTER_PAGES_H

#include "checkpointer/copies.h"
#include "checkpointer/track.h"
#include "store/snapshot.h"
#include "store/store.h"

enum capture_mode {
	/* Pages that have vanished meanwhile are skipped: */
	CAPTURE_RAW,	 /* copied as they are, which is soonest over */
	CAPTURE_PRESSED, /* hashed and compressed as they are copied, which is the least work in all */
	CAPTURE_THROUGH, /* so too, and straight into the table: no older copies of the pages may wait */
	/* A page that cannot be read is an error: */
	CAPTURE_FROZEN, /* as they are */
};

/* Whose pages, and where they belong. */
struct page_owner {
	pid_t pid;
	bool alone; /* no other process can have much of them since a fork: see reading.h */
	struct page_table *table;
};

/* Reads the written, private pages of `ranges` into copies or the table. Adds the pages read (or known to be zero) to
 * *candidates. */
int pages_capture(const struct page_owner *owner, const struct scan_result *ranges, struct page_copies *copies,
		  enum capture_mode mode, uint64_t *candidates, struct err *err);
/* Bytes that pages_capture would read: of one range, of all. */
uint64_t pages_range_size(const struct scan_range *range);
uint64_t pages_capture_size(const struct scan_result *ranges);

/* Clears in the table what `before` had and `after` has not. before: any order (the rounds of a
 * pre-copy one behind the other); after: ascending. */
int pages_clear_gone(struct page_table *table, const struct scan_result *before,
		     const struct scan_result *after, struct err *err);
/* What the table holds now, as ranges. */
int pages_of_table(struct page_table *table, struct scan_result *ret, struct err *err);

uint64_t scan_result_pages(const struct scan_result *r);

#endif
