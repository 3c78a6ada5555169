/*
 * dedup.h: hash -> id, bounded in memory: when full, older entries are forgotten.
 */
#ifndef PAWL_STORE_DEDUP_H
#define PAWL_STORE_DEDUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

struct dedup_slot {
	struct page_hash hash;
	uint64_t id; /* 0: empty */
};

struct dedup { /* starts as {0} */
	struct dedup_slot *slots;
	size_t size, used; /* size: a power of two */
	bool stale;	   /* dedup_rest: what the slots hold counts no more */
};

void dedup_clear(struct dedup *table);
/* The same, but the memory stays for the next use (fresh memory is dear: base/pages.h), if as much is likely to be
 * needed again; the kernel may take it until then. */
void dedup_rest(struct dedup *table);
/* 0: not known. */
uint64_t dedup_find(const struct dedup *table, struct page_hash hash);
/* Best effort: without memory the entry is just not kept. */
void dedup_add(struct dedup *table, struct page_hash hash, uint64_t id);

#endif
