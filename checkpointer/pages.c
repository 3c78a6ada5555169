#include "checkpointer/pages.h"

#include <stdlib.h>

#include "checkpointer/capture.h"
#include "store/base/cleanup.h"
#include "store/base/parallel.h"
#include "store/base/search.h"

/* How much one of several threads takes at a time, at most so many ranges; and so much must be there for each. */
#define SHARE_BYTES	    (4ull << 20)
#define SHARE_RANGES	    4096u
#define SHARE_LEAST	    (32ull << 20)
#define SHARE_LEAST_PRESSED (8ull << 20)
#define SHARES_MOST	    8u

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

/* ---- reading by one thread ------------------------------------------------------------------ */

static int capture_alone(struct capture *c, const struct scan_result *ranges, struct err *err)
{
	int result = 0;

	for (size_t i = 0; result == 0 && i < ranges->n; i++)
		result = capture_range(c, &ranges->ranges[i], err);
	if (result == 0)
		result = capture_finish(c, err);
	capture_end(c);
	return result;
}

/* ---- reading by several threads ------------------------------------------------------------- */

struct sharing {
	const struct capture *whole;
	pthread_mutex_t lock, next_lock;
	struct scan_cursor next;
	uint64_t candidates;
	bool failed;
};

static size_t next_share(struct sharing *s, struct scan_range *ret)
{
	uint64_t size = 0;
	size_t n = 0;

	pthread_mutex_lock(&s->next_lock);
	while (!s->failed && n < SHARE_RANGES && size < SHARE_BYTES && scan_cursor_next(&s->next, SHARE_BYTES, &ret[n]))
		size += pages_range_size(&ret[n++]);
	pthread_mutex_unlock(&s->next_lock);
	return n;
}

static int capture_shares(struct sharing *s, struct capture *c, struct scan_range *share, struct err *err)
{
	size_t n;

	while ((n = next_share(s, share)) > 0)
		for (size_t i = 0; i < n; i++)
			if (capture_range(c, &share[i], err) < 0)
				return -1;
	return capture_finish(c, err);
}

static int capture_a_part(void *ctx, struct err *err)
{
	struct sharing *s = ctx;
	cleanup_free struct scan_range *share = calloc(SHARE_RANGES, sizeof(*share));
	struct capture c = *s->whole;
	int result;

	c.lock = &s->lock;
	result = share ? capture_shares(s, &c, share, err) : err_sys(err, "copies of changed pages");
	capture_end(&c);
	pthread_mutex_lock(&s->next_lock);
	s->candidates += c.candidates;
	s->failed |= result < 0;
	pthread_mutex_unlock(&s->next_lock);
	return result;
}

static int capture_together(struct capture *c, const struct scan_result *ranges, size_t threads, struct err *err)
{
	struct sharing s = {.whole = c,
			    .next = {.ranges = ranges},
			    .lock = PTHREAD_MUTEX_INITIALIZER,
			    .next_lock = PTHREAD_MUTEX_INITIALIZER};
	int result = parallel_run(threads, capture_a_part, &s, err);

	c->candidates = s.candidates;
	return result;
}

/* While the job stands still there is little to read. */
static size_t threads_for(enum capture_mode mode, const struct scan_result *ranges)
{
	uint64_t least = mode == CAPTURE_RAW ? SHARE_LEAST : SHARE_LEAST_PRESSED;
	size_t most = mode == CAPTURE_FROZEN ? 1 : pages_capture_size(ranges) / least, cpus;

	if (most <= 1)
		return 1;
	cpus = parallel_cpus();
	cpus = cpus < SHARES_MOST ? cpus : SHARES_MOST;
	return most < cpus ? most : cpus;
}

int pages_capture(const struct page_owner *owner, const struct scan_result *ranges, struct page_copies *copies,
		  enum capture_mode mode, uint64_t *candidates, struct err *err)
{
	struct capture c = {.pid = owner->pid,
			    .table = owner->table,
			    .copies = copies,
			    .mode = mode,
			    .reading = {.pid = owner->pid, .alone = owner->alone, .pagemap = -1, .mem = -1}};
	size_t threads = threads_for(mode, ranges);

	if ((threads > 1 ? capture_together(&c, ranges, threads, err) : capture_alone(&c, ranges, err)) < 0)
		return -1;
	*candidates += c.candidates;
	return 0;
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
