/*
 * lazy_spans.h: which addresses of a process still get their pages from the snapshot, and which pages. Pure.
 *
 * As the snapshot has it, what belongs at an address is the page of the same address; a process that moves
 * memory (mremap) makes that another, and what it drops (munmap, madvise) is its own from then on. In one
 * process each page of the snapshot has one place at most.
 */
#ifndef PAWL_RECOVERY_LAZY_SPANS_H
#define PAWL_RECOVERY_LAZY_SPANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lazy_span {
	uint64_t start, end; /* where it is in the process, page-aligned */
	uint64_t source;     /* what is at `start`, by its address in the snapshot */
};

struct lazy_spans {	  /* starts as {0} */
	struct lazy_span *list; /* by start, none overlap; owned */
	size_t n, room;
	size_t moved; /* those that are elsewhere than in the snapshot */
};

void lazy_spans_clear(struct lazy_spans *spans);
/* All of these: -1 without memory, then nothing has changed. */
int lazy_spans_copy(struct lazy_spans *ret, const struct lazy_spans *from);
/* In place of whatever was there. */
int lazy_spans_add(struct lazy_spans *spans, const struct lazy_span *span);
/* What is between the two addresses is the process's own from now on. */
int lazy_spans_cut(struct lazy_spans *spans, uint64_t start, uint64_t end);
/* What was in len bytes at `from` is at `to` now. The two ranges may not overlap. */
int lazy_spans_move(struct lazy_spans *spans, uint64_t from, uint64_t to, uint64_t len);

/* The span that address is in. */
bool lazy_spans_find(const struct lazy_spans *spans, uint64_t address, struct lazy_span *ret);
/* The span that has the snapshot's address `source`. */
bool lazy_spans_place(const struct lazy_spans *spans, uint64_t source, struct lazy_span *ret);

#endif
