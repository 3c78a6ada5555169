/*
 * copies.h: copies of pages that wait until the job runs again.
 *
 * Fresh memory is dear: the kernel clears each page of it, and under a hypervisor that takes free
 * memory back the first touch costs many times the copy itself (here 3 to 6 s/GiB against 0.2). So
 * the buffers of one snapshot serve the next. In between they are marked MADV_FREE (madvise(2)):
 * the kernel takes them when memory gets short, and otherwise they are written again without a
 * fault. Each has the memory that its pages have needed so far: of hundreds of processes few pages change.
 * They are small pages: where the host takes free memory back, large free pieces are those that it has
 * taken, and to touch them costs several times as much (docs/cost.md).
 */
#ifndef PAWL_CHECKPOINTER_COPIES_H
#define PAWL_CHECKPOINTER_COPIES_H

#include "checkpointer/chunk.h"
#include "checkpointer/yielding.h"

/* Copies in the order they were taken: of a page that was copied twice, the later copy counts and
 * the earlier one costs no more than its memory. Zero-initialised but for the budget. */
struct page_copies {
	struct page_chunk **chunks;
	size_t n, room;
	struct page_chunk **unused; /* buffers for reuse */
	size_t n_unused, unused_room;
	size_t idle; /* as many of them, the first, were not needed since page_copies_rest */
	uint64_t used;	 /* bytes of memory of the waiting ones */
	uint64_t ready;	 /* … of the unused ones */
	uint64_t budget; /* bytes; when the waiting ones reach it, the oldest is put at once; more than that is not kept */
	bool in_vain;	 /* most of what was put last was not new: to compress it before that is known does not pay */
	struct yielding yielding; /* how what the job does not wait for is put */
};

/* An empty chunk for the table. It goes to page_copies_keep or page_copies_return. */
int page_copies_chunk(struct page_copies *copies, struct page_table *table, struct page_chunk **ret,
		      struct err *err);
/* Takes the chunk, also on failure. */
int page_copies_keep(struct page_copies *copies, struct page_chunk *chunk, struct err *err);
/* Puts this one at once. */
int page_copies_put_chunk(struct page_copies *copies, const struct page_chunk *chunk, struct err *err);
void page_copies_return(struct page_copies *copies, struct page_chunk *chunk); /* takes NULL */
/* Bytes that still fit. */
uint64_t page_copies_left(const struct page_copies *copies);
/* Drops what later copies have superseded, and the room it took. */
int page_copies_compact(struct page_copies *copies, struct err *err);
/* Puts all waiting copies, by all CPUs that we may use. */
int page_copies_put(struct page_copies *copies, struct err *err);
/* The same while the job runs: no faster than allowed. */
int page_copies_put_gently(struct page_copies *copies, struct err *err);
/* Forgets waiting copies; the buffers stay, to be taken by the kernel when it needs them. A quarter of those that were
 * not needed since the last time goes: the first snapshot takes many. */
void page_copies_rest(struct page_copies *copies);
void page_copies_free(struct page_copies *copies);

#endif
