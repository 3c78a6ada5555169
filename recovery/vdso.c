/*
 * Emptying a stub's address space, and getting the vdso to where the job expects it.
 *
 * The vdso reads its data (vvar, vvar_vclock) at a fixed distance, so the mappings move together,
 * one mremap(2) each; the kernel follows the move (arch/x86/entry/vdso/vma.c vdso_mremap). They go
 * to a place free in both worlds first: old and new places may overlap.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "recovery/batch.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"
#include "store/store.h"

#define MAX_PIECES  8
#define HOLE_FROM   0x100000000000ull
#define STACK_GUARD (1ull << 20) /* stack_guard_gap, 256 pages */

struct vdso_layout {
	struct vdso_piece {
		uint64_t start, size;
		bool is_code;
	} pieces[MAX_PIECES];
	size_t n;
	uint64_t code, code_size; /* 0: there is none */
};

uint64_t find_hole(const struct range *taken, size_t n, uint64_t size, uint64_t from)
{
	uint64_t at = from;

	for (size_t i = 0; i < n; i++) {
		if (taken[i].end <= at)
			continue;
		if (taken[i].start >= at + size)
			break;
		at = taken[i].end;
	}
	return at;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

int taken_ranges(const Snap__Snapshot *model, const struct proc_map *maps, size_t n_maps,
		 struct range **ret, size_t *ret_n, struct err *err)
{
	size_t room = n_maps, n = 0;
	struct range *taken;

	for (size_t i = 0; i < model->n_processes; i++)
		room += model->processes[i]->n_regions;
	taken = calloc(room ? room : 1, sizeof(*taken));
	if (!taken)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < n_maps; i++)
		taken[n++] = (struct range){maps[i].start, maps[i].end};
	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		for (size_t j = 0; j < p->n_regions; j++) {
			const Snap__Region *r = p->regions[j];
			bool grows = r->map_flags & MAP_GROWSDOWN && r->start > STACK_GUARD;

			taken[n++] = (struct range){r->start - (grows ? STACK_GUARD : 0), r->end};
		}
	}
	qsort(taken, n, sizeof(*taken), compare_ranges);
	*ret = taken;
	*ret_n = n;
	return 0;
}

static bool is_vdso_map(const struct proc_map *map)
{
	return strcmp(map->name, "[vdso]") == 0 || strncmp(map->name, "[vvar", 5) == 0;
}

static int add_piece(struct vdso_layout *layout, uint64_t start, uint64_t end, bool is_code,
		     struct err *err)
{
	if (layout->n == MAX_PIECES)
		return err_set(err, ERR_UNSUPPORTED, "a vdso of more than %d mappings", MAX_PIECES);
	layout->pieces[layout->n++] = (struct vdso_piece){start, end - start, is_code};
	if (is_code) {
		layout->code = start;
		layout->code_size = end - start;
	}
	return 0;
}

static int layout_of_maps(struct vdso_layout *ret, const struct proc_map *maps, size_t n,
			  struct err *err)
{
	*ret = (struct vdso_layout){0};
	for (size_t i = 0; i < n; i++) {
		if (is_vdso_map(&maps[i]) &&
		    add_piece(ret, maps[i].start, maps[i].end, strcmp(maps[i].name, "[vdso]") == 0,
			      err) < 0)
			return -1;
	}
	return 0;
}

static int layout_of_model(struct vdso_layout *ret, const Snap__Process *p, struct err *err)
{
	*ret = (struct vdso_layout){0};
	for (size_t i = 0; i < p->n_regions; i++) {
		const Snap__Region *r = p->regions[i];

		if ((r->kind == SNAP__REGION__KIND__VDSO || r->kind == SNAP__REGION__KIND__VVAR) &&
		    add_piece(ret, r->start, r->end, r->kind == SNAP__REGION__KIND__VDSO, err) < 0)
			return -1;
	}
	return 0;
}

static bool layouts_match(const struct vdso_layout *a, const struct vdso_layout *b)
{
	if (a->n != b->n || !a->code || !b->code)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		if (a->pieces[i].size != b->pieces[i].size ||
		    a->pieces[i].is_code != b->pieces[i].is_code ||
		    a->pieces[i].start - a->code != b->pieces[i].start - b->code)
			return false;
	}
	return true;
}

/* Moves all pieces by delta; adjusts the layout. */
static int queue_move(struct batch *b, struct vdso_layout *layout, uint64_t delta, struct err *err)
{
	for (size_t i = 0; i < layout->n; i++) {
		struct vdso_piece *p = &layout->pieces[i];

		if (batch_call(b, BATCH_MUST, err, SYS_mremap,
			       ARGS(p->start, p->size, p->size, MREMAP_MAYMOVE | MREMAP_FIXED,
				    p->start + delta),
			       "move vdso to %#" PRIx64, p->start + delta) < 0)
			return -1;
		p->start += delta;
	}
	if (layout->code)
		layout->code += delta;
	return 0;
}

/* Unmaps [start, end) but for what is in the ascending ranges of kept. */
static int queue_unmap_rest(struct batch *b, uint64_t start, uint64_t end, const struct range *kept,
			    size_t n_kept, struct err *err)
{
	for (size_t i = 0; start < end; i++) {
		uint64_t stop = i < n_kept && kept[i].start < end ? kept[i].start : end;

		if (stop > start && batch_call(b, BATCH_MUST, err, SYS_munmap,
					       ARGS(start, stop - start), "unmap %#" PRIx64, start) < 0)
			return -1;
		if (stop == end)
			break;
		start = kept[i].end > start ? kept[i].end : start;
	}
	return 0;
}

/* kept: ascending. */
static int queue_unmap(struct batch *b, const struct proc_map *maps, size_t n,
		       const struct range *kept, size_t n_kept, struct err *err)
{
	uint64_t executor = b->stub->remote.base;
	size_t first = 0;

	for (size_t i = 0; i < n; i++) {
		if (is_vdso_map(&maps[i]) || strcmp(maps[i].name, "[vsyscall]") == 0 ||
		    (maps[i].start >= executor && maps[i].end <= executor + b->stub->remote.size))
			continue;
		while (first < n_kept && kept[first].end <= maps[i].start)
			first++;
		if (queue_unmap_rest(b, maps[i].start, maps[i].end, kept + first, n_kept - first,
				     err) < 0)
			return -1;
	}
	return 0;
}

static bool vdso_is_in_place(const struct stub *stub)
{
	return stub->maker && inherit_vdso(stub->maker->model, stub->model);
}

/* What stays of an inherited address space, ascending. *ret malloc'ed. */
static int kept_ranges(const struct stub *stub, struct range **ret, size_t *ret_n, struct err *err)
{
	const Snap__Process *p = stub->model;
	struct range *kept = calloc(stub->own->n + 2, sizeof(*kept));
	size_t n = 0;

	if (!kept)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < stub->own->n; i++) {
		const Snap__Region *r = &stub->own->pieces[i].region;
		uint64_t end = inherit_end(stub_inherited(stub), r);

		if (end > r->start)
			kept[n++] = (struct range){r->start, end};
	}
	for (size_t i = 0; i < p->n_regions && vdso_is_in_place(stub); i++)
		if (p->regions[i]->kind == SNAP__REGION__KIND__VDSO)
			kept[n++] = (struct range){p->regions[i]->start, p->regions[i]->end};
	qsort(kept, n, sizeof(*kept), compare_ranges);
	*ret = kept;
	*ret_n = n;
	return 0;
}

/* Maps the saved image at its old place, redirected to this kernel's. */
static int map_saved_image(struct recovery *rec, struct stub *stub, const void *now,
			   const struct vdso_layout *layout, const struct vdso_layout *wanted,
			   struct err *err)
{
	const ProtobufCBinaryData *image = &rec->model->host->vdso;
	cleanup_free void *copy = malloc(image->len ? image->len : 1);
	size_t n = 0;

	if (!copy)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (image->len == 0 || image->len > wanted->code_size)
		return err_set(err, ERR_CORRUPT, "the saved vdso does not fit its region");
	if (vdso_redirect(image->data, image->len, now, layout->code_size, layout->code, copy, &n,
			  err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	log_debug("process %d: vdso of another kernel, %zu functions redirected", stub->model->pid,
		  n);
	if (stub_call(stub, &stub->threads[0], NULL, err, "map the saved vdso", SYS_mmap,
		      ARGS(wanted->code, wanted->code_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)) < 0 ||
	    mem_write(stub->pid, wanted->code, copy, image->len, err) < 0)
		return -1;
	return stub_call(stub, &stub->threads[0], NULL, err, "protect the saved vdso", SYS_mprotect,
			 ARGS(wanted->code, wanted->code_size, PROT_READ | PROT_EXEC));
}

static int settle(struct recovery *rec, struct stub *stub, struct vdso_layout *layout,
		  struct err *err)
{
	const ProtobufCBinaryData *image = &rec->model->host->vdso;
	cleanup_free void *now = malloc(layout->code_size ? layout->code_size : 1);
	struct vdso_layout wanted;
	struct batch b;

	if (!now)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (layout_of_model(&wanted, stub->model, err) < 0 ||
	    mem_read(stub->pid, layout->code, now, layout->code_size, err) < 0)
		return err_wrap(err, "process %d: vdso", stub->model->pid);
	if (wanted.code && (!layouts_match(layout, &wanted) || image->len != layout->code_size ||
			    memcmp(image->data, now, image->len) != 0))
		return map_saved_image(rec, stub, now, layout, &wanted, err);
	batch_begin(&b, stub, &stub->threads[0]);
	if (wanted.code && queue_move(&b, layout, wanted.code - layout->code, err) < 0)
		return -1;
	for (size_t i = 0; i < layout->n && !wanted.code; i++) {
		if (batch_call(&b, BATCH_MUST, err, SYS_munmap,
			       ARGS(layout->pieces[i].start, layout->pieces[i].size),
			       "unmap vdso") < 0)
			return -1;
	}
	if (!wanted.code)
		layout->code = layout->code_size = 0;
	return batch_run(&b, err);
}

/* To a place that is free in both worlds. */
static int queue_move_aside(const struct recovery *rec, struct batch *b, struct vdso_layout *layout,
			    const struct proc_map *maps, size_t n_maps, struct err *err)
{
	const struct vdso_piece *last = &layout->pieces[layout->n - 1];
	uint64_t first = layout->pieces[0].start;
	uint64_t size = last->start + last->size - first;
	cleanup_free struct range *taken = NULL;
	size_t n_taken;

	if (taken_ranges(rec->model, maps, n_maps, &taken, &n_taken, err) < 0)
		return -1;
	return queue_move(b, layout, find_hole(taken, n_taken, size, HOLE_FROM) - first, err);
}

static int clear_maps(struct recovery *rec, struct stub *stub, const struct proc_map *maps,
		      size_t n_maps, struct err *err)
{
	bool in_place = vdso_is_in_place(stub);
	cleanup_free struct range *kept = NULL;
	struct vdso_layout layout;
	size_t n_kept = 0;
	struct batch b;

	if (kept_ranges(stub, &kept, &n_kept, err) < 0 ||
	    layout_of_maps(&layout, maps, n_maps, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (layout.n && !in_place && queue_move_aside(rec, &b, &layout, maps, n_maps, err) < 0)
		return -1;
	if (queue_unmap(&b, maps, n_maps, kept, n_kept, err) < 0 || batch_run(&b, err) < 0)
		return -1;
	if (layout.code && !in_place && settle(rec, stub, &layout, err) < 0)
		return -1;
	stub->vdso = layout.code;
	stub->vdso_end = layout.code + layout.code_size;
	return 0;
}

int stub_clear(struct recovery *rec, struct stub *stub, struct err *err)
{
	struct proc_map *maps = NULL;
	size_t n_maps = 0;
	int result;

	if (proc_read_maps(stub->pid, false, &maps, &n_maps, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	result = clear_maps(rec, stub, maps, n_maps, err);
	proc_maps_free(maps, n_maps);
	return result;
}
