#include "checkpointer/capture.h"

#include <errno.h>

#include "checkpointer/tracee/tracee.h"

#define CHUNK_PAGES (CHUNK_BYTES / STORE_PAGE_SIZE)

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

static int get_chunk(const struct capture *c, struct page_chunk **ret, struct err *err)
{
	int result;

	lock(c);
	result = page_copies_chunk(c->copies, c->table, ret, err);
	unlock(c);
	return result;
}

static void return_chunk(const struct capture *c, struct page_chunk *chunk)
{
	lock(c);
	page_copies_return(c->copies, chunk);
	unlock(c);
}

static int keep_chunk(const struct capture *c, struct page_chunk *chunk, struct err *err)
{
	int result;

	lock(c);
	result = page_copies_keep(c->copies, chunk, err);
	unlock(c);
	return result;
}

/* Page by page: some cannot be read the ordinary way (PROT_NONE), some are gone. */
static int read_slowly(struct capture *c, struct err *err)
{
	struct page_chunk *k = c->chunk;
	struct page_chunk *out;

	if (get_chunk(c, &out, err) < 0)
		return -1;
	for (size_t i = 0; i < k->n_runs; i++)
		for (uint64_t j = 0; j < k->runs[i].n; j++) {
			uint64_t page = k->runs[i].first + j;
			uint64_t at = page * STORE_PAGE_SIZE;
			char *to = out->data + out->n_pages * STORE_PAGE_SIZE;

			if (mem_read(c->pid, at, to, STORE_PAGE_SIZE, err) < 0 &&
			    mem_read_forced(c->pid, at, to, STORE_PAGE_SIZE, err) < 0) {
				if (c->mode == CAPTURE_FROZEN || err->kind == ERR_GONE) {
					return_chunk(c, out);
					return -1;
				}
				continue;
			}
			page_chunk_add(out, page);
		}
	return_chunk(c, k);
	c->chunk = out;
	return 0;
}

static int read_chunk(struct capture *c, struct err *err)
{
	page_chunk_populate(c->chunk, c->chunk->n_pages);
	if (page_reading_chunk(&c->reading, c->chunk))
		return 0;
	if (errno == ESRCH)
		return err_sys(err, "process %d", c->pid);
	return read_slowly(c, err);
}

int capture_finish(struct capture *c, struct err *err)
{
	struct page_chunk *chunk;

	if (!c->chunk || c->chunk->n_runs == 0)
		return 0;
	if (read_chunk(c, err) < 0)
		return -1;
	chunk = c->chunk;
	c->chunk = NULL;
	if (c->mode == CAPTURE_THROUGH)
		return putting_add(c->putting, chunk, err);
	return keep_chunk(c, chunk, err);
}

static int add_run(struct capture *c, uint64_t first, uint64_t n, struct err *err)
{
	while (n > 0) {
		uint64_t part;

		if (!c->chunk && get_chunk(c, &c->chunk, err) < 0)
			return -1;
		part = CHUNK_PAGES - c->chunk->n_pages;
		if (part > n)
			part = n;
		c->chunk->runs[c->chunk->n_runs].first = first;
		c->chunk->runs[c->chunk->n_runs++].n = part;
		c->chunk->n_pages += part;
		first += part;
		n -= part;
		if ((c->chunk->n_pages == CHUNK_PAGES || c->chunk->n_runs == CHUNK_RUNS) &&
		    capture_finish(c, err) < 0)
			return -1;
	}
	return 0;
}

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
	return_chunk(c, c->chunk);
	page_reading_end(&c->reading);
}
