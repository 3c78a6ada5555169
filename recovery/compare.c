/*
 * The memory of a process that was rebuilt, against the store: read back through the kernel, page by page. Before
 * its threads go back into their waits: what is left of a sleep the kernel writes into it.
 */
#include <stdlib.h>
#include <string.h>

#include "recovery/rebuild.h"
#include "store/base/cleanup.h"

#define AT_ONCE 256u /* pages */

struct comparison {
	struct recovery *rec;
	struct stub *stub;
	struct page_reader *reader;
	char *stored, *there; /* AT_ONCE pages each */
	uint64_t open_run, open_pages; /* pages that differ side by side, not told yet */
};

static void tell_run(struct comparison *c)
{
	const struct recovery_options *options = c->rec->options;

	if (c->open_pages && options->differs)
		options->differs(options->ctx, c->stub->model->pid, c->open_run * STORE_PAGE_SIZE,
				 c->open_pages);
	c->open_pages = 0;
}

static void note_difference(struct comparison *c, uint64_t page)
{
	if (c->open_pages && c->open_run + c->open_pages != page)
		tell_run(c);
	if (c->open_pages++ == 0)
		c->open_run = page;
}

static int compare_pages(struct comparison *c, uint64_t first, uint64_t n, struct err *err)
{
	const pid_t pid = c->stub->pid;

	if (page_reader_read(c->reader, first, n, c->stored, err) < 0)
		return -1;
	if (mem_read(pid, first * STORE_PAGE_SIZE, c->there, n * STORE_PAGE_SIZE, err) < 0 &&
	    mem_read_forced(pid, first * STORE_PAGE_SIZE, c->there, n * STORE_PAGE_SIZE, err) < 0)
		return -1;
	for (uint64_t i = 0; i < n; i++)
		if (memcmp(c->stored + i * STORE_PAGE_SIZE, c->there + i * STORE_PAGE_SIZE, STORE_PAGE_SIZE) != 0)
			note_difference(c, first + i);
	c->rec->compared += n;
	return 0;
}

static int compare_region(struct comparison *c, const Snap__Region *r, struct err *err)
{
	uint64_t at = r->start / STORE_PAGE_SIZE, end = r->end / STORE_PAGE_SIZE;
	struct page_run run;
	int found = 0;

	while (at < end && (found = page_reader_next(c->reader, at, &run, err)) > 0 && run.first < end) {
		uint64_t till = run.first + run.n < end ? run.first + run.n : end;

		for (at = run.first; at < till; at += AT_ONCE)
			if (compare_pages(c, at, till - at < AT_ONCE ? till - at : AT_ONCE, err) < 0)
				return -1;
		at = till;
	}
	return found < 0 ? -1 : 0;
}

static int compare_regions(struct comparison *c, struct err *err)
{
	const Snap__Process *p = c->stub->model;
	int result = page_reader_open(&c->reader, c->rec->store, p->pages_root, err);

	for (size_t i = 0; i < p->n_regions && result == 0; i++)
		if (plan_region_has_pages(p->regions[i]))
			result = compare_region(c, p->regions[i], err);
	tell_run(c);
	page_reader_close(c->reader);
	return result == 0 ? 0 : err_wrap(err, "comparing the memory of process %d", p->pid);
}

int stub_compare(struct recovery *rec, struct stub *stub, struct err *err)
{
	cleanup_free char *stored = malloc(AT_ONCE * STORE_PAGE_SIZE);
	cleanup_free char *there = malloc(AT_ONCE * STORE_PAGE_SIZE);
	struct comparison c = {.rec = rec, .stub = stub, .stored = stored, .there = there};

	if (!stored || !there)
		return err_set(err, ERR_SYSTEM, "out of memory");
	return compare_regions(&c, err);
}
