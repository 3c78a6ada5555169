#include "checkpointer/numbers.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 64

static size_t place_of(const struct numbers *n, uint64_t number)
{
	return (size_t)((number * 0x9e3779b97f4a7c15ull) >> 32) & (n->room - 1);
}

static void put(struct numbers *n, struct numbered what)
{
	size_t at = place_of(n, what.number);

	while (n->slots[at].index)
		at = (at + 1) & (n->room - 1);
	n->slots[at] = what;
}

static int grow(struct numbers *n, struct err *err)
{
	struct numbers more = {.n = n->n, .room = n->room ? n->room * 2 : FIRST_ROOM};

	more.slots = calloc(more.room, sizeof(*more.slots));
	if (!more.slots)
		return err_sys(err, "index of numbers");
	for (size_t i = 0; i < n->room; i++)
		if (n->slots[i].index)
			put(&more, n->slots[i]);
	free(n->slots);
	*n = more;
	return 0;
}

int numbers_add(struct numbers *n, uint64_t number, int32_t index, struct err *err)
{
	if (n->n >= n->room / 2 && grow(n, err) < 0)
		return -1;
	put(n, (struct numbered){number, index + 1});
	n->n++;
	return 0;
}

int32_t numbers_next(const struct numbers *n, uint64_t number, int32_t from)
{
	int32_t least = -1;

	if (!n->room)
		return -1;
	for (size_t at = place_of(n, number); n->slots[at].index; at = (at + 1) & (n->room - 1)) {
		int32_t index = n->slots[at].index - 1;

		if (n->slots[at].number == number && index > from && (least < 0 || index < least))
			least = index;
	}
	return least;
}

void numbers_clear(struct numbers *n)
{
	free(n->slots);
	memset(n, 0, sizeof(*n));
}
