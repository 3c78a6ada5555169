/*
 * chunk.h: up to 256 pages copied out of a process, as they were read or as they will be stored.
 */
#ifndef PAWL_CHECKPOINTER_CHUNK_H
#define PAWL_CHECKPOINTER_CHUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "checkpointer/page_set.h"
#include "store/press.h"

#define CHUNK_PAGES 256u
#define CHUNK_BYTES (CHUNK_PAGES * STORE_PAGE_SIZE)

struct index_run {
	uint64_t first; /* page index */
	uint64_t n;
};

struct page_chunk {
	struct page_table *table; /* where they belong */
	size_t n_runs, n_pages;
	struct index_run runs[CHUNK_PAGES];
	struct pressed_page pages[CHUNK_PAGES]; /* what they point to stands in data */
	char *data;	    /* room for CHUNK_BYTES */
	size_t used, there; /* so many of them are used, have memory */
	bool rests;	    /* the kernel may take that memory */
};

struct page_chunk *page_chunk_new(void); /* NULL with errno */
void page_chunk_free(struct page_chunk *chunk); /* takes NULL */
void page_chunk_begin(struct page_chunk *chunk, struct page_table *table);

/* Nothing of it is needed: the kernel may take the memory (MADV_FREE) until the chunk begins again. */
void page_chunk_rest(struct page_chunk *chunk);

/* The bytes behind those that are used, of which so many get memory at once: a fault for each page, in the middle of
 * copying, costs twice as much. */
char *page_chunk_room(struct page_chunk *chunk, size_t bytes);
/* Adds a page, whose content stands at the beginning of the room. */
void page_chunk_add(struct page_chunk *chunk, uint64_t index);
/* Adds a page whose stored form, if it has one, stands there; what else there is to keep of it is copied there. */
void page_chunk_add_pressed(struct page_chunk *chunk, uint64_t index, const struct pressed_page *page);

/* Presses those that are not yet; their stored form goes to the room of an empty chunk. */
void page_chunk_press(struct page_chunk *chunk, struct page_press *press, struct page_chunk *room, bool compress);
/* Drops what is in the set, adds the others to it. -1: out of memory. The data stay where they are. */
int page_chunk_drop_superseded(struct page_chunk *chunk, struct page_set *later);
/* Takes the room of dropped pages back. */
void page_chunk_squeeze(struct page_chunk *chunk);
/* Whether all of `from`, a squeezed one, now stands in `to`. */
bool page_chunk_take_over(struct page_chunk *to, const struct page_chunk *from);
/* Puts the pages into their table; adds to *stored how many were new. */
int page_chunk_put(const struct page_chunk *chunk, uint64_t *stored, struct err *err);

#endif
