/*
 * Pages from the store into the processes, by as many threads as there are cores for us.
 *
 * What is to be filled is listed beforehand and sorted by where it is stored; the threads take slices of
 * that list. Each page is decompressed into a buffer that stays in the CPU's cache, checked there, and
 * copied from there to its place.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "recovery/fill.h"
#include "recovery/lazy_impl.h"
#include "recovery/readers.h"
#include "recovery/userfault.h"
#include "store/base/cleanup.h"
#include "store/base/parallel.h"

#define WINDOW (1u << 20) /* pages listed at once: 16 MiB of list for 4 GiB */
#define SLICE  256u	 /* pages at least that a thread takes at a time: a pack, mostly */
#define THREADS_A_CPU 3	 /* where nothing else is to run: some wait for the disk meanwhile */

struct fill {
	struct store *store;
	page_sink *sink;
	void *ctx;
	int flags;
	struct page_places places;
	pthread_mutex_t lock; /* of next */
	size_t next;
	atomic_bool failed;
};

/* Where pages are written. */
struct target {
	pid_t pid; /* 0: they are only read */
	struct fill_ranges ranges;
};

/* ---- writing pages ------------------------------------------------------------------------- */

/* Pages that go side by side into memory of the same kind. */
struct stretch {
	uint64_t start;
	size_t n;
	bool copied; /* through the userfaultfd */
};

static struct stretch next_stretch(const struct target *target, const struct page_place *places, size_t n)
{
	struct stretch s = {.start = places[0].page * STORE_PAGE_SIZE, .n = 1};
	uint64_t end = UINT64_MAX;

	s.copied = fill_ranges_find(&target->ranges, s.start, &end);
	while (s.n < n && places[s.n].page == places[0].page + s.n &&
	       places[s.n].page * STORE_PAGE_SIZE < end &&
	       (s.copied ||
		!fill_ranges_find(&target->ranges, places[s.n].page * STORE_PAGE_SIZE, &end)))
		s.n++;
	return s;
}

/* local holds what `remote` describes. */
static int write_stretches(pid_t pid, const char *local, const struct iovec *remote, size_t n, struct err *err)
{
	struct iovec from = {.iov_base = (void *)local};

	for (size_t i = 0; i < n; i++)
		from.iov_len += remote[i].iov_len;
	if (n == 0 || process_vm_writev(pid, &from, 1, remote, n, 0) == (ssize_t)from.iov_len)
		return 0;
	/* One by one: the one that fails is named. */
	for (size_t i = 0; i < n; i++) {
		if (mem_write(pid, (uintptr_t)remote[i].iov_base, local, remote[i].iov_len, err) < 0)
			return -1;
		local += remote[i].iov_len;
	}
	return 0;
}

static int put_pages(void *ctx, const struct page_place *places, size_t n, const void *pages, struct err *err)
{
	struct iovec remote[FETCH_PAGES];
	struct target *target = ctx;
	const char *from = pages, *page = pages;
	size_t waiting = 0, at = 0;

	if (!target->pid)
		return 0;
	while (at < n) {
		struct stretch s = next_stretch(target, places + at, n - at);

		at += s.n;
		if (!s.copied) {
			remote[waiting++] =
				(struct iovec){(void *)s.start, s.n * STORE_PAGE_SIZE};
			page += s.n * STORE_PAGE_SIZE;
			continue;
		}
		if (write_stretches(target->pid, from, remote, waiting, err) < 0 ||
		    userfault_copy(target->ranges.uffd, s.start, page, s.n, err) < 0)
			return -1;
		waiting = 0;
		from = page += s.n * STORE_PAGE_SIZE;
	}
	return write_stretches(target->pid, from, remote, waiting, err);
}

/* ---- threads ------------------------------------------------------------------------------- */

/* The next places that nobody has; *ret_n 0: there are none. */
static int take(struct fill *fill, struct page_fetcher *fetcher, const struct page_place **ret, size_t *ret_n,
		struct err *err)
{
	int result;

	pthread_mutex_lock(&fill->lock);
	*ret = fill->places.list + fill->next;
	result = page_fetch_reach(fetcher, *ret, fill->places.n - fill->next, SLICE, ret_n, err);
	fill->next += result == 0 ? *ret_n : 0;
	pthread_mutex_unlock(&fill->lock);
	return result;
}

static int work_on(struct fill *fill, struct page_fetcher *fetcher, struct err *err)
{
	const struct page_place *places;
	size_t n;

	while (!fill->failed) {
		if (take(fill, fetcher, &places, &n, err) < 0)
			return -1;
		if (n == 0)
			break;
		if (page_fetch(fetcher, places, n, fill->sink, fill->ctx, err) < 0)
			return -1;
	}
	return 0;
}

static int work(void *ctx, struct err *err)
{
	struct page_fetcher *fetcher;
	struct fill *fill = ctx;
	int result = page_fetcher_open(&fetcher, fill->store, !(fill->flags & FILL_AGAIN), err);

	if (result == 0) {
		result = work_on(fill, fetcher, err);
		page_fetcher_close(fetcher);
	}
	if (result < 0)
		fill->failed = true;
	return result;
}

static int run_workers(struct fill *fill, struct err *err)
{
	size_t n = parallel_cpus() * (fill->flags & FILL_GENTLY ? 1 : THREADS_A_CPU), worth = fill->places.n / (4 * SLICE) + 1;

	fill->next = 0;
	return parallel_run(n > worth ? worth : n, work, fill, err);
}

/* ---- all of a process ---------------------------------------------------------------------- */

static int run_window(struct fill *fill, struct err *err)
{
	int result;

	page_places_sort(&fill->places); /* or not: then it is slower */
	result = fill->places.n ? run_workers(fill, err) : 0;
	fill->places.n = 0;
	return result;
}

static int write_zeroes(pid_t pid, const struct fill_piece *piece, struct err *err)
{
	static const char zeroes[64 * STORE_PAGE_SIZE];
	uint64_t n;

	for (uint64_t at = 0; at < piece->n && pid; at += n) {
		n = piece->n - at < 64 ? piece->n - at : 64;
		if (mem_write(pid, (piece->first + at) * STORE_PAGE_SIZE, zeroes,
			      n * STORE_PAGE_SIZE, err) < 0)
			return -1;
	}
	return 0;
}

static int list_piece(struct fill *fill, struct readers *readers, const struct fill_piece *piece,
		      struct err *err)
{
	struct page_reader *reader;
	uint64_t n;

	if (readers_get(readers, piece->root, &reader, err) < 0)
		return -1;
	for (uint64_t at = 0; at < piece->n; at += n) {
		n = piece->n - at < WINDOW ? piece->n - at : WINDOW;
		if (fill->places.n + n > WINDOW && run_window(fill, err) < 0)
			return -1;
		if (page_reader_places(reader, piece->first + at, n, &fill->places, err) < 0)
			return -1;
	}
	return 0;
}

int fill_run(struct store *store, const struct fill_pieces *pieces, int flags, page_sink *sink, void *ctx,
	     struct err *err)
{
	struct fill fill = {
		.store = store,
		.sink = sink,
		.ctx = ctx,
		.flags = flags,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	struct readers readers = {.store = store};
	int result = 0;

	for (size_t i = 0; i < pieces->n && result == 0; i++)
		result = pieces->list[i].zero ? 0 : list_piece(&fill, &readers, &pieces->list[i], err);
	if (result == 0)
		result = run_window(&fill, err);
	readers_close(&readers);
	page_places_clear(&fill.places);
	return result;
}

static int run_pieces(struct store *store, struct target *target, const struct fill_pieces *pieces, int flags,
		      struct err *err)
{
	for (size_t i = 0; i < pieces->n; i++)
		if (pieces->list[i].zero && write_zeroes(target->pid, &pieces->list[i], err) < 0)
			return -1;
	return fill_run(store, pieces, flags, put_pages, target, err);
}

int fill_process(struct store *store, pid_t pid, const struct fill_pieces *pieces, struct err *err)
{
	struct target target = {.pid = pid, .ranges.uffd = -1};

	return run_pieces(store, &target, pieces, 0, err);
}

/* What can come later is left to that: lazy.h. */
static int leave_to_lazy(struct recovery *rec, struct stub *stub, struct fill_ranges *lazy, struct err *err)
{
	if (fill_ranges_open_lazy(rec, stub, lazy, err) < 0)
		return -1;
	return lazy->n ? lazy_take(rec->lazy, lazy, stub->model->pages_root, err) : 0;
}

static int fill_pages(struct recovery *rec, struct stub *stub, bool late, pid_t pid, struct err *err)
{
	struct target target = {.pid = pid, .ranges.uffd = -1};
	struct fill_ranges lazy = {.uffd = -1};
	struct fill_pieces pieces = {0};
	int flags = stub_inherited(stub) || fill_has_heirs(rec, stub) ? FILL_AGAIN : 0;
	int result = rec->lazy && pid && !late ? leave_to_lazy(rec, stub, &lazy, err) : 0;

	if (result == 0)
		result = fill_list(rec, stub, late, !pid, &lazy, &pieces, err);
	if (result == 0 && pid && !late && !lazy.n)
		result = fill_ranges_open(rec, stub, &target.ranges, err);
	if (result == 0)
		result = run_pieces(rec->store, &target, &pieces, flags, err);
	for (size_t i = 0; i < pieces.n && pid; i++)
		rec->pages += pieces.list[i].n;
	fill_ranges_close(&target.ranges);
	fill_ranges_close(&lazy);
	fill_pieces_clear(&pieces);
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
