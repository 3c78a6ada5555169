/*
 * node.h: the bytes of one node of a page table. Pure.
 *
 * A node has 512 slots. Level 0 (a leaf): page ids; above: node ids of the level below. Slot 0 of a
 * node of level L covers 512^L pages. Coding: FORMAT.md, "Nodes".
 */
#ifndef PAWL_STORE_NODE_H
#define PAWL_STORE_NODE_H

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/hash.h"

#define NODE_SLOTS      512u
#define NODE_SHIFT      9u
#define NODE_MAX_LEVEL  7u /* 512^8 pages: more than 64 bits of page index */
#define NODE_MAX_RECORD (16u + NODE_SLOTS * 12u)

enum { ID_ABSENT = 0, ID_ZERO = 1, ID_FIRST = 2 }; /* page ids; node ids start at ID_FIRST too */

/* The payload only (without frame); buf holds NODE_MAX_RECORD - 16. Returns its length. */
size_t node_encode(const uint64_t slots[NODE_SLOTS], uint8_t *buf);
/* As above, reversed; every slot is written. Anything but exactly 512 slots is ERR_CORRUPT. */
int node_decode(const uint8_t *payload, size_t len, unsigned level, uint64_t slots[NODE_SLOTS],
		struct err *err);

/* A whole record: frame, level, payload. Messages start with "page table node ID". */
int node_open(const void *record, size_t len, uint64_t id, const struct store_secret *secret,
	      unsigned *ret_level, uint64_t slots[NODE_SLOTS], struct err *err);

/* Number of pages below a slot of that level is 1 << node_slot_shift(level), at most 63. */
static inline unsigned node_slot_shift(unsigned level)
{
	return level * NODE_SHIFT;
}

/* Whether a node of that level, as root, has a place for index. */
static inline int node_covers(unsigned level, uint64_t index)
{
	return level >= NODE_MAX_LEVEL || index >> node_slot_shift(level + 1) == 0;
}

static inline unsigned node_slot_of(unsigned level, uint64_t index)
{
	return (unsigned)(index >> node_slot_shift(level)) & (NODE_SLOTS - 1);
}

#endif
