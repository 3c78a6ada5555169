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
#include <unistd.h>

#include "recovery/rebuild.h"
#include "store/base/cleanup.h"

#define PIECE_PAGES 512u /* 2 MiB: a chunk of the page table */
#define MAX_WORKERS 8

struct piece {
	uint64_t first;
	uint32_t n;
	bool zero;
};

struct fill {
	struct store *store;
	uint64_t root;
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

static int add_pieces(struct fill *fill, uint64_t first, uint64_t end, bool zero, struct err *err)
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
		fill->pieces[fill->n++] = (struct piece){first, (uint32_t)(stop - first), zero};
		first = stop;
	}
	return 0;
}

/* Zero pages of fresh anonymous memory need nothing: they are zero, and become resident when used.
 * Over a file they must be written. */
static int list_region(struct fill *fill, struct page_reader *reader, const Snap__Region *r,
		       struct err *err)
{
	uint64_t at = r->start / STORE_PAGE_SIZE, end = r->end / STORE_PAGE_SIZE;
	struct page_run run;
	int found;

	while (at < end && (found = page_reader_next(reader, at, &run, err)) != 0) {
		if (found < 0)
			return -1;
		if (run.first >= end)
			break;
		at = run.first + run.n < end ? run.first + run.n : end;
		if (run.kind == PAGE_ZERO && r->kind != SNAP__REGION__KIND__FILE_PRIVATE)
			continue;
		if (add_pieces(fill, run.first, at, run.kind == PAGE_ZERO, err) < 0)
			return -1;
	}
	return 0;
}

static int list_pieces(struct recovery *rec, const Snap__Process *p, bool late, struct fill *fill,
		       struct err *err)
{
	struct page_reader *reader;
	int result = 0;

	if (page_reader_open(&reader, fill->store, fill->root, err) < 0)
		return -1;
	for (size_t i = 0; i < p->n_regions && result == 0; i++) {
		const Snap__Region *r = p->regions[i];

		if (plan_region_has_pages(r) &&
		    plan_region_is_late(rec->model, r, rec->leave_files) == late)
			result = list_region(fill, reader, r, err);
	}
	page_reader_close(reader);
	return result;
}

static int work_on(struct fill *fill, struct page_reader *reader, char *buf, struct err *err)
{
	size_t i;

	while (!fill->failed && (i = atomic_fetch_add(&fill->next, 1)) < fill->n) {
		const struct piece *piece = &fill->pieces[i];

		if (page_reader_read(reader, piece->first, piece->n, buf, err) < 0)
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
	struct page_reader *reader;

	if (!buf) {
		w->result = err_set(&w->err, ERR_SYSTEM, "out of memory");
	} else if (page_reader_open(&reader, w->fill->store, w->fill->root, &w->err) < 0) {
		w->result = -1;
	} else {
		w->result = work_on(w->fill, reader, buf, &w->err);
		page_reader_close(reader);
	}
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
	struct fill fill = {.store = rec->store, .root = stub->model->pages_root, .pid = pid};
	int result = list_pieces(rec, stub->model, late, &fill, err);

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
