#include "recovery/lazy_spans.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/search.h"

void lazy_spans_clear(struct lazy_spans *spans)
{
	free(spans->list);
	*spans = (struct lazy_spans){0};
}

static int make_room(struct lazy_spans *spans, size_t more)
{
	size_t room = spans->room ? spans->room : 16;
	struct lazy_span *grown;

	while (room < spans->n + more)
		room *= 2;
	if (room == spans->room)
		return 0;
	grown = reallocarray(spans->list, room, sizeof(*grown));
	if (!grown)
		return -1;
	spans->list = grown;
	spans->room = room;
	return 0;
}

int lazy_spans_copy(struct lazy_spans *ret, const struct lazy_spans *from)
{
	struct lazy_spans copy = {.moved = from->moved};

	if (make_room(&copy, from->n) < 0)
		return -1;
	if (from->n)
		memcpy(copy.list, from->list, from->n * sizeof(*copy.list));
	copy.n = from->n;
	*ret = copy;
	return 0;
}

static bool is_moved(const struct lazy_span *span)
{
	return span->source != span->start;
}

/* First span that ends behind address; n: none. */
static size_t first_behind(const struct lazy_spans *spans, uint64_t address)
{
	return COUNT_BEFORE(spans->n, i, spans->list[i].end <= address);
}

static void put_at(struct lazy_spans *spans, size_t at, const struct lazy_span *span)
{
	memmove(&spans->list[at + 1], &spans->list[at], (spans->n - at) * sizeof(*span));
	spans->list[at] = *span;
	spans->moved += is_moved(span);
	spans->n++;
}

static void take_at(struct lazy_spans *spans, size_t at)
{
	spans->moved -= is_moved(&spans->list[at]);
	spans->n--;
	memmove(&spans->list[at], &spans->list[at + 1], (spans->n - at) * sizeof(*spans->list));
}

/* The part of a span between two addresses that it has something in. */
static struct lazy_span part_of(const struct lazy_span *span, uint64_t start, uint64_t end)
{
	struct lazy_span part = *span;

	if (part.start < start) {
		part.source += start - part.start;
		part.start = start;
	}
	if (part.end > end)
		part.end = end;
	return part;
}

/* There is room for one more. */
static void cut(struct lazy_spans *spans, uint64_t start, uint64_t end)
{
	size_t i = first_behind(spans, start);

	while (i < spans->n && spans->list[i].start < end) {
		struct lazy_span old = spans->list[i], part;

		take_at(spans, i);
		if (old.start < start) {
			part = part_of(&old, old.start, start);
			put_at(spans, i++, &part);
		}
		if (old.end > end) {
			part = part_of(&old, end, old.end);
			put_at(spans, i++, &part);
		}
	}
}

int lazy_spans_cut(struct lazy_spans *spans, uint64_t start, uint64_t end)
{
	if (make_room(spans, 1) < 0)
		return -1;
	if (start < end)
		cut(spans, start, end);
	return 0;
}

int lazy_spans_add(struct lazy_spans *spans, const struct lazy_span *span)
{
	if (make_room(spans, 2) < 0)
		return -1;
	cut(spans, span->start, span->end);
	put_at(spans, first_behind(spans, span->start), span);
	return 0;
}

int lazy_spans_move(struct lazy_spans *spans, uint64_t from, uint64_t to, uint64_t len)
{
	struct lazy_spans moved = {0};
	int result = make_room(spans, spans->n + 4);

	for (size_t i = first_behind(spans, from);
	     result == 0 && i < spans->n && spans->list[i].start < from + len; i++) {
		struct lazy_span part = part_of(&spans->list[i], from, from + len);

		part.start += to - from;
		part.end += to - from;
		result = lazy_spans_add(&moved, &part);
	}
	if (result == 0) {
		cut(spans, from, from + len);
		cut(spans, to, to + len);
		for (size_t i = 0; i < moved.n; i++)
			put_at(spans, first_behind(spans, moved.list[i].start), &moved.list[i]);
	}
	lazy_spans_clear(&moved);
	return result;
}

bool lazy_spans_find(const struct lazy_spans *spans, uint64_t address, struct lazy_span *ret)
{
	size_t i = first_behind(spans, address);

	if (i == spans->n || spans->list[i].start > address)
		return false;
	*ret = spans->list[i];
	return true;
}

static bool has_source(const struct lazy_span *span, uint64_t source)
{
	return source >= span->source && source - span->source < span->end - span->start;
}

bool lazy_spans_place(const struct lazy_spans *spans, uint64_t source, struct lazy_span *ret)
{
	/* Hardly anything ever moves. */
	if (lazy_spans_find(spans, source, ret) && has_source(ret, source))
		return true;
	for (size_t i = 0; i < spans->n && spans->moved; i++) {
		if (has_source(&spans->list[i], source)) {
			*ret = spans->list[i];
			return true;
		}
	}
	return false;
}
