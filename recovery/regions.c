/*
 * The regions of a stub as they are mapped and filled: early ones by its image, late ones by the
 * model.
 */
#include <sys/mman.h>

#include "recovery/rebuild.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* Linux 6.11 */
#endif
#define KEPT_MAP_FLAGS                                                                             \
	(MAP_GROWSDOWN | MAP_NORESERVE | MAP_STACK | MAP_HUGETLB |                                 \
	 ((unsigned)MAP_HUGE_MASK << MAP_HUGE_SHIFT))

size_t stub_n_regions(const struct stub *stub, bool late)
{
	return late ? stub->model->n_regions : stub->own->n;
}

const Snap__Region *stub_region(const struct recovery *rec, const struct stub *stub, bool late,
				size_t i)
{
	const Snap__Region *r;

	if (!late)
		return &stub->own->pieces[i].region;
	r = stub->model->regions[i];
	return plan_region_is_late(rec->model, r, rec->leave_files) ? r : NULL;
}

uint64_t piece_root(const struct recovery *rec, const struct image_piece *piece)
{
	if (piece->source == INHERIT_AHEAD)
		return piece->root;
	return piece->source == INHERIT_NOBODY ? 0
					       : rec->model->processes[piece->source]->pages_root;
}

uint64_t stub_region_root(const struct recovery *rec, const struct stub *stub, bool late, size_t i)
{
	return late ? stub->model->pages_root : piece_root(rec, &stub->own->pieces[i]);
}

const struct region_image *stub_inherited(const struct stub *stub)
{
	return stub->maker ? stub->maker->own : NULL;
}

bool region_is_shared(const Snap__Region *r)
{
	return r->kind == SNAP__REGION__KIND__FILE_SHARED ||
	       r->kind == SNAP__REGION__KIND__SHARED_MEMORY;
}

int region_map_flags(const Snap__Region *r)
{
	int flags = MAP_FIXED_NOREPLACE | ((int)r->map_flags & (int)KEPT_MAP_FLAGS);

	if (r->kind == SNAP__REGION__KIND__ANONYMOUS || r->kind == SNAP__REGION__KIND__HUGETLB)
		flags |= MAP_ANONYMOUS;
	if (r->kind == SNAP__REGION__KIND__HUGETLB)
		flags |= MAP_HUGETLB;
	return flags | (r->advice & ADVICE_DROPPABLE ? MAP_DROPPABLE
			: region_is_shared(r)	     ? MAP_SHARED
						     : MAP_PRIVATE);
}

/* It decides how pages are laid out. */
int region_map_advice(const Snap__Region *r)
{
	return r->advice & ADVICE_HUGEPAGE ? MADV_HUGEPAGE : r->advice & ADVICE_NOHUGEPAGE ? MADV_NOHUGEPAGE : 0;
}
