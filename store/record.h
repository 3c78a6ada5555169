/*
 * record.h: the frame around every small record: magic, length, checksum. Pure.
 *
 * The checksum covers the record's key too, so that a record found under another key is noticed. The
 * layout is in FORMAT.md, "Frame".
 */
#ifndef PAWL_STORE_RECORD_H
#define PAWL_STORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/hash.h"

#define FRAME_HEADER 16u

#define MAGIC(a, b, c, d) \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
#define MAGIC_STORE    MAGIC('P', 'A', 'W', 'L')
#define MAGIC_NEXT     MAGIC('N', 'E', 'X', 'T')
#define MAGIC_JOB      MAGIC('J', 'O', 'B', 1)
#define MAGIC_SESSION  MAGIC('S', 'E', 'S', 1)
#define MAGIC_COLLECTING MAGIC('G', 'C', 'R', 1)
#define MAGIC_DROPPED  MAGIC('D', 'R', 'O', 1)
#define MAGIC_SNAPSHOT MAGIC('S', 'N', 'A', 1)
#define MAGIC_NODE(level) MAGIC('N', 'D', 1, level)

struct frame {
	uint32_t magic;
	const uint8_t *payload;
	size_t len;
};

/* The payload stands at record + FRAME_HEADER; fills the header in front of it. */
void frame_seal(void *record, size_t payload_len, uint32_t magic, const void *key, size_t key_len,
		const struct store_secret *secret);

/* Checks length, magic (under mask) and checksum. Bytes after the payload are not looked at: *ret.len
 * says where they start. ERR_CORRUPT says what is wrong; the caller says of which record. */
int frame_open(struct frame *ret, const void *record, size_t len, uint32_t magic, uint32_t mask,
	       const void *key, size_t key_len, const struct store_secret *secret, struct err *err);

/* Two equal frames one after the other, for the few records that everything hangs on: a flipped bit
 * leaves one of them whole. record holds 2 * (FRAME_HEADER + payload_len); the payload stands in the
 * first. */
void frame_seal_twice(void *record, size_t payload_len, uint32_t magic, const void *key,
		      size_t key_len, const struct store_secret *secret);
/* The first copy that is good. *ret_spoilt (may be NULL): the other one, or bytes around it, are not. */
int frame_open_twice(struct frame *ret, const void *record, size_t len, uint32_t magic,
		     const void *key, size_t key_len, const struct store_secret *secret,
		     bool *ret_spoilt, struct err *err);

#endif
