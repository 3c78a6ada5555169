#include "checkpointer/capture.h"

#include <errno.h>

#include "checkpointer/tracee/tracee.h"

static const char zero_pages[64 * STORE_PAGE_SIZE];

static void lock(const struct capture *c)
{
	if (c->lock)
		pthread_mutex_lock(c->lock);
}

static void unlock(const struct capture *c)
{
	if (c->lock)
		pthread_mutex_unlock(c->lock);
}

static bool is_pressed(const struct capture *c)
{
	return c->mode == CAPTURE_PRESSED || c->mode == CAPTURE_THROUGH;
}

/* ---- chunks -------------------------------------------------------------------------------- */

static int get_chunks(struct capture *c, struct err *err)
{
	int result = 0;

	if (c->chunk)
		return 0;
	lock(c);
	result = page_copies_chunk(c->copies, c->table, &c->chunk, err);
	if (result == 0 && is_pressed(c) && !c->raw)
		result = page_copies_chunk(c->copies, c->table, &c->raw, err);
	c->compress = !c->copies->in_vain;
	unlock(c);
	if (result == 0 && is_pressed(c) && !c->press)
		result = page_press_new(&c->press, page_table_session(c->table), err);
	return result;
}

/* With the lock. */
static int put_through(struct capture *c, struct page_chunk *chunk, struct err *err)
{
	int result;

	yield_pace(&c->copies->yielding, chunk->n_pages * STORE_PAGE_SIZE);
	result = page_copies_put_chunk(c->copies, chunk, err);
	page_copies_return(c->copies, chunk);
	return result;
}

static int hand_over(struct capture *c, struct err *err)
{
	struct page_chunk *chunk = c->chunk;
	int result;

	if (!chunk || chunk->n_pages == 0)
		return 0;
	c->chunk = NULL;
	lock(c);
	result = c->mode == CAPTURE_THROUGH ? put_through(c, chunk, err) : page_copies_keep(c->copies, chunk, err);
	unlock(c);
	return result;
}

/* ---- slices -------------------------------------------------------------------------------- */

/* Where so many pages are read to. */
static char *reading_room(const struct capture *c, size_t pages)
{
	return page_chunk_room(is_pressed(c) ? c->raw : c->chunk, pages * STORE_PAGE_SIZE);
}

/* The page was read there; if it is not pressed, it is where it will stay. */
static void take_page(struct capture *c, uint64_t index, const char *page)
{
	struct pressed_page pressed;

	if (!is_pressed(c)) {
		page_chunk_add(c->chunk, index);
		return;
	}
	pressed = page_press_page(c->press, page, page_chunk_room(c->chunk, STORE_PAGE_SIZE), c->compress);
	page_chunk_add_pressed(c->chunk, index, &pressed);
}

/* Page by page: some cannot be read the ordinary way (PROT_NONE), some are gone. */
static int read_slowly(struct capture *c, struct err *err)
{
	const struct page_slice *slice = &c->slice;

	for (size_t i = 0; i < slice->n_runs; i++)
		for (uint64_t j = 0; j < slice->runs[i].n; j++) {
			uint64_t page = slice->runs[i].first + j;
			uint64_t at = page * STORE_PAGE_SIZE;
			char *to = reading_room(c, 1);

			if (mem_read(c->pid, at, to, STORE_PAGE_SIZE, err) == 0 ||
			    mem_read_forced(c->pid, at, to, STORE_PAGE_SIZE, err) == 0)
				take_page(c, page, to);
			else if (c->mode == CAPTURE_FROZEN || err->kind == ERR_GONE)
				return -1;
		}
	return 0;
}

static void take_slice(struct capture *c, const char *data)
{
	const struct page_slice *slice = &c->slice;

	if (is_pressed(c)) /* for all of them at once */
		page_chunk_room(c->chunk, slice->n_pages * STORE_PAGE_SIZE);
	for (size_t i = 0; i < slice->n_runs; i++)
		for (uint64_t j = 0; j < slice->runs[i].n; j++, data += STORE_PAGE_SIZE)
			take_page(c, slice->runs[i].first + j, data);
}

static int read_slice(struct capture *c, struct err *err)
{
	char *data;
	int result = 0;

	if (c->slice.n_pages == 0)
		return 0;
	if (get_chunks(c, err) < 0)
		return -1;
	data = reading_room(c, c->slice.n_pages);
	if (page_reading_slice(&c->reading, &c->slice, data))
		take_slice(c, data);
	else if (errno == ESRCH)
		return err_sys(err, "process %d", c->pid);
	else
		result = read_slowly(c, err);
	c->slice.n_runs = c->slice.n_pages = 0;
	return result;
}

/* The slice is full, or so much of it that the chunk will be. */
static int end_slice(struct capture *c, struct err *err)
{
	if (read_slice(c, err) < 0)
		return -1;
	return c->chunk && c->chunk->n_pages == CHUNK_PAGES ? hand_over(c, err) : 0;
}

int capture_finish(struct capture *c, struct err *err)
{
	return read_slice(c, err) < 0 ? -1 : hand_over(c, err);
}

static uint64_t room_of_slice(const struct capture *c)
{
	uint64_t in_chunk = c->chunk ? CHUNK_PAGES - c->chunk->n_pages : CHUNK_PAGES;

	return (in_chunk < SLICE_PAGES ? in_chunk : SLICE_PAGES) - c->slice.n_pages;
}

static int add_run(struct capture *c, uint64_t first, uint64_t n, struct err *err)
{
	while (n > 0) {
		uint64_t room = room_of_slice(c), part = n < room ? n : room;

		c->slice.runs[c->slice.n_runs++] = (struct index_run){first, part};
		c->slice.n_pages += part;
		first += part;
		n -= part;
		if (part == room && end_slice(c, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- ranges -------------------------------------------------------------------------------- */

static int put_zeroes(struct page_table *table, uint64_t first, uint64_t n, struct err *err)
{
	const uint64_t at_once = sizeof(zero_pages) / STORE_PAGE_SIZE;

	for (; n > 0;) {
		uint64_t part = n < at_once ? n : at_once;

		if (page_table_put(table, first, zero_pages, part, NULL, err) < 0)
			return -1;
		first += part;
		n -= part;
	}
	return 0;
}

/* Known to be zero: nothing to read. 1; 0: an older copy waits, which would be put after it. */
static int put_known_zeroes(struct capture *c, uint64_t first, uint64_t n, struct err *err)
{
	int result = 0;

	lock(c);
	if (c->copies->n == 0)
		result = put_zeroes(c->table, first, n, err) < 0 ? -1 : 1;
	unlock(c);
	return result;
}

int capture_range(struct capture *c, const struct scan_range *r, struct err *err)
{
	uint64_t first = r->start / STORE_PAGE_SIZE;
	uint64_t n = (r->end - r->start) / STORE_PAGE_SIZE;
	int put;

	if (!r->written || r->file || r->guard)
		return 0;
	c->candidates += n;
	put = r->zero ? put_known_zeroes(c, first, n, err) : 0;
	return put ? put < 0 ? -1 : 0 : add_run(c, first, n, err);
}

void capture_end(struct capture *c)
{
	lock(c);
	page_copies_return(c->copies, c->chunk);
	page_copies_return(c->copies, c->raw);
	unlock(c);
	page_press_free(c->press);
	page_reading_end(&c->reading);
}
