/*
 * indexrun.h: the bytes of one run of the page index: fingerprints of pages, ascending, and their ids. Pure.
 *
 * Only pages whose hash ends in zeroes are in it (index_hook), one in eight: whoever finds one of them finds
 * the pack, and with it the pages around. What a run says is a hint: it is believed only after the page's own
 * hash was compared. Layout: FORMAT.md, "Index".
 */
#ifndef PAWL_STORE_INDEXRUN_H
#define PAWL_STORE_INDEXRUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/pack.h"

#define RUN_HEADER 16u
#define RUN_ENTRY  10u
#define RUN_MOST   ((PACK_SIZE - RUN_HEADER) / RUN_ENTRY) /* entries in a run */
#define RUN_ID_END (1ull << 48)                           /* greater ids are not indexed */

struct index_entry {
	uint32_t print; /* index_print */
	uint64_t id;
};

struct index_run {
	const uint8_t *prints, *ids;
	uint32_t count;
};

/* Whether a page with that hash is in the index. */
static inline bool index_hook(struct page_hash hash)
{
	return (hash.lo & 7) == 0;
}

static inline uint32_t index_print(struct page_hash hash)
{
	return (uint32_t)(hash.hi >> 32);
}

/* Bounds only: enough to search it. */
int run_peek(struct index_run *ret, const void *bytes, size_t len, uint64_t key, struct err *err);
/* Checksum included. */
int run_open(struct index_run *ret, const void *bytes, size_t len, uint64_t key,
	     const struct store_secret *secret, struct err *err);
/* i < count. */
struct index_entry run_entry(const struct index_run *run, uint32_t i);
/* The first entry whose print is not below that one, count where there is none. */
uint32_t run_find(const struct index_run *run, uint32_t print);

/* Ascending by print. */
void index_sort(struct index_entry *entries, size_t n);
/* Both ascending: merged into ret, which has room for both. */
void run_merge(struct index_entry *ret, const struct index_entry *entries, size_t n,
	       const struct index_run *run);
/* Length of the value for n entries. */
size_t run_len(size_t n);
/* Writes it; bytes holds run_len(n), 1 <= n <= RUN_MOST. */
void run_seal(void *bytes, const struct index_entry *entries, size_t n, uint64_t key,
	      const struct store_secret *secret);

#endif
