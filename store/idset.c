#include "store/idset.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_BITS  32768u
#define PIECE_WORDS (PIECE_BITS / 64)

void idset_clear(struct idset *set)
{
	size_t i;

	for (i = 0; i < set->n; i++)
		free(set->pieces[i]);
	free(set->pieces);
	*set = (struct idset){0};
}

static uint64_t *piece_for(struct idset *set, uint64_t id)
{
	uint64_t at = id / PIECE_BITS;

	if (at >= set->n) {
		size_t n = at + 1 + at / 2;
		uint64_t **more = reallocarray(set->pieces, n, sizeof(*more));

		if (!more)
			return NULL;
		memset(more + set->n, 0, (n - set->n) * sizeof(*more));
		set->pieces = more;
		set->n = n;
	}
	if (!set->pieces[at])
		set->pieces[at] = calloc(PIECE_WORDS, sizeof(uint64_t));
	return set->pieces[at];
}

int idset_add(struct idset *set, uint64_t id)
{
	uint64_t *piece = piece_for(set, id);
	uint64_t bit = 1ull << (id % 64);
	uint64_t *word;

	if (!piece)
		return -1;
	word = &piece[id % PIECE_BITS / 64];
	if (*word & bit)
		return 0;
	*word |= bit;
	return 1;
}

bool idset_has(const struct idset *set, uint64_t id)
{
	uint64_t at = id / PIECE_BITS;

	return at < set->n && set->pieces[at] &&
	       (set->pieces[at][id % PIECE_BITS / 64] >> (id % 64) & 1);
}

uint64_t idset_count(const struct idset *set, uint64_t first, uint64_t last)
{
	uint64_t id = first, count = 0;

	while (id <= last && id / PIECE_BITS < set->n) {
		const uint64_t *piece = set->pieces[id / PIECE_BITS];

		if (!piece) {
			id = (id / PIECE_BITS + 1) * PIECE_BITS;
		} else if (id % 64 == 0 && last - id >= 63) {
			count += (uint64_t)__builtin_popcountll(piece[id % PIECE_BITS / 64]);
			id += 64;
		} else {
			count += piece[id % PIECE_BITS / 64] >> (id % 64) & 1;
			id++;
		}
	}
	return count;
}

void id_ranges_clear(struct id_ranges *ranges)
{
	free(ranges->range);
	*ranges = (struct id_ranges){0};
}

int id_ranges_add(struct id_ranges *ranges, uint64_t first, uint64_t end)
{
	struct id_range *more = reallocarray(ranges->range, ranges->n + 1, sizeof(*more));

	if (!more)
		return -1;
	more[ranges->n++] = (struct id_range){first, end};
	ranges->range = more;
	return 0;
}

bool id_ranges_meet(const struct id_ranges *ranges, uint64_t first, uint64_t last)
{
	size_t i;

	for (i = 0; i < ranges->n; i++)
		if (first < ranges->range[i].end && last >= ranges->range[i].first)
			return true;
	return false;
}
