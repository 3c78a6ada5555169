/*
 * salvagescan.h: everything in a damaged data.mdb that may be a record. Pure.
 *
 * LMDB's trees are not followed: every page of the file is looked at as if it were a leaf, and as if it were
 * the first of a pack. What is found is nonsense more often than not, or older than what stands elsewhere; the
 * caller believes what bears a good checksum.
 */
#ifndef PAWL_STORE_SALVAGESCAN_H
#define PAWL_STORE_SALVAGESCAN_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

struct found_record {
	const uint8_t *key, *value; /* in the file */
	size_t key_len, len;        /* len: of a pack at least what is used of it */
};

typedef int found_fn(void *ctx, const struct found_record *found, struct err *err);

/* Calls fn until it fails. */
int salvage_scan(const uint8_t *file, uint64_t size, found_fn *fn, void *ctx, struct err *err);

#endif
