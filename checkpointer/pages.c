#include "checkpointer/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checkpointer/putting.h"
#include "checkpointer/reading.h"
#include "checkpointer/tracee/tracee.h"
#include "store/base/search.h"

#define CHUNK_PAGES (CHUNK_BYTES / STORE_PAGE_SIZE)

static const char zero_pages[64 * STORE_PAGE_SIZE];

/* ---- reading ------------------------------------------------------------------------------- */

struct capture {
	pid_t pid;
	struct page_table *table;
	struct page_copies *copies;
	enum capture_mode mode;
	struct page_chunk *chunk;
	struct putting *putting; /* CAPTURE_THROUGH */
	struct page_reading reading;
	uint64_t candidates;
};

/* Page by page: some cannot be read the ordinary way (PROT_NONE), some are gone. */
static int read_slowly(struct capture *c, struct err *err)
{
	struct page_chunk *k = c->chunk;
	struct page_chunk *out;

	if (page_copies_chunk(c->copies, k->table, &out, err) < 0)
		return -1;
	for (size_t i = 0; i < k->n_runs; i++)
		for (uint64_t j = 0; j < k->runs[i].n; j++) {
			uint64_t page = k->runs[i].first + j;
			uint64_t at = page * STORE_PAGE_SIZE;
			char *to = out->data + out->n_pages * STORE_PAGE_SIZE;

			if (mem_read(c->pid, at, to, STORE_PAGE_SIZE, err) < 0 &&
			    mem_read_forced(c->pid, at, to, STORE_PAGE_SIZE, err) < 0) {
				if (c->mode == CAPTURE_FROZEN || err->kind == ERR_GONE) {
					page_copies_return(c->copies, out);
					return -1;
				}
				continue;
			}
			page_chunk_add(out, page);
		}
	page_copies_return(c->copies, k);
	c->chunk = out;
	return 0;
}

static int read_chunk(struct capture *c, struct err *err)
{
	if (page_reading_chunk(&c->reading, c->chunk))
		return 0;
	if (errno == ESRCH)
		return err_sys(err, "process %d", c->pid);
	return read_slowly(c, err);
}

static int finish_chunk(struct capture *c, struct err *err)
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
	return page_copies_keep(c->copies, chunk, err);
}

static int add_run(struct capture *c, uint64_t first, uint64_t n, struct err *err)
{
	while (n > 0) {
		uint64_t part;

		if (!c->chunk && page_copies_chunk(c->copies, c->table, &c->chunk, err) < 0)
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
		    finish_chunk(c, err) < 0)
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

static int capture_range(struct capture *c, const struct scan_range *r, struct err *err)
{
	uint64_t first = r->start / STORE_PAGE_SIZE;
	uint64_t n = (r->end - r->start) / STORE_PAGE_SIZE;

	if (!r->written || r->file || r->guard)
		return 0;
	c->candidates += n;
	/* Known to be zero: nothing to read. Put at once, unless an older copy waits that would be
	 * put after it. */
	if (r->zero && c->copies->n == 0)
		return put_zeroes(c->table, first, n, err);
	return add_run(c, first, n, err);
}

uint64_t pages_range_size(const struct scan_range *range)
{
	return range->written && !range->file && !range->guard && !range->zero ? range->end - range->start : 0;
}

uint64_t pages_capture_size(const struct scan_result *ranges)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < ranges->n; i++)
		bytes += pages_range_size(&ranges->ranges[i]);
	return bytes;
}

int pages_capture(pid_t pid, struct page_table *table, const struct scan_result *ranges,
		  struct page_copies *copies, enum capture_mode mode, uint64_t *candidates,
		  struct err *err)
{
	struct capture c = {.pid = pid,
			    .table = table,
			    .copies = copies,
			    .mode = mode,
			    .reading = {.pid = pid, .pagemap = -1, .mem = -1}};
	struct err end_err;
	int result = 0;

	if (mode == CAPTURE_THROUGH && putting_begin(&c.putting, copies, NULL, true, err) < 0)
		return -1;
	for (size_t i = 0; result == 0 && i < ranges->n; i++)
		result = capture_range(&c, &ranges->ranges[i], err);
	if (result == 0)
		result = finish_chunk(&c, err);
	page_copies_return(copies, c.chunk);
	if (putting_end(c.putting, &end_err) < 0 && result == 0) {
		*err = end_err;
		result = -1;
	}
	page_reading_end(&c.reading);
	if (result == 0)
		*candidates += c.candidates;
	return result;
}

/* ---- what is gone -------------------------------------------------------------------------- */

static int clear_bytes(struct page_table *table, uint64_t start, uint64_t end, struct err *err)
{
	return page_table_clear(table, start / STORE_PAGE_SIZE, (end - start) / STORE_PAGE_SIZE,
				err);
}

/* First range of ascending r that ends behind `at`. */
static size_t first_behind(const struct scan_result *r, uint64_t at)
{
	return COUNT_BEFORE(r->n, i, r->ranges[i].end <= at);
}

int pages_clear_gone(struct page_table *table, const struct scan_result *before,
		     const struct scan_result *after, struct err *err)
{
	for (size_t i = 0; i < before->n; i++) {
		uint64_t at = before->ranges[i].start, end = before->ranges[i].end;

		for (size_t k = first_behind(after, at); at < end; k++) {
			uint64_t gap_end = end;

			while (k < after->n && (after->ranges[k].file || after->ranges[k].guard))
				k++;
			if (k < after->n && after->ranges[k].start < end)
				gap_end = after->ranges[k].start;
			if (gap_end > at && clear_bytes(table, at, gap_end, err) < 0)
				return -1;
			at = k < after->n && after->ranges[k].start < end ? after->ranges[k].end
									  : end;
		}
	}
	return 0;
}

int pages_of_table(struct page_table *table, struct scan_result *ret, struct err *err)
{
	uint64_t first = 0, n;
	int found;

	while ((found = page_table_next(table, first, UINT64_MAX, &first, &n, err)) > 0) {
		const struct scan_range r = {.start = first * STORE_PAGE_SIZE,
					     .end = (first + n) * STORE_PAGE_SIZE};

		if (scan_result_add(ret, &r, err) < 0)
			return -1;
		first += n;
	}
	return found;
}

uint64_t scan_result_pages(const struct scan_result *r)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < r->n; i++)
		if (!r->ranges[i].file && !r->ranges[i].guard)
			pages += (r->ranges[i].end - r->ranges[i].start) / STORE_PAGE_SIZE;
	return pages;
}
