/*
 * page_set.h: a set of pages of several page tables, a bit each. Pure.
 *
 * Pages mostly have neighbours in it: a stretch of 512 takes 80 bytes. (A slot of a hash table for each page was
 * 16 MiB of fresh memory for each GiB of pages, whose first touch cost more than copying the pages.)
 */
#ifndef PAWL_CHECKPOINTER_PAGE_SET_H
#define PAWL_CHECKPOINTER_PAGE_SET_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_SET_STRETCH 512u /* pages, 2 MiB */

struct page_set { /* starts as {0} */
	struct page_set_stretch {
		const void *owner; /* NULL: an empty slot */
		uint64_t number;   /* of the stretch: its first page / PAGE_SET_STRETCH */
		uint64_t bits[PAGE_SET_STRETCH / 64];
	} *slots; /* open addressing, at most half full */
	size_t size, used, last; /* size: a power of two, or 0 */
};

/* 1: it was not in the set, 0: it was, -1: out of memory, and the set is as before. owner: whose page; not NULL. */
int page_set_add(struct page_set *set, const void *owner, uint64_t page);
void page_set_clear(struct page_set *set);

#endif
