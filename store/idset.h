/*
 * idset.h: a set of ids as a bitmap whose 4 KiB pieces are made as needed. For marking.
 */
#ifndef PAWL_STORE_IDSET_H
#define PAWL_STORE_IDSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idset { /* starts as {0} */
	uint64_t **pieces;
	size_t n;
};

void idset_clear(struct idset *set);
/* 1: added, 0: was there, -1: out of memory. */
int idset_add(struct idset *set, uint64_t id);
bool idset_has(const struct idset *set, uint64_t id);
/* Members in [first, last]. */
uint64_t idset_count(const struct idset *set, uint64_t first, uint64_t last);

/* ---- half-open ranges of ids --------------------------------------------------------------- */

struct id_range {
	uint64_t first, end;
};

struct id_ranges { /* starts as {0} */
	struct id_range *range;
	size_t n;
};

void id_ranges_clear(struct id_ranges *ranges);
int id_ranges_add(struct id_ranges *ranges, uint64_t first, uint64_t end);
bool id_ranges_meet(const struct id_ranges *ranges, uint64_t first, uint64_t last);

static inline void cleanup_id_ranges_p(struct id_ranges *ranges)
{
	id_ranges_clear(ranges);
}
#define cleanup_id_ranges __attribute__((cleanup(cleanup_id_ranges_p)))

#endif
