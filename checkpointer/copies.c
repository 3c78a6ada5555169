#include "checkpointer/copies.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkpointer/page_set.h"
#include "checkpointer/putting.h"

/* ---- buffers ------------------------------------------------------------------------------- */

static void free_chunk(struct page_chunk *chunk)
{
	if (chunk && chunk->data)
		munmap(chunk->data, CHUNK_BYTES);
	free(chunk);
}

static struct page_chunk *new_chunk(void)
{
	struct page_chunk *chunk = malloc(sizeof(*chunk));
	void *data;

	if (!chunk)
		return NULL;
	data = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	chunk->data = data == MAP_FAILED ? NULL : data;
	chunk->there = 0;
	if (chunk->data)
		return chunk;
	free(chunk);
	return NULL;
}

/* Mapped anew (MADV_POPULATE_WRITE came with Linux 5.14). Where that fails they come by faults. */
void page_chunk_populate(struct page_chunk *chunk, uint64_t pages)
{
	size_t want = pages * STORE_PAGE_SIZE;

	if (want <= chunk->there)
		return;
	mmap(chunk->data + chunk->there, want - chunk->there, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0);
	chunk->there = want;
}

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
	struct page_chunk *chunk =
		copies->n_unused ? copies->unused[--copies->n_unused] : new_chunk();

	if (!chunk)
		return err_sys(err, "copies of changed pages");
	chunk->table = table;
	chunk->n_runs = chunk->n_pages = 0;
	*ret = chunk;
	return 0;
}

void page_copies_return(struct page_copies *copies, struct page_chunk *chunk)
{
	if (chunk && !push(&copies->unused, &copies->n_unused, &copies->unused_room, chunk))
		free_chunk(chunk);
}

void page_chunk_add(struct page_chunk *chunk, uint64_t page)
{
	size_t last = chunk->n_runs - 1;

	if (chunk->n_runs && chunk->runs[last].first + chunk->runs[last].n == page) {
		chunk->runs[last].n++;
	} else {
		chunk->runs[chunk->n_runs].first = page;
		chunk->runs[chunk->n_runs++].n = 1;
	}
	chunk->n_pages++;
}

/* Room for one more. The job may stand still meanwhile: what else waits can wait on. */
static int put_oldest(struct page_copies *copies, struct err *err)
{
	struct page_chunk *oldest = copies->chunks[0];
	int result = page_chunk_put(oldest, err);

	memmove(copies->chunks, copies->chunks + 1, --copies->n * sizeof(*copies->chunks));
	copies->used -= oldest->there;
	page_copies_return(copies, oldest);
	return result;
}

int page_copies_keep(struct page_copies *copies, struct page_chunk *chunk, struct err *err)
{
	if (!push(&copies->chunks, &copies->n, &copies->room, chunk)) {
		free_chunk(chunk);
		return err_sys(err, "copies of changed pages");
	}
	copies->used += chunk->there;
	if (page_copies_left(copies) > 0)
		return 0;
	return put_oldest(copies, err);
}

uint64_t page_copies_ready(const struct page_copies *copies)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < copies->n_unused; i++)
		bytes += copies->unused[i]->there;
	return bytes;
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
	for (size_t i = 0; i < copies->n_unused; i++)
		if (copies->unused[i]->there)
			madvise(copies->unused[i]->data, copies->unused[i]->there, MADV_FREE);
}

void page_copies_free(struct page_copies *copies)
{
	for (size_t i = 0; i < copies->n; i++)
		free_chunk(copies->chunks[i]);
	for (size_t i = 0; i < copies->n_unused; i++)
		free_chunk(copies->unused[i]);
	free(copies->chunks);
	free(copies->unused);
	memset(copies, 0, sizeof(*copies));
}

/* ---- putting them -------------------------------------------------------------------------- */

int page_chunk_put(const struct page_chunk *chunk, struct err *err)
{
	const char *data = chunk->data;

	for (size_t i = 0; i < chunk->n_runs; i++) {
		if (page_table_put(chunk->table, chunk->runs[i].first, data, chunk->runs[i].n, NULL,
				   err) < 0)
			return -1;
		data += chunk->runs[i].n * STORE_PAGE_SIZE;
	}
	return 0;
}

static int no_memory(struct err *err)
{
	return err_sys(err, "copies of changed pages");
}

/* Keeps of the chunk what no later copy has superseded. There are never more runs than pages. */
static int keep_newest(struct page_set *later, struct page_chunk *chunk, struct err *err)
{
	struct page_chunk before = *chunk;
	const char *from = chunk->data;

	_Static_assert(CHUNK_RUNS * STORE_PAGE_SIZE >= CHUNK_BYTES, "a run a page");
	chunk->n_runs = chunk->n_pages = 0;
	for (size_t i = 0; i < before.n_runs; i++)
		for (uint64_t j = 0; j < before.runs[i].n; j++, from += STORE_PAGE_SIZE) {
			uint64_t page = before.runs[i].first + j;
			char *to = chunk->data + chunk->n_pages * STORE_PAGE_SIZE;
			int added = page_set_add(later, chunk->table, page);

			if (added < 0)
				return no_memory(err);
			if (added == 0)
				continue;
			if (to != from)
				memcpy(to, from, STORE_PAGE_SIZE);
			page_chunk_add(chunk, page);
		}
	return 0;
}

/* Whether all of `from` now stands in `to`. */
static bool take_over(struct page_chunk *to, const struct page_chunk *from)
{
	if (to->table != from->table || to->n_runs + from->n_runs > CHUNK_RUNS ||
	    (to->n_pages + from->n_pages) * STORE_PAGE_SIZE > CHUNK_BYTES)
		return false;
	page_chunk_populate(to, to->n_pages + from->n_pages);
	memcpy(to->data + to->n_pages * STORE_PAGE_SIZE, from->data, from->n_pages * STORE_PAGE_SIZE);
	memcpy(to->runs + to->n_runs, from->runs, from->n_runs * sizeof(*from->runs));
	to->n_runs += from->n_runs;
	to->n_pages += from->n_pages;
	return true;
}

int page_copies_compact(struct page_copies *copies, struct err *err)
{
	struct page_set later = {0};
	size_t n = copies->n;
	int result = 0;

	for (size_t i = n; i-- > 0 && result == 0;)
		result = keep_newest(&later, copies->chunks[i], err);
	page_set_clear(&later);
	if (result < 0)
		return -1;
	/* No page is there twice now, so their order does not matter. */
	copies->n = 0;
	copies->used = 0;
	for (size_t i = 0; i < n; i++) {
		struct page_chunk *chunk = copies->chunks[i];

		if (chunk->n_pages == 0 ||
		    (copies->n > 0 && take_over(copies->chunks[copies->n - 1], chunk)))
			page_copies_return(copies, chunk);
		else
			copies->chunks[copies->n++] = chunk;
	}
	for (size_t i = 0; i < copies->n; i++)
		copies->used += copies->chunks[i]->there;
	return 0;
}

static int put_all(struct page_copies *copies, bool gently, struct err *err)
{
	struct page_set later = {0};
	struct putting *putting;
	struct err end_err;
	int result = 0;

	if (copies->n == 0)
		return 0;
	if (putting_begin(&putting, copies, &later, gently, err) < 0)
		return -1;
	while (result == 0 && copies->n > 0) {
		struct page_chunk *newest = copies->chunks[--copies->n];

		copies->used -= newest->there;
		result = putting_add(putting, newest, err);
	}
	if (putting_end(putting, &end_err) < 0 && result == 0) {
		*err = end_err;
		result = -1;
	}
	page_set_clear(&later);
	return result;
}

int page_copies_put(struct page_copies *copies, struct err *err)
{
	return put_all(copies, false, err);
}

int page_copies_put_gently(struct page_copies *copies, struct err *err)
{
	return put_all(copies, true, err);
}
