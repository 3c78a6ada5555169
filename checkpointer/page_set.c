#include "checkpointer/page_set.h"

#include <stdbool.h>
#include <stdlib.h>

#define FIRST_SIZE 64u

void page_set_clear(struct page_set *set)
{
	free(set->slots);
	*set = (struct page_set){0};
}

static bool is_at(const struct page_set *set, size_t at, const void *owner, uint64_t number)
{
	return set->slots[at].number == number && set->slots[at].owner == owner;
}

/* Its slot, or the empty one where it belongs. */
static size_t find(const struct page_set *set, const void *owner, uint64_t number)
{
	size_t at = (size_t)((number ^ (uintptr_t)owner >> 4) * 0x9e3779b97f4a7c15ull >> 20);

	for (at &= set->size - 1; set->slots[at].owner && !is_at(set, at, owner, number);)
		at = (at + 1) & (set->size - 1);
	return at;
}

static int grow(struct page_set *set)
{
	struct page_set bigger = {.size = set->size ? set->size * 2 : FIRST_SIZE, .used = set->used};

	bigger.slots = calloc(bigger.size, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -1;
	for (size_t i = 0; i < set->size; i++)
		if (set->slots[i].owner)
			bigger.slots[find(&bigger, set->slots[i].owner, set->slots[i].number)] = set->slots[i];
	free(set->slots);
	*set = bigger;
	return 0;
}

int page_set_add(struct page_set *set, const void *owner, uint64_t page)
{
	uint64_t number = page / PAGE_SET_STRETCH, bit = 1ull << page % 64;
	struct page_set_stretch *s;
	uint64_t *word;

	if (set->used * 2 >= set->size && grow(set) < 0)
		return -1;
	if (!is_at(set, set->last, owner, number))
		set->last = find(set, owner, number);
	s = &set->slots[set->last];
	if (!s->owner) {
		s->owner = owner;
		s->number = number;
		set->used++;
	}
	word = &s->bits[page % PAGE_SET_STRETCH / 64];
	if (*word & bit)
		return 0;
	*word |= bit;
	return 1;
}
