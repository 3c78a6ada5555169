#include "recovery/fill.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "recovery/batch.h"
#include "recovery/readers.h"

int fill_pieces_add(struct fill_pieces *pieces, uint64_t root, uint64_t first, uint64_t end, bool zero,
		    struct err *err)
{
	if (pieces->n == pieces->room) {
		size_t room = pieces->room ? pieces->room * 2 : 256;
		struct fill_piece *grown = reallocarray(pieces->list, room, sizeof(*grown));

		if (!grown)
			return err_set(err, ERR_SYSTEM, "out of memory");
		pieces->list = grown;
		pieces->room = room;
	}
	pieces->list[pieces->n++] = (struct fill_piece){root, first, end - first, zero};
	return 0;
}

/* Zero pages of fresh anonymous memory need nothing: they are zero, and become resident when used.
 * Over a file they must be written. */
int page_list_fresh(struct page_list *l, const Snap__Region *r, uint64_t root, uint64_t start, struct err *err)
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
		if (fill_pieces_add(l->pieces, root, run.first, at, run.kind == PAGE_ZERO, err) < 0)
			return -1;
	}
	return 0;
}

int page_list_changed(struct page_list *l, const Snap__Region *r, uint64_t root, uint64_t was, uint64_t start,
		      uint64_t end, struct err *err)
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
		/* What was not written there is not there to be dropped. */
		bool drop = !write && (d.a == PAGE_DATA || (d.a == PAGE_ZERO && over_file));

		if (write &&
		    fill_pieces_add(l->pieces, root, d.first, d.first + d.n, d.b == PAGE_ZERO, err) < 0)
			return -1;
		if (drop && l->drop &&
		    l->drop(l->ctx, d.first * STORE_PAGE_SIZE, d.n * STORE_PAGE_SIZE, err) < 0)
			return -1;
	}
	return found;
}

struct lister {
	struct recovery *rec;
	const struct stub *stub;
	bool late;
	const struct fill_ranges *but;
	struct page_list list;
};

/* Pages that the parent has and the child has not (or only as zeroes of fresh memory). */
static int drop_inherited(void *ctx, uint64_t start, uint64_t size, struct err *err)
{
	return batch_call(ctx, BATCH_MUST, err, SYS_madvise, ARGS(start, size, MADV_DONTNEED),
			  "drop inherited pages at %#" PRIx64, start);
}

static int list_region(struct lister *l, const Snap__Region *r, uint64_t root, struct err *err)
{
	const struct region_image *image = l->late ? NULL : stub_inherited(l->stub);
	uint64_t end = inherit_end(image, r);

	for (size_t i = end > r->start ? image_find(image, r->start) : 0; end > r->start; i++) {
		const struct image_piece *piece = &image->pieces[i];
		uint64_t from = piece->region.start > r->start ? piece->region.start : r->start;
		uint64_t till = piece->region.end < end ? piece->region.end : end;

		if (page_list_changed(&l->list, r, root, piece_root(l->rec, piece), from, till, err) < 0)
			return -1;
		if (till == end)
			break;
	}
	return page_list_fresh(&l->list, r, root, end, err);
}

static int list_regions(struct lister *l, struct err *err)
{
	for (size_t i = 0; i < stub_n_regions(l->stub, l->late); i++) {
		const Snap__Region *r = stub_region(l->rec, l->stub, l->late, i);
		uint64_t end;

		if (r && plan_region_has_pages(r) && !fill_ranges_find(l->but, r->start, &end) &&
		    list_region(l, r, stub_region_root(l->rec, l->stub, l->late, i), err) < 0)
			return -1;
	}
	return l->list.drop ? batch_run(l->list.ctx, err) : 0;
}

int fill_list(struct recovery *rec, struct stub *stub, bool late, bool only_read, const struct fill_ranges *but,
	      struct fill_pieces *ret, struct err *err)
{
	struct lister l = {.rec = rec, .stub = stub, .late = late, .but = but};
	struct batch drops;
	int result;

	l.list = (struct page_list){.readers.store = rec->store, .pieces = ret};
	if (stub_inherited(stub) && !only_read) {
		batch_begin(&drops, stub, &stub->threads[0]);
		l.list.drop = drop_inherited;
		l.list.ctx = &drops;
	}
	result = list_regions(&l, err);
	readers_close(&l.list.readers);
	return result;
}

void fill_pieces_clear(struct fill_pieces *pieces)
{
	free(pieces->list);
	*pieces = (struct fill_pieces){0};
}
