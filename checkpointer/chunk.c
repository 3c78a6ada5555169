#include "checkpointer/chunk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "store/base/pages.h"

void page_chunk_free(struct page_chunk *chunk)
{
	if (chunk)
		munmap(chunk->data, CHUNK_BYTES);
	free(chunk);
}

struct page_chunk *page_chunk_new(void)
{
	struct page_chunk *chunk = malloc(sizeof(*chunk));
	void *data;

	if (!chunk)
		return NULL;
	data = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED) {
		free(chunk);
		return NULL;
	}
	chunk->data = data;
	chunk->there = 0;
	page_chunk_begin(chunk, NULL);
	return chunk;
}

void page_chunk_begin(struct page_chunk *chunk, struct page_table *table)
{
	chunk->table = table;
	chunk->n_runs = chunk->n_pages = 0;
	chunk->used = 0;
	chunk->rests = false;
}

void page_chunk_rest(struct page_chunk *chunk)
{
	if (chunk->there && !chunk->rests)
		pages_lend(chunk->data, chunk->there);
	chunk->rests = true;
}

/* Mapped anew (MADV_POPULATE_WRITE came with Linux 5.14). Where that fails they come by faults. */
char *page_chunk_room(struct page_chunk *chunk, size_t bytes)
{
	size_t want = (chunk->used + bytes + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE * STORE_PAGE_SIZE;

	if (want > chunk->there) {
		mmap(chunk->data + chunk->there, want - chunk->there, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0);
		chunk->there = want;
	}
	return chunk->data + chunk->used;
}

/* ---- adding -------------------------------------------------------------------------------- */

static size_t kept_bytes(const struct pressed_page *page)
{
	if (page->zero)
		return 0;
	return page->page ? STORE_PAGE_SIZE : page->stored.len;
}

/* What the page points to stands at `data`. */
static void point_to(struct pressed_page *page, const char *data)
{
	if (page->page)
		page->page = data;
	if (page->stored.data)
		page->stored.data = data;
}

static void append(struct page_chunk *chunk, uint64_t index, const struct pressed_page *page)
{
	struct index_run *last = chunk->n_runs ? &chunk->runs[chunk->n_runs - 1] : NULL;

	if (last && last->first + last->n == index)
		last->n++;
	else
		chunk->runs[chunk->n_runs++] = (struct index_run){index, 1};
	chunk->pages[chunk->n_pages++] = *page;
}

void page_chunk_add(struct page_chunk *chunk, uint64_t index)
{
	const struct pressed_page page = {.page = chunk->data + chunk->used};

	append(chunk, index, &page);
	chunk->used += STORE_PAGE_SIZE;
}

void page_chunk_add_pressed(struct page_chunk *chunk, uint64_t index, const struct pressed_page *page)
{
	char *room = chunk->data + chunk->used;
	struct pressed_page kept = *page;

	if (kept.stored.data == room)
		kept.page = NULL;
	else if (!kept.zero)
		memcpy(room, kept.page, STORE_PAGE_SIZE);
	point_to(&kept, room);
	append(chunk, index, &kept);
	chunk->used += kept_bytes(&kept);
}

/* ---- changing ------------------------------------------------------------------------------ */

void page_chunk_press(struct page_chunk *chunk, struct page_press *press, struct page_chunk *room, bool compress)
{
	for (size_t i = 0; i < chunk->n_pages; i++) {
		struct pressed_page *page = &chunk->pages[i];
		char *to;

		if (page->hashed)
			continue;
		/* The first time for all of them at once. */
		to = page_chunk_room(room, room->used ? STORE_PAGE_SIZE : (chunk->n_pages - i) * STORE_PAGE_SIZE);
		*page = page_press_page(press, page->page, to, compress);
		if (page->stored.data == to)
			room->used += page->stored.len;
	}
}

int page_chunk_drop_superseded(struct page_chunk *chunk, struct page_set *later)
{
	struct index_run before[CHUNK_PAGES];
	size_t n = chunk->n_runs, at = 0;

	memcpy(before, chunk->runs, n * sizeof(*before));
	chunk->n_runs = chunk->n_pages = 0;
	for (size_t i = 0; i < n; i++)
		for (uint64_t j = 0; j < before[i].n; j++, at++) {
			int added = page_set_add(later, chunk->table, before[i].first + j);

			if (added < 0)
				return -1;
			if (added)
				append(chunk, before[i].first + j, &chunk->pages[at]);
		}
	return 0;
}

void page_chunk_squeeze(struct page_chunk *chunk)
{
	chunk->used = 0;
	for (size_t i = 0; i < chunk->n_pages; i++) {
		struct pressed_page *page = &chunk->pages[i];
		const char *from = page->page ? page->page : page->stored.data;
		char *to = chunk->data + chunk->used;

		if (kept_bytes(page) && from != to)
			memmove(to, from, kept_bytes(page));
		point_to(page, to);
		chunk->used += kept_bytes(page);
	}
}

bool page_chunk_take_over(struct page_chunk *to, const struct page_chunk *from)
{
	char *data;

	if (to->table != from->table || to->n_pages + from->n_pages > CHUNK_PAGES || to->used + from->used > CHUNK_BYTES)
		return false;
	data = page_chunk_room(to, from->used);
	memcpy(data, from->data, from->used);
	memcpy(to->runs + to->n_runs, from->runs, from->n_runs * sizeof(*from->runs));
	to->n_runs += from->n_runs;
	for (size_t i = 0; i < from->n_pages; i++) {
		struct pressed_page *page = &to->pages[to->n_pages++];

		*page = from->pages[i];
		point_to(page, data);
		data += kept_bytes(page);
	}
	to->used += from->used;
	return true;
}

int page_chunk_put(const struct page_chunk *chunk, uint64_t *stored, struct err *err)
{
	const struct pressed_page *page = chunk->pages;

	for (size_t i = 0; i < chunk->n_runs; page += chunk->runs[i++].n)
		if (page_table_put_pressed(chunk->table, chunk->runs[i].first, page, chunk->runs[i].n, stored, err) < 0)
			return -1;
	return 0;
}
