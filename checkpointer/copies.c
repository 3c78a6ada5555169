#include "checkpointer/copies.h"

#include <stdlib.h>
#include <string.h>

/* ---- buffers ------------------------------------------------------------------------------- */

static bool push(struct page_chunk ***list, size_t *n, size_t *room, struct page_chunk *chunk)
{
	if (*n == *room) {
		size_t more_room = *room ? *room * 2 : 64;
		struct page_chunk **more = reallocarray(*list, more_room, sizeof(*more));

		if (!more)
			return false;
		*list = more;
		*room = more_room;
	}
	(*list)[(*n)++] = chunk;
	return true;
}

int page_copies_chunk(struct page_copies *copies, struct page_table *table, struct page_chunk **ret,
		      struct err *err)
{
	struct page_chunk *chunk;

	if (copies->n_unused > 0) {
		chunk = copies->unused[--copies->n_unused];
		copies->ready -= chunk->there;
		if (copies->idle > copies->n_unused)
			copies->idle = copies->n_unused;
	} else if (!(chunk = page_chunk_new())) {
		return err_sys(err, "copies of changed pages");
	}
	page_chunk_begin(chunk, table);
	*ret = chunk;
	return 0;
}

void page_copies_return(struct page_copies *copies, struct page_chunk *chunk)
{
	if (!chunk)
		return;
	if (push(&copies->unused, &copies->n_unused, &copies->unused_room, chunk))
		copies->ready += chunk->there;
	else
		page_chunk_free(chunk);
}

/* The first n, which have been unused for the longest time. */
static void free_unused(struct page_copies *copies, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		copies->ready -= copies->unused[i]->there;
		page_chunk_free(copies->unused[i]);
	}
	copies->n_unused -= n;
	copies->idle -= n < copies->idle ? n : copies->idle;
	if (n)
		memmove(copies->unused, copies->unused + n, copies->n_unused * sizeof(*copies->unused));
}

/* Buffers that held compressed pages are many and small; where pages are copied as they are, fewer serve. */
static void trim_unused(struct page_copies *copies)
{
	uint64_t ready = copies->ready;
	size_t n = 0;

	while (n < copies->n_unused && copies->used + ready > copies->budget)
		ready -= copies->unused[n++]->there;
	free_unused(copies, n);
}

int page_copies_put_chunk(struct page_copies *copies, const struct page_chunk *chunk, struct err *err)
{
	uint64_t stored = 0;

	if (page_chunk_put(chunk, &stored, err) < 0)
		return -1;
	copies->in_vain = stored * 2 < chunk->n_pages;
	return 0;
}

/* Room for one more. The job may stand still meanwhile: what else waits can wait on. */
static int put_oldest(struct page_copies *copies, struct err *err)
{
	struct page_chunk *oldest = copies->chunks[0];
	int result = page_copies_put_chunk(copies, oldest, err);

	memmove(copies->chunks, copies->chunks + 1, --copies->n * sizeof(*copies->chunks));
	copies->used -= oldest->there;
	page_copies_return(copies, oldest);
	return result;
}

int page_copies_keep(struct page_copies *copies, struct page_chunk *chunk, struct err *err)
{
	if (!push(&copies->chunks, &copies->n, &copies->room, chunk)) {
		page_chunk_free(chunk);
		return err_sys(err, "copies of changed pages");
	}
	copies->used += chunk->there;
	if (copies->used + copies->ready > copies->budget)
		trim_unused(copies);
	if (page_copies_left(copies) > 0)
		return 0;
	return put_oldest(copies, err);
}

uint64_t page_copies_left(const struct page_copies *copies)
{
	return copies->used < copies->budget ? copies->budget - copies->used : 0;
}

void page_copies_rest(struct page_copies *copies)
{
	while (copies->n > 0)
		page_copies_return(copies, copies->chunks[--copies->n]);
	copies->used = 0;
	free_unused(copies, (copies->idle + 3) / 4);
	copies->idle = copies->n_unused;
	for (size_t i = 0; i < copies->n_unused; i++)
		page_chunk_rest(copies->unused[i]);
}

void page_copies_free(struct page_copies *copies)
{
	for (size_t i = 0; i < copies->n; i++)
		page_chunk_free(copies->chunks[i]);
	for (size_t i = 0; i < copies->n_unused; i++)
		page_chunk_free(copies->unused[i]);
	free(copies->chunks);
	free(copies->unused);
	memset(copies, 0, sizeof(*copies));
}

/* ---- what is superseded -------------------------------------------------------------------- */

static int keep_newest(struct page_copies *copies, struct err *err)
{
	struct page_set later = {0};
	int result = 0;

	for (size_t i = copies->n; i-- > 0 && result == 0;) {
		result = page_chunk_drop_superseded(copies->chunks[i], &later);
		page_chunk_squeeze(copies->chunks[i]);
	}
	page_set_clear(&later);
	return result < 0 ? err_sys(err, "copies of changed pages") : 0;
}

int page_copies_compact(struct page_copies *copies, struct err *err)
{
	size_t n = copies->n;

	if (keep_newest(copies, err) < 0)
		return -1;
	/* No page is there twice now, so their order does not matter. */
	copies->n = 0;
	copies->used = 0;
	for (size_t i = 0; i < n; i++) {
		struct page_chunk *chunk = copies->chunks[i];

		if (chunk->n_pages == 0 ||
		    (copies->n > 0 && page_chunk_take_over(copies->chunks[copies->n - 1], chunk)))
			page_copies_return(copies, chunk);
		else
			copies->chunks[copies->n++] = chunk;
	}
	for (size_t i = 0; i < copies->n; i++)
		copies->used += copies->chunks[i]->there;
	return 0;
}
