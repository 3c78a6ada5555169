/*
 * pages.h: page contents of one process, from its memory into its page table.
 *
 * The same capture serves while the job runs (pre-copy: contents go straight to the table) and while it
 * stands still (contents are copied aside, bounded by a budget, and put when it runs again).
 */
#ifndef PAWL_CHECKPOINTER_PAGES_H
#define PAWL_CHECKPOINTER_PAGES_H

#include "checkpointer/track.h"
#include "store/snapshot.h"
#include "store/store.h"

#define CHUNK_BYTES (1024u * 1024u)
#define CHUNK_RUNS  256u

/* Up to 1 MiB of pages copied out of a process. */
struct page_chunk {
	struct page_table *table; /* where they belong */
	size_t n_runs, n_pages;
	struct {
		uint64_t first; /* page index */
		uint64_t n;
	} runs[CHUNK_RUNS];
	char data[CHUNK_BYTES];
};

/* Copies that wait until the job runs again, in the order they were taken: of a page that was copied
 * twice, the later copy counts and the earlier one costs no more than its memory. */
struct page_copies {
	struct page_chunk **chunks;
	size_t n, room;
	uint64_t budget; /* bytes; when reached, waiting copies are put at once */
	bool spilled;    /* that has happened */
};

enum capture_mode {
	CAPTURE_RUNNING, /* pages that have vanished meanwhile are skipped */
	CAPTURE_FROZEN,  /* a page that cannot be read is an error */
};

/* Reads the written, private pages of `ranges` of process pid: into copies, or where that is NULL straight
 * into the table. Adds the pages read (or known to be zero) to *candidates. */
int pages_capture(pid_t pid, struct page_table *table, const struct scan_result *ranges,
		  struct page_copies *copies, enum capture_mode mode, uint64_t *candidates,
		  struct err *err);
/* Bytes that pages_capture would read. */
uint64_t pages_capture_size(const struct scan_result *ranges);
/* Bytes that still fit. */
uint64_t page_copies_left(const struct page_copies *copies);
/* Puts all waiting copies and frees them. */
int page_copies_put(struct page_copies *copies, struct err *err);
void page_copies_free(struct page_copies *copies);

/* Clears in the table what `before` had and `after` has not. before: any order (the rounds of a pre-copy
 * one behind the other); after: ascending. */
int pages_clear_gone(struct page_table *table, const struct scan_result *before,
		     const struct scan_result *after, struct err *err);
/* What the table holds now, as ranges. */
int pages_of_table(struct page_table *table, struct scan_result *ret, struct err *err);

uint64_t scan_result_pages(const struct scan_result *r);

#endif
