/*
 * Pages from the store into the processes, by as many threads as help.
 *
 * Each worker has a reader and a buffer of its own and takes the next piece of a list that is made
 * beforehand; writing is process_vm_writev(2), which any thread may do.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "recovery/readers.h"
#include "store/base/cleanup.h"

#define PIECE_PAGES 512u /* 2 MiB: a chunk of the page table */
#define MAX_WORKERS 8

struct piece {
	uint64_t root; /* of the page table that has it */
	uint64_t first;
	uint32_t n;
	bool zero;
};

struct fill {
	struct store *store;
	pid_t pid; /* 0: only read */
	struct piece *pieces;
	size_t n, room;
	atomic_size_t next;
	atomic_bool failed;
};

struct worker {
	struct fill *fill;
	pthread_t thread;
	bool started;
	int result;
	struct err err;
};

static int add_pieces(struct fill *fill, uint64_t root, uint64_t first, uint64_t end, bool zero,
		      struct err *err)
{
	while (first < end) {
		uint64_t stop = (first / PIECE_PAGES + 1) * PIECE_PAGES;

		if (fill->n == fill->room) {
			size_t room = fill->room ? fill->room * 2 : 256;
			struct piece *grown = realloc(fill->pieces, room * sizeof(*grown));

			if (!grown)
				return err_set(err, ERR_SYSTEM, "out of memory");
			fill->pieces = grown;
			fill->room = room;
		}
		stop = stop < end ? stop : end;
		fill->pieces[fill->n++] =
			(struct piece){root, first, (uint32_t)(stop - first), zero};
		first = stop;
	}
	return 0;
}

/* ---- what is to be written ----------------------------------------------------------------- */

struct lister {
	struct recovery *rec;
	const struct stub *stub;
	bool late;
	struct readers readers;
	struct fill *fill;
	struct batch *drops; /* NULL where pages are only read */
};

/* Zero pages of fresh anonymous memory need nothing: they are zero, and become resident when used.
 * Over a file they must be written. */
static int list_fresh(struct lister *l, const Snap__Region *r, uint64_t root, uint64_t start,
		      struct err *err)
{
	uint64_t at = start / STORE_PAGE_SIZE, end = r->end / STORE_PAGE_SIZE;
	struct page_reader *reader;
	struct page_run run;
	int found;

	if (readers_get(&l->readers, root, &reader, err) < 0)
		return -1;
	while (at < end && (found = page_reader_next(reader, at, &run, err)) != 0) {
		if (found < 0)
			return -1;
		if (run.first >= end)
			break;
		at = run.first + run.n < end ? run.first + run.n : end;
		if (run.kind == PAGE_ZERO && r->kind != SNAP__REGION__KIND__FILE_PRIVATE)
			continue;
		if (add_pieces(l->fill, root, run.first, at, run.kind == PAGE_ZERO, err) < 0)
			return -1;
	}
	return 0;
}

/* Pages that the parent has and the child has not (or only as zeroes of fresh memory). */
static int drop_inherited(struct lister *l, const struct page_difference *d, struct err *err)
{
	uint64_t start = d->first * STORE_PAGE_SIZE;

	if (!l->drops)
		return 0;
	return batch_call(l->drops, BATCH_MUST, err, SYS_madvise,
			  ARGS(start, d->n * STORE_PAGE_SIZE, MADV_DONTNEED),
			  "drop inherited pages at %#" PRIx64, start);
}

/* The region from `start` to `end` has the pages of root `was`. */
static int list_inherited(struct lister *l, const Snap__Region *r, uint64_t root, uint64_t was,
			  uint64_t start, uint64_t end, struct err *err)
{
	bool over_file = r->kind == SNAP__REGION__KIND__FILE_PRIVATE;
	uint64_t at = start / STORE_PAGE_SIZE, limit = end / STORE_PAGE_SIZE;
	struct page_reader *a, *b;
	struct page_difference d;
	int found;

	if (was == root)
		return 0;
	if (readers_get(&l->readers, was, &a, err) < 0 ||
	    readers_get(&l->readers, root, &b, err) < 0)
		return -1;
	for (; (found = page_readers_compare(a, b, at, limit, &d, err)) > 0; at = d.first + d.n) {
		bool write = d.b == PAGE_DATA || (d.b == PAGE_ZERO && over_file);
		/* What was not written into the parent is not there to be dropped. */
		bool drop = !write && (d.a == PAGE_DATA || (d.a == PAGE_ZERO && over_file));

		if (write &&
		    add_pieces(l->fill, root, d.first, d.first + d.n, d.b == PAGE_ZERO, err) < 0)
			return -1;
		if (drop && drop_inherited(l, &d, err) < 0)
			return -1;
	}
	return found;
}

static int list_region(struct lister *l, const Snap__Region *r, uint64_t root, struct err *err)
{
	const struct region_image *image = l->late ? NULL : stub_inherited(l->stub);
	uint64_t end = inherit_end(image, r);

	for (size_t i = end > r->start ? image_find(image, r->start) : 0; end > r->start; i++) {
		const struct image_piece *piece = &image->pieces[i];
		uint64_t from = piece->region.start > r->start ? piece->region.start : r->start;
		uint64_t till = piece->region.end < end ? piece->region.end : end;

		if (list_inherited(l, r, root, piece_root(l->rec, piece), from, till, err) < 0)
			return -1;
		if (till == end)
			break;
	}
	return list_fresh(l, r, root, end, err);
}

static int list_regions(struct lister *l, struct err *err)
{
	for (size_t i = 0; i < stub_n_regions(l->stub, l->late); i++) {
		const Snap__Region *r = stub_region(l->rec, l->stub, l->late, i);

		if (r && plan_region_has_pages(r) &&
		    list_region(l, r, stub_region_root(l->rec, l->stub, l->late, i), err) < 0)
			return -1;
	}
	return l->drops ? batch_run(l->drops, err) : 0;
}

static int list_pieces(struct recovery *rec, struct stub *stub, bool late, struct fill *fill,
		       struct err *err)
{
	struct lister l = {.rec = rec, .stub = stub, .late = late, .fill = fill};
	struct batch drops;
	int result;

	l.readers.store = rec->store;
	if (stub_inherited(stub) && fill->pid) {
		batch_begin(&drops, stub, &stub->threads[0]);
		l.drops = &drops;
	}
	result = list_regions(&l, err);
	readers_close(&l.readers);
	return result;
}

/* ---- writing it ---------------------------------------------------------------------------- */

static int work_on(struct fill *fill, struct readers *readers, char *buf, struct err *err)
{
	size_t i;

	while (!fill->failed && (i = atomic_fetch_add(&fill->next, 1)) < fill->n) {
		const struct piece *piece = &fill->pieces[i];
		struct page_reader *reader;

		if (readers_get(readers, piece->root, &reader, err) < 0 ||
		    page_reader_read(reader, piece->first, piece->n, buf, err) < 0)
			return -1;
		if (fill->pid && mem_write(fill->pid, piece->first * STORE_PAGE_SIZE, buf,
					   (size_t)piece->n * STORE_PAGE_SIZE, err) < 0)
			return -1;
	}
	return 0;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	cleanup_free char *buf = malloc(PIECE_PAGES * STORE_PAGE_SIZE);
	struct readers readers = {.store = w->fill->store};

	w->result = buf ? work_on(w->fill, &readers, buf, &w->err)
			: err_set(&w->err, ERR_SYSTEM, "out of memory");
	readers_close(&readers);
	if (w->result < 0)
		w->fill->failed = true;
	return NULL;
}

/* The caller's thread is the first worker, so that one that cannot be started costs only time. */
static int run_workers(struct fill *fill, struct err *err)
{
	struct worker workers[MAX_WORKERS] = {0};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	size_t n = cpus > MAX_WORKERS ? MAX_WORKERS : cpus < 1 ? 1 : (size_t)cpus;
	int result = 0;

	if (n > fill->n / 4 + 1)
		n = fill->n / 4 + 1;
	for (size_t i = 0; i < n; i++) {
		workers[i].fill = fill;
		workers[i].started =
			i > 0 && pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
	}
	work(&workers[0]);
	for (size_t i = 0; i < n; i++) {
		if (workers[i].started)
			pthread_join(workers[i].thread, NULL);
		if (workers[i].result < 0 && result == 0) {
			*err = workers[i].err;
			result = -1;
		}
	}
	return result;
}

static int fill_pages(struct recovery *rec, struct stub *stub, bool late, pid_t pid,
		      struct err *err)
{
	struct fill fill = {.store = rec->store, .pid = pid};
	int result = list_pieces(rec, stub, late, &fill, err);

	if (result == 0 && fill.n)
		result = run_workers(&fill, err);
	for (size_t i = 0; i < fill.n && pid; i++)
		rec->pages += fill.pieces[i].n;
	free(fill.pieces);
	return result == 0 ? 0 : err_wrap(err, "pages of process %d", stub->model->pid);
}

int stub_fill(struct recovery *rec, struct stub *stub, bool late, struct err *err)
{
	return fill_pages(rec, stub, late, stub->pid, err);
}

int stub_verify_pages(struct recovery *rec, struct stub *stub, bool late, struct err *err)
{
	return fill_pages(rec, stub, late, 0, err);
}
