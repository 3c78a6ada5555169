/*
 * putting.h: chunks of pages on their way into their tables, in the order they are given.
 *
 * The caller's thread owns the session: it gives the chunks, and puts them. What can be done without the session,
 * hashing and compressing, is done by all CPUs that we may use, a few chunks ahead. Helpers have the priority of
 * the thread that gives the second chunk.
 */
#ifndef PAWL_CHECKPOINTER_PUTTING_H
#define PAWL_CHECKPOINTER_PUTTING_H

#include "checkpointer/copies.h"
#include "checkpointer/page_set.h"

struct putting;

/* later: pages that are in it are passed over, those that are put are added; NULL: all are put. gently: no faster
 * than copies->yielding allows. */
int putting_begin(struct putting **ret, struct page_copies *copies, struct page_set *later, bool gently,
		  struct err *err);
/* Takes the chunk in any case. An error may be an earlier chunk's. */
int putting_add(struct putting *p, struct page_chunk *chunk, struct err *err);
/* All is put when it returns 0. Takes NULL. */
int putting_end(struct putting *p, struct err *err);

#endif
