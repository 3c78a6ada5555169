#include <stdlib.h>
#include <string.h>

#include "recovery/inherit.h"

/* Advice that is given when a region is mapped: it decides how pages are laid out. */
#define MAP_TIME_ADVICE (ADVICE_HUGEPAGE | ADVICE_NOHUGEPAGE)

static bool can_be_inherited(const Snap__Region *r)
{
	if (r->advice & ADVICE_DROPPABLE)
		return false;
	return r->kind == SNAP__REGION__KIND__ANONYMOUS ||
	       r->kind == SNAP__REGION__KIND__FILE_PRIVATE ||
	       r->kind == SNAP__REGION__KIND__FILE_SHARED ||
	       r->kind == SNAP__REGION__KIND__SHARED_MEMORY;
}

bool image_alike(const Snap__Region *a, const Snap__Region *b)
{
	if (!can_be_inherited(a) || !can_be_inherited(b) || a->kind != b->kind ||
	    a->file != b->file || a->map_flags != b->map_flags ||
	    ((a->advice ^ b->advice) & MAP_TIME_ADVICE) != 0)
		return false;
	/* The same place in the file at the same address. */
	return a->file < 0 || a->offset - a->start == b->offset - b->start;
}

int image_add(struct region_image *image, const struct image_piece *piece, struct err *err)
{
	if (image->n == image->room) {
		size_t room = image->room ? image->room * 2 : 64;
		struct image_piece *more = reallocarray(image->pieces, room, sizeof(*more));

		if (!more)
			return err_set(err, ERR_SYSTEM, "out of memory");
		image->pieces = more;
		image->room = room;
	}
	image->pieces[image->n++] = *piece;
	return 0;
}

/* The part of a piece between two addresses. */
static struct image_piece part_of(const struct image_piece *piece, uint64_t start, uint64_t end)
{
	struct image_piece part = *piece;

	if (part.region.file >= 0)
		part.region.offset += start - part.region.start;
	part.region.start = start;
	part.region.end = end;
	return part;
}

static int add_part(struct region_image *to, const struct image_piece *piece, uint64_t start,
		    uint64_t end, bool shared, struct err *err)
{
	struct image_piece part = part_of(piece, start, end);

	part.shared |= shared;
	return start < end ? image_add(to, &part, err) : 0;
}

/* Copies a piece of the old image; a foster is cut where the heir has it too. */
static int add_old(struct region_image *to, const struct image_piece *old,
		   const struct region_image *heir, struct err *err)
{
	uint64_t at = old->region.start, end = old->region.end;

	for (size_t i = old->foster ? image_find(heir, at) : heir->n; i < heir->n && at < end;
	     i++) {
		const Snap__Region *r = &heir->pieces[i].region;
		uint64_t from = r->start > at ? r->start : at, till = r->end < end ? r->end : end;

		if (r->start >= end)
			break;
		if (!image_alike(r, &old->region))
			continue;
		if (add_part(to, old, at, from, false, err) < 0 ||
		    add_part(to, old, from, till, true, err) < 0)
			return -1;
		at = till;
	}
	return add_part(to, old, at, end, false, err);
}

/* Where the process has regions of any kind (*i is the first that ends behind start), nothing is
 * fostered. */
static int add_gaps(struct region_image *to, const Snap__Process *p, size_t *i,
		    const struct image_piece *piece, uint64_t start, uint64_t end, struct err *err)
{
	struct image_piece foster = *piece;

	foster.foster = true;
	foster.shared = false;
	while (start < end) {
		uint64_t stop = end;

		while (*i < p->n_regions && p->regions[*i]->end <= start)
			(*i)++;
		if (*i < p->n_regions && p->regions[*i]->start < end)
			stop = p->regions[*i]->start;
		if (stop > start && add_part(to, &foster, start, stop, false, err) < 0)
			return -1;
		start = stop == end ? end : p->regions[*i]->end;
	}
	return 0;
}

/* The heir's pieces in [start, end), where the old image has nothing. */
static int add_fosters(struct region_image *to, const Snap__Process *p, size_t *region,
		       const struct region_image *heir, uint64_t start, uint64_t end,
		       struct err *err)
{
	for (size_t i = image_find(heir, start); i < heir->n; i++) {
		const struct image_piece *piece = &heir->pieces[i];
		uint64_t from = piece->region.start > start ? piece->region.start : start;
		uint64_t till = piece->region.end < end ? piece->region.end : end;

		if (piece->region.start >= end)
			break;
		if (can_be_inherited(&piece->region) &&
		    add_gaps(to, p, region, piece, from, till, err) < 0)
			return -1;
	}
	return 0;
}

int image_adopt(struct region_image *image, const Snap__Process *p, const struct region_image *heir,
		struct err *err)
{
	struct region_image merged = {0};
	size_t region = 0;
	uint64_t at = 0;
	int result = 0;

	for (size_t i = 0; i < image->n && result == 0; i++) {
		const struct image_piece *old = &image->pieces[i];

		result = add_fosters(&merged, p, &region, heir, at, old->region.start, err);
		if (result == 0)
			result = add_old(&merged, old, heir, err);
		at = old->region.end;
	}
	if (result == 0)
		result = add_fosters(&merged, p, &region, heir, at, UINT64_MAX, err);
	if (result < 0) {
		free(merged.pieces);
		return -1;
	}
	free(image->pieces);
	*image = merged;
	return 0;
}

/* Whether b goes on where a ends, as a part of the same mapping. */
static bool continues(const struct image_piece *a, const struct image_piece *b)
{
	return a->region.end == b->region.start && image_alike(&a->region, &b->region);
}

void image_prune(struct region_image *image)
{
	bool *keep = calloc(image->n + 1, sizeof(*keep));
	size_t kept = 0;

	for (size_t i = 0; keep && i < image->n; i++) {
		const struct image_piece *piece = &image->pieces[i];

		keep[i] = !piece->foster || piece->shared ||
			  (i > 0 && keep[i - 1] && continues(piece - 1, piece));
	}
	for (size_t i = keep ? image->n : 0; i-- > 1;)
		keep[i - 1] |= keep[i] && continues(&image->pieces[i - 1], &image->pieces[i]);
	for (size_t i = 0; i < image->n; i++) {
		struct image_piece *piece = &image->pieces[i];

		if (!keep ? piece->foster : !keep[i])
			continue;
		/* It is there for the others to be whole; its pages are one heir's alone. */
		if (piece->foster && !piece->shared)
			piece->source = INHERIT_NOBODY;
		image->pieces[kept++] = *piece;
	}
	image->n = kept;
	free(keep);
}
