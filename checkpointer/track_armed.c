#include "checkpointer/track_armed.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "checkpointer/pagemap_scan.h"
#include "store/base/cleanup.h"
#include "store/base/parallel.h"
#include "store/base/search.h"
#include "store/base/search.h"

#define THERE	    (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)
#define TABLE_BYTES (2ull << 20) /* of address space, that a page table describes */

/* Smaller mappings are scanned the exact way at once. */
#define QUICK_LEAST (16ull << 20)
/* Stretches that lie no further apart are scanned in one call, which takes the time of so many entries. */
#define GAP_MOST (128 * STORE_PAGE_SIZE)
/* With more of them than this it is not worth while. */
#define GUARDS_MOST 4096u
/* A thread's share while the job stands still. */
#define SHARE_LEAST   (256ull << 20)
#define SHARES_MOST   8u
#define TABLES_AT_ONCE 16u /* they are still in a cache then, since the scan */

/* ---- the exact way ------------------------------------------------------------------------- */

/* What was written, and armed again. */
static const struct page_query written_query = {
	.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
	.mask = PAGE_IS_WRITTEN,
	.anyof = THERE,
	.categories = THERE | PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
};
/* No page, swapped out, or a guard. WPALLOWED, as all of it is, so that runs without a page have a
 * category at all. */
static const struct page_query absent_query = {
	.inverted = PAGE_IS_PRESENT,
	.mask = PAGE_IS_PRESENT,
	.categories = PAGE_IS_WPALLOWED | PAGE_IS_SWAPPED,
};

struct seen {
	struct scan_result written, absent;
};

static void seen_clear(struct seen *seen)
{
	scan_result_free(&seen->written);
	scan_result_free(&seen->absent);
}

static int look_exactly(struct tracker *t, uint64_t start, uint64_t end, unsigned how, struct seen *seen,
			struct err *err)
{
	if (pagemap_query(t->pagemap, start, end, &written_query, false, &seen->written, err) < 0)
		return -1;
	return how & SCAN_WRITTEN ? 0
				  : pagemap_query(t->pagemap, start, end, &absent_query, false, &seen->absent, err);
}

/* ---- the quick way ------------------------------------------------------------------------- */

/* Nothing may be asked for besides. */
static const struct page_query quick_query = {
	.flags = PM_SCAN_CHECK_WPASYNC,
	.mask = PAGE_IS_WRITTEN,
	.categories = PAGE_IS_WRITTEN,
	.only = true,
};

/* The page tables of [start, end), at most TABLES_AT_ONCE and a part of one, that may be gone: they are to be looked
 * at. */
static int add_tables(struct tracker *t, uint64_t start, uint64_t end, struct scan_result *ret, struct err *err)
{
	void *addresses[TABLES_AT_ONCE + 1];
	int status[TABLES_AT_ONCE + 1];
	unsigned long n = 0;

	for (uint64_t at = start; at < end; at = (at | (TABLE_BYTES - 1)) + 1)
		addresses[n++] = (void *)at;
	/* Whatever the reason: there is the other way. */
	if (syscall(SYS_move_pages, t->pid, n, addresses, NULL, status, 0) < 0)
		return err_code(err, ENOSYS, "cannot look at the page tables of process %d", t->pid);
	for (unsigned long i = 0; i < n; i++) {
		const struct scan_range table = {.start = (uintptr_t)addresses[i],
						 .end = i + 1 < n ? (uintptr_t)addresses[i + 1] : end};

		/* Not there, or the zero page. */
		if (status[i] < 0 && scan_result_add(ret, &table, err) < 0)
			return -1;
	}
	return 0;
}

static int by_start(const void *a, const void *b)
{
	const struct scan_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Sorts, and makes one of what overlaps or lies close together. */
static void join(struct scan_result *r)
{
	size_t n = 0;

	if (r->n)
		qsort(r->ranges, r->n, sizeof(*r->ranges), by_start);
	for (size_t i = 0; i < r->n; i++) {
		const struct scan_range *next = &r->ranges[i];

		if (n && next->start <= r->ranges[n - 1].end + GAP_MOST) {
			if (r->ranges[n - 1].end < next->end)
				r->ranges[n - 1].end = next->end;
		} else {
			r->ranges[n++] = *next;
		}
	}
	r->n = n;
}

static int add_guards(const struct tracker *t, uint64_t start, uint64_t end, struct scan_result *ret, struct err *err)
{
	for (size_t i = 0; i < t->guards.n; i++)
		if (t->guards.ranges[i].start < end && t->guards.ranges[i].end > start &&
		    scan_result_add(ret, &t->guards.ranges[i], err) < 0)
			return -1;
	return 0;
}

/* Where in [start, end) something may have been written, have vanished or be a guard. */
static int look_quickly(struct tracker *t, uint64_t start, uint64_t end, unsigned how, struct scan_result *ret,
			struct err *err)
{
	const uint64_t piece = how & SCAN_WRITTEN ? end - start : TABLES_AT_ONCE * TABLE_BYTES;

	if (!(how & SCAN_WRITTEN) && add_guards(t, start, end, ret, err) < 0)
		return -1;
	for (uint64_t at = start, next; at < end; at = next) {
		next = (end - at > piece ? at + piece : end);
		if (next < end)
			next &= ~(TABLE_BYTES - 1);
		if (pagemap_query(t->pagemap, at, next, &quick_query, false, ret, err) < 0 ||
		    (!(how & SCAN_WRITTEN) && add_tables(t, at, next, ret, err) < 0))
			return -1;
	}
	join(ret);
	return 0;
}

static int look(struct tracker *t, uint64_t start, uint64_t end, unsigned how, struct seen *seen, struct err *err)
{
	struct scan_result where = {0};
	int result = 0;

	if (!t->quick || end - start < QUICK_LEAST)
		return look_exactly(t, start, end, how, seen, err);
	if (look_quickly(t, start, end, how, &where, err) < 0) {
		scan_result_free(&where);
		return err->sys_errno != ENOSYS ? -1 : look_exactly(t, start, end, how, seen, err);
	}
	for (size_t i = 0; result == 0 && i < where.n; i++) {
		const struct scan_range *r = &where.ranges[i];

		result = look_exactly(t, r->start > start ? r->start : start, r->end < end ? r->end : end, how, seen,
				      err);
	}
	scan_result_free(&where);
	return result;
}

/* ---- by several threads -------------------------------------------------------------------- */

struct share {
	uint64_t start, end;
	struct seen seen;
	struct err err;
	int result;
};

struct sharing {
	struct tracker *tracker;
	unsigned how;
	size_t n;
	atomic_size_t next;
	struct share shares[SHARES_MOST];
};

static int look_at_shares(void *ctx, struct err *err)
{
	struct sharing *s = ctx;
	size_t i;

	while ((i = atomic_fetch_add(&s->next, 1)) < s->n) {
		struct share *share = &s->shares[i];

		share->result = look(s->tracker, share->start, share->end, s->how, &share->seen, &share->err);
	}
	return 0;
}

/* Divides at whole page tables. */
static void divide(struct sharing *s, uint64_t start, uint64_t end)
{
	size_t most = s->how & SCAN_STILL ? parallel_cpus() : 1, n = (end - start) / SHARE_LEAST;
	uint64_t each;

	n = n < most ? n : most;
	n = n < 1 ? 1 : n < SHARES_MOST ? n : SHARES_MOST;
	each = (end - start) / n & ~(TABLE_BYTES - 1);
	for (size_t i = 0; i < n; i++) {
		s->shares[i] = (struct share){.start = start, .end = i + 1 < n ? (start & ~(TABLE_BYTES - 1)) + each : end};
		start = s->shares[i].end;
	}
	s->n = n;
}

static int append(struct scan_result *to, const struct scan_result *from, struct err *err)
{
	for (size_t i = 0; i < from->n; i++)
		if (scan_result_add(to, &from->ranges[i], err) < 0)
			return -1;
	return 0;
}

static int take_share(const struct sharing *s, const struct share *share, struct scan_result *result, struct err *err)
{
	if (share->result < 0) {
		*err = share->err;
		return -1;
	}
	if (s->how & SCAN_WRITTEN)
		return append(result, &share->seen.written, err);
	return scan_result_complement(result, share->start, share->end, &share->seen.absent, &share->seen.written, err);
}

int scan_armed_memory(struct tracker *t, uint64_t start, uint64_t end, unsigned how, struct scan_result *result,
		      struct err *err)
{
	struct sharing s = {.tracker = t, .how = how};
	int done;

	divide(&s, start, end);
	done = parallel_run(s.n, look_at_shares, &s, err);
	for (size_t i = 0; i < s.n; i++) {
		if (done == 0)
			done = take_share(&s, &s.shares[i], result, err);
		seen_clear(&s.shares[i].seen);
	}
	return done;
}

/* ---- what it rests on ---------------------------------------------------------------------- */

static void note_guard(struct tracker *t, const struct scan_range *guard)
{
	struct scan_range *known = t->guards.ranges;
	size_t at = COUNT_BEFORE(t->guards.n, i, known[i].start < guard->start);
	struct err ignored;

	if (at < t->guards.n && known[at].start == guard->start) {
		if (known[at].end < guard->end)
			known[at].end = guard->end;
		return;
	}
	if (t->guards.n == GUARDS_MOST || scan_result_room(&t->guards, &ignored) < 0) {
		t->quick = false;
		return;
	}
	known = t->guards.ranges + at;
	memmove(known + 1, known, (t->guards.n++ - at) * sizeof(*known));
	*known = *guard;
}

void note_armed_guards(struct tracker *t, const struct scan_result *found)
{
	for (size_t i = 0; t->quick && i < found->n; i++)
		if (found->ranges[i].guard)
			note_guard(t, &found->ranges[i]);
}

/* Before that, the entry of a page that is swapped out or just moved is taken for one that is present. */
static bool tells_entries_apart(void)
{
	struct utsname name;
	unsigned major, minor;

	return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 9));
}

#define TRIED 3u /* pages: a page table may end between two of them */

static bool try_pages(char *pages)
{
	const uint64_t start = (uintptr_t)pages, end = start + TRIED * STORE_PAGE_SIZE;
	struct page_query query = quick_query;
	struct scan_result seen = {0};
	struct err ignored;
	cleanup_fd int pagemap = open_pagemap(getpid(), &ignored);
	void *first = pages;
	int status = -1;
	bool works;

	pages[0] = pages[2 * STORE_PAGE_SIZE] = 1;
	query.flags = 0; /* they are not armed */
	works = pagemap >= 0 && pagemap_query(pagemap, start, end, &query, false, &seen, &ignored) == 0 && seen.n == 1 &&
		seen.ranges[0].start == start && seen.ranges[0].end == end &&
		syscall(SYS_move_pages, 0, 1ul, &first, NULL, &status, 0) == 0 && status >= 0;
	scan_result_free(&seen);
	return works;
}

bool armed_scan_is_quick(void)
{
	char *pages = tells_entries_apart() ? mmap(NULL, TRIED * STORE_PAGE_SIZE, PROT_READ | PROT_WRITE,
						   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
					    : MAP_FAILED;
	bool works;

	if (pages == MAP_FAILED)
		return false;
	works = try_pages(pages);
	munmap(pages, TRIED * STORE_PAGE_SIZE);
	return works;
}
