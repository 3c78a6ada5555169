/*
 * The regions of a stub as they are mapped and filled: early ones by its image, late ones by the
 * model.
 */
#include "recovery/rebuild.h"

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
