/*
 * The order in which a lineage comes to be.
 */
#include <stdlib.h>
#include <string.h>

#include "recovery/lineage.h"
#include "store/base/cleanup.h"

struct walker {
	const struct lineage *l;
	const Snap__Snapshot *model;
	lineage_visit *visit;
	void *ctx;
	size_t n;
	/* Children by birth, in order: first[i], then next[] of each; first[n] is init's. */
	size_t *first, *next;
	size_t born;
};

#define NONE SIZE_MAX

static const Snap__Process *member(const struct walker *w, size_t i)
{
	return lineage_member(w->l, w->model, i);
}

static bool leads_session(const Snap__Process *p)
{
	return p->sid == p->pid;
}

static void list_children(struct walker *w)
{
	for (size_t i = 0; i <= w->n; i++)
		w->first[i] = NONE;
	for (size_t i = w->n; i-- > 0;) {
		size_t by = w->l->births[i].by == LINEAGE_INIT ? w->n : w->l->births[i].by;

		w->next[i] = w->first[by];
		w->first[by] = i;
	}
}

/* The next child, from `child` on, that is born early or late. */
static size_t next_child(const struct walker *w, size_t child, bool early)
{
	while (child != NONE && w->l->births[child].early != early)
		child = w->next[child];
	return child;
}

struct frame {
	size_t member, child;
	bool early; /* its early children are being born */
};

static int begin_member(struct walker *w, struct frame *f, size_t i, struct err *err)
{
	*f = (struct frame){i, next_child(w, w->first[i], true), true};
	w->born++;
	return w->visit(w->ctx, LINEAGE_SPAWN, i, err);
}

/* A member's early children, its session, its other children; without recursion, as the depth comes
 * from a file. */
static int walk_births(struct walker *w, struct frame *stack, struct err *err)
{
	size_t depth = 1;

	stack[0] = (struct frame){w->n, next_child(w, w->first[w->n], false), false};
	while (depth > 0) {
		struct frame *f = &stack[depth - 1];
		size_t child = f->child;

		if (child != NONE) {
			f->child = next_child(w, w->next[child], f->early);
			if (begin_member(w, &stack[depth++], child, err) < 0)
				return -1;
		} else if (f->early) {
			f->early = false;
			f->child = next_child(w, w->first[f->member], false);
			if (leads_session(member(w, f->member)) &&
			    w->visit(w->ctx, LINEAGE_SESSION, f->member, err) < 0)
				return -1;
		} else {
			depth--;
		}
	}
	if (w->born != w->n)
		return err_set(err, ERR_UNSUPPORTED,
			       "no order of forks leads to this process tree");
	return 0;
}

static bool founds_group(const Snap__Process *p, const bool *is_group)
{
	return !leads_session(p) && *is_group;
}

static int compare_ids(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

/* Whether each member's pid is the number of somebody's group. */
static int mark_groups(const struct walker *w, bool *is_group, struct err *err)
{
	cleanup_free int32_t *groups = calloc(w->n + 1, sizeof(*groups));

	if (!groups)
		return err_set(err, ERR_SYSTEM, "out of memory");
	for (size_t i = 0; i < w->n; i++)
		groups[i] = member(w, i)->pgid;
	qsort(groups, w->n, sizeof(*groups), compare_ids);
	for (size_t i = 0; i < w->n; i++)
		is_group[i] =
			bsearch(&member(w, i)->pid, groups, w->n, sizeof(*groups), compare_ids);
	return 0;
}

/* A founder that has gone to another group since leaves its own last, when others are in it. */
static int walk_groups(struct walker *w, struct err *err)
{
	cleanup_free bool *is_group = calloc(w->n + 1, sizeof(*is_group));

	if (!is_group)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (mark_groups(w, is_group, err) < 0)
		return -1;
	for (size_t i = 0; i < w->n; i++) {
		if (founds_group(member(w, i), &is_group[i]) &&
		    w->visit(w->ctx, LINEAGE_FOUND, i, err) < 0)
			return -1;
	}
	for (int founders = 0; founders <= 1; founders++) {
		for (size_t i = 0; i < w->n; i++) {
			const Snap__Process *p = member(w, i);
			bool is_founder = founds_group(p, &is_group[i]);

			if (is_founder != founders || leads_session(p) || p->pgid == p->pid ||
			    (!is_founder && (p->pgid == p->sid || p->pgid == 0)))
				continue;
			if (w->visit(w->ctx, LINEAGE_JOIN, i, err) < 0)
				return -1;
		}
	}
	return 0;
}

/* Helpers from the youngest to the eldest, so that none leaves a helper behind. */
static int walk_ends(struct walker *w, struct err *err)
{
	for (size_t i = w->n; i-- > w->l->n_model;) {
		if (w->visit(w->ctx, LINEAGE_END, i, err) < 0)
			return -1;
	}
	for (size_t i = w->l->n_model; i-- > 0;) {
		if (w->model->processes[i]->zombie && w->visit(w->ctx, LINEAGE_END, i, err) < 0)
			return -1;
	}
	return 0;
}

int lineage_walk(const struct lineage *l, const Snap__Snapshot *model, lineage_visit *visit,
		 void *ctx, struct err *err)
{
	struct walker w = {
		.l = l, .model = model, .visit = visit, .ctx = ctx, .n = l->n_model + l->n_helpers};
	cleanup_free size_t *first = calloc(w.n + 1, sizeof(*first));
	cleanup_free size_t *next = calloc(w.n + 1, sizeof(*next));
	cleanup_free struct frame *stack = calloc(w.n + 2, sizeof(*stack));

	if (!first || !next || !stack)
		return err_set(err, ERR_SYSTEM, "out of memory");
	w.first = first;
	w.next = next;
	list_children(&w);
	if (walk_births(&w, stack, err) < 0 || walk_groups(&w, err) < 0)
		return -1;
	return walk_ends(&w, err);
}
