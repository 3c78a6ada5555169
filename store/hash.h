/*
 * hash.h: page hashes and record checksums, both XXH3 with the store's secret.
 *
 * XXH3 is not cryptographic. The secret, random for each store, keeps a job from making a page that
 * hashes like another one's.
 */
#ifndef PAWL_STORE_HASH_H
#define PAWL_STORE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define XXH_STATIC_LINKING_ONLY /* for XXH3_state_t on the stack */
#include <xxhash.h>

#include "store/store.h"

struct store_secret {
	uint8_t bytes[192];
};

struct sum_part {
	const void *data;
	size_t len;
};

static inline struct page_hash hash_bytes(const struct store_secret *secret, const void *data,
					  size_t len)
{
	XXH128_hash_t h = XXH3_128bits_withSecret(data, len, secret->bytes, sizeof(secret->bytes));

	return (struct page_hash){.lo = h.low64, .hi = h.high64};
}

static inline bool hash_equal(struct page_hash a, struct page_hash b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

/* XXH3-64 of the parts, one after another. secret NULL: XXH3's own. */
uint64_t checksum_parts(const struct store_secret *secret, const struct sum_part *parts, size_t n);

bool page_is_zero(const void *page);

#endif
