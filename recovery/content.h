/*
 * content.h: stored content and a file on disk: compared, then made equal.
 *
 * Comparing reads all stored content (so its hashes are checked) and writes nothing; what it finds
 * to differ is all that is written afterwards.
 */
#ifndef PAWL_RECOVERY_CONTENT_H
#define PAWL_RECOVERY_CONTENT_H

#include "store/store.h"

struct stored_content {
	struct store *store;
	uint64_t root; /* of a page table */
	uint64_t base; /* the page in it where the file begins */
	uint64_t size; /* bytes */
	uint64_t huge_page; /* of hugetlbfs: bytes of a page, 0: not so. For content_fill only */
};

struct page_runs {	       /* starts as {0} */
	struct page_run *list; /* pages of the file, ascending; owned */
	size_t n, room;
};

void page_runs_clear(struct page_runs *runs);

/* Adds to *ret the pages that differ. fd -1: there is no file; everything that is not zero differs.
 */
int content_compare(const struct stored_content *content, int fd, struct page_runs *ret,
		    struct err *err);
/* Writes these runs, and gives the file its size. Room on the disk is taken before the first byte
 * is written over: a full disk changes nothing. */
int content_write(const struct stored_content *content, int fd, const struct page_runs *runs,
		  struct err *err);
/* Writes all of it into an empty file; what is not stored stays a hole. */
int content_fill(const struct stored_content *content, int fd, struct err *err);
/* Puts all of it into memory that is zero, and is as large as all its pages. */
int content_load(const struct stored_content *content, void *memory, struct err *err);

#endif
