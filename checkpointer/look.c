/* A snapshot's first half only: what it would hold, and what it could not. */
#include <stdlib.h>
#include <string.h>

#include "checkpointer/checkpointer.h"
#include "checkpointer/collect.h"
#include "checkpointer/freeze.h"
#include "checkpointer/map_notes.h"
#include "checkpointer/sleeps.h"
#include "store/base/cleanup.h"

struct looking {
	struct frozen_tree tree;
	struct collection collection;
	struct sleeps *sleeps;
	struct map_notes notes;
};

static int look(struct looking *l, const struct checkpoint_config *config, struct err *err)
{
	struct collection *c = &l->collection;
	struct err end_err;
	int result;

	if (sleeps_new(&l->sleeps, err) < 0 || freeze_tree(&l->tree, &config->root, err) < 0)
		return -1;
	result = collect_begin(c, config, &l->tree, l->sleeps, &l->notes, NULL, err);
	/* One that no single object is to blame for is not in the list yet. */
	if (result < 0 && (c->refusals.n || refusals_go_on(&c->refusals, result, err) == 0) &&
	    err->kind == ERR_UNSUPPORTED)
		result = 0;
	if (collect_end(c, &end_err) < 0 && result == 0) {
		*err = end_err;
		result = -1;
	}
	thaw_tree(&l->tree);
	return result;
}

int checkpointer_look(const struct checkpoint_config *config, Snap__Snapshot **ret_model,
		      struct refusals *ret_refusals, struct err *err)
{
	struct looking l = {0};
	int result = look(&l, config, err);

	if (result == 0) {
		*ret_model = steal_ptr(&l.collection.model);
		*ret_refusals = l.collection.refusals;
		l.collection.refusals = (struct refusals){0};
	}
	collection_clear(&l.collection);
	map_notes_free(&l.notes);
	sleeps_free(l.sleeps);
	return result;
}
