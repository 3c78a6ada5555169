#include "store/dedup.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/pages.h"
#include "store/hash.h"

#define FIRST_SIZE 4096u
#define MAX_SIZE   (2u << 20) /* 48 MiB */
#define PROBES     32u
#define MUCH_TOO_BIG 12u /* it grows by 4 when half of it is used: less than an eighth was too big by then */

static size_t bytes_of(const struct dedup *table)
{
	return table->size * sizeof(*table->slots);
}

/* Slots are met at random: where they fill huge pages, they are kept in such. */
static bool in_huge_pages(const struct dedup *table)
{
	return bytes_of(table) % HUGE_BYTES == 0;
}

static void free_slots(struct dedup *table)
{
	if (in_huge_pages(table))
		pages_unmap(table->slots, bytes_of(table));
	else
		free(table->slots);
}

void dedup_clear(struct dedup *table)
{
	free_slots(table);
	*table = (struct dedup){0};
}

void dedup_rest(struct dedup *table)
{
	if (table->size == 0)
		return;
	if (table->used < table->size / MUCH_TOO_BIG) {
		dedup_clear(table);
		return;
	}
	if (in_huge_pages(table))
		pages_lend(table->slots, bytes_of(table));
	table->used = 0;
	table->stale = true;
}

static void use_again(struct dedup *table)
{
	memset(table->slots, 0, bytes_of(table));
	table->stale = false;
}

uint64_t dedup_find(const struct dedup *table, struct page_hash hash)
{
	size_t i;

	for (i = 0; table->used && i < PROBES; i++) {
		const struct dedup_slot *slot = &table->slots[(hash.lo + i) & (table->size - 1)];

		if (slot->id && hash_equal(slot->hash, hash))
			return slot->id;
	}
	return 0;
}

/* Whether a place was free, or the hash was there already. */
static int insert(struct dedup *table, struct page_hash hash, uint64_t id)
{
	size_t i;

	for (i = 0; i < PROBES; i++) {
		struct dedup_slot *slot = &table->slots[(hash.lo + i) & (table->size - 1)];

		if (slot->id && !hash_equal(slot->hash, hash))
			continue;
		table->used += !slot->id;
		*slot = (struct dedup_slot){hash, id};
		return 1;
	}
	return 0;
}

static void grow(struct dedup *table)
{
	struct dedup bigger = {.size = table->size ? table->size * 4 : FIRST_SIZE};
	size_t i;

	if (bigger.size > MAX_SIZE)
		bigger.size = MAX_SIZE;
	bigger.slots = in_huge_pages(&bigger) ? pages_map(bytes_of(&bigger))
					      : calloc(bigger.size, sizeof(*bigger.slots));
	if (!bigger.slots)
		return;
	for (i = 0; i < table->size; i++)
		if (table->slots[i].id)
			insert(&bigger, table->slots[i].hash, table->slots[i].id);
	free_slots(table);
	*table = bigger;
}

/* Many in one place, though there is room elsewhere. */
static bool is_crowded(const struct dedup *table)
{
	return table->size < MAX_SIZE && table->used >= table->size / 8;
}

void dedup_add(struct dedup *table, struct page_hash hash, uint64_t id)
{
	if (table->stale)
		use_again(table);
	if (table->used >= table->size / 2 && table->size < MAX_SIZE)
		grow(table);
	if (!table->size || insert(table, hash, id))
		return;
	if (is_crowded(table)) {
		grow(table);
		if (insert(table, hash, id))
			return;
	}
	table->slots[(hash.lo + hash.hi % PROBES) & (table->size - 1)] =
		(struct dedup_slot){hash, id};
}
