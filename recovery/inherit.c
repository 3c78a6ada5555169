#include "recovery/inherit.h"

#include <stdlib.h>

#include "recovery/plan.h"
#include "store/base/search.h"

size_t image_find(const struct region_image *image, uint64_t at)
{
	return COUNT_BEFORE(image->n, i, image->pieces[i].region.end <= at);
}

uint64_t inherit_end(const struct region_image *image, const Snap__Region *r)
{
	uint64_t at = r->start;

	if (!image)
		return r->start;
	for (size_t i = image_find(image, at); i < image->n && at < r->end; i++) {
		const Snap__Region *q = &image->pieces[i].region;

		if (q->start > at || !image_alike(q, r))
			break;
		at = q->end < r->end ? q->end : r->end;
	}
	return at < r->end && r->kind != SNAP__REGION__KIND__ANONYMOUS ? r->start : at;
}

static const Snap__Region *vdso_of(const Snap__Process *p)
{
	for (size_t i = 0; i < p->n_regions; i++)
		if (p->regions[i]->kind == SNAP__REGION__KIND__VDSO)
			return p->regions[i];
	return NULL;
}

bool inherit_vdso(const Snap__Process *maker, const Snap__Process *child)
{
	const Snap__Region *a = vdso_of(maker), *b = vdso_of(child);

	return a && b && a->start == b->start && a->end == b->end;
}

/* ---- who inherits from whom ---------------------------------------------------------------- */

/* Whether the child has private memory in common with the process. */
static bool pays(const struct region_image *of, const struct region_image *child)
{
	for (size_t i = 0; i < child->n; i++) {
		const Snap__Region *r = &child->pieces[i].region;

		if (r->kind != SNAP__REGION__KIND__ANONYMOUS)
			continue;
		for (size_t k = image_find(of, r->start);
		     k < of->n && of->pieces[k].region.start < r->end; k++)
			if (image_alike(&of->pieces[k].region, r))
				return true;
	}
	return false;
}

/* Whose memory member i has when it is created: helpers have their maker's. */
static size_t ancestor_of(const Snap__Snapshot *model, const size_t *by, size_t n_members, size_t i,
			  bool (*owns)(const Snap__Process *p))
{
	size_t at = by[i];

	/* No chain is longer than there are members. */
	for (size_t steps = 0; at < n_members && steps < n_members; steps++) {
		if (at < model->n_processes && owns(model->processes[at]))
			return at;
		at = by[at];
	}
	return INHERIT_NOBODY;
}

/* ancestors: of each process, or INHERIT_NOBODY. */
static void find_sources(struct inheritance *in, const Snap__Snapshot *model, const size_t *by,
			 bool (*owns)(const Snap__Process *p), size_t *ancestors)
{
	for (size_t i = 0; i < in->n_members; i++)
		in->sources[i] = INHERIT_NOBODY;
	for (size_t i = 0; i < model->n_processes; i++) {
		size_t from = ancestor_of(model, by, in->n_members, i, owns);

		ancestors[i] = INHERIT_NOBODY;
		if (from == INHERIT_NOBODY || !owns(model->processes[i]) ||
		    !pays(&in->images[from], &in->images[i]))
			continue;
		ancestors[i] = from;
		/* So must those in between be born after it was filled. */
		for (size_t at = i; at != from; at = by[at])
			in->sources[at] = from;
	}
}

static int add_own_regions(struct region_image *image, const Snap__Snapshot *model, size_t process,
			   bool leave_files, struct err *err)
{
	const Snap__Process *p = model->processes[process];

	for (size_t i = 0; i < p->n_regions; i++) {
		const struct image_piece piece = {.region = *p->regions[i], .source = process};

		if (!plan_region_is_late(model, p->regions[i], leave_files) &&
		    image_add(image, &piece, err) < 0)
			return -1;
	}
	return 0;
}

/* Heirs' images before those of whom they inherit from. */
static int adopt_all(struct inheritance *in, const Snap__Snapshot *model, const size_t *ancestors,
		     struct err *err)
{
	for (size_t i = model->n_processes; i-- > 0;) {
		struct region_image *image = &in->images[i];

		image_prune(image);
		if (ancestors[i] != INHERIT_NOBODY && ancestors[i] < i &&
		    image_adopt(&in->images[ancestors[i]], model->processes[ancestors[i]], image,
				err) < 0)
			return -1;
	}
	return 0;
}

static int make(struct inheritance *in, const Snap__Snapshot *model, const size_t *by,
		bool (*owns)(const Snap__Process *p), bool leave_files, struct err *err)
{
	size_t *ancestors = calloc(model->n_processes + 1, sizeof(*ancestors));
	int result = 0;

	in->sources = calloc(in->n_members + 1, sizeof(*in->sources));
	in->images = calloc(model->n_processes + 1, sizeof(*in->images));
	if (!ancestors || !in->sources || !in->images)
		result = err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < model->n_processes && result == 0; i++)
		result = add_own_regions(&in->images[i], model, i, leave_files, err);
	if (result == 0) {
		find_sources(in, model, by, owns, ancestors);
		result = adopt_all(in, model, ancestors, err);
	}
	free(ancestors);
	return result;
}

int inheritance_make(struct inheritance *ret, const Snap__Snapshot *model, const size_t *by,
		     size_t n_members, bool (*owns)(const Snap__Process *p), bool leave_files,
		     struct err *err)
{
	struct inheritance in = {.n_members = n_members, .n_processes = model->n_processes};

	if (make(&in, model, by, owns, leave_files, err) < 0) {
		inheritance_clear(&in);
		return -1;
	}
	*ret = in;
	return 0;
}

void inheritance_clear(struct inheritance *in)
{
	for (size_t i = 0; in->images && i < in->n_processes; i++)
		free(in->images[i].pieces);
	free(in->images);
	free(in->sources);
	*in = (struct inheritance){0};
}
