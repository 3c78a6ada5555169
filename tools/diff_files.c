/*
 * Files that came, went and changed: those that a job holds, and those in its saved directories.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/tree.h"
#include "tools/diff.h"

#define PATH_ROOM (2 * 4096)

static int add(struct diff *diff, const struct diff_file *file, const char *path, struct err *err)
{
	struct diff_file *to =
		diff_grow(&diff->files, &diff->n_files, &diff->files_room, sizeof(*to), err);

	if (!to)
		return -1;
	*to = *file;
	to->path = strdup(path);
	return to->path ? 0 : err_sys(err, "list of differences");
}

/* ---- files that the job holds -------------------------------------------------------------- */

/* What has no name is told by its number. */
static int compare_order(const void *x, const void *y)
{
	const Snap__File *a = *(Snap__File *const *)x, *b = *(Snap__File *const *)y;
	int order = strcmp(a->path, b->path);

	if (order == 0)
		order = (a->kind > b->kind) - (a->kind < b->kind);
	return order ? order : (a->inode > b->inode) - (a->inode < b->inode);
}

static int by_name(const Snap__File *a, const Snap__File *b)
{
	int order = strcmp(a->path, b->path);

	return order ? order : (a->kind > b->kind) - (a->kind < b->kind);
}

/* *ret malloc'ed: those whose content is the job's, by name. */
static int sort_files(const Snap__Snapshot *model, Snap__File ***ret, size_t *ret_n,
		      struct err *err)
{
	Snap__File **list = calloc(model->n_files + 1, sizeof(*list));
	size_t n = 0;

	if (!list)
		return err_sys(err, "list of files");
	for (size_t i = 0; i < model->n_files; i++) {
		Snap__File *f = model->files[i];

		if ((f->kind == SNAP__FILE__KIND__REGULAR || f->kind == SNAP__FILE__KIND__MEMFD ||
		     f->kind == SNAP__FILE__KIND__SHARED_ANONYMOUS ||
		     f->kind == SNAP__FILE__KIND__SYSV) &&
		    !f->in_tree)
			list[n++] = f;
	}
	qsort(list, n, sizeof(Snap__File *), compare_order);
	*ret = list;
	*ret_n = n;
	return 0;
}

static int compare_file(struct diff *diff, struct store *store, const Snap__File *a,
			const Snap__File *b, struct err *err)
{
	struct diff_file d = {.kind = a ? b ? DIFF_CHANGED : DIFF_GONE : DIFF_NEW,
			      .size_a = a ? a->size : 0,
			      .size_b = b ? b->size : 0};
	uint64_t size = d.size_a > d.size_b ? d.size_a : d.size_b;
	const char *path = b ? b->path : a->path;

	if (a && b && a->content && b->content &&
	    diff_tables(store, a->content_root, b->content_root, 0, tree_pages(size), &d.pages,
			err) < 0)
		return err_wrap(err, "%s", path);
	if (a && b && a->size == b->size && a->mtime == b->mtime && a->mode == b->mode &&
	    !d.pages.changed && !d.pages.came && !d.pages.went)
		return 0;
	return add(diff, &d, *path ? path : "(shared memory)", err);
}

static int compare_files(struct diff *diff, struct store *store, const Snap__Snapshot *model_a,
			 const Snap__Snapshot *model_b, struct err *err)
{
	cleanup_free Snap__File **list_a = NULL, **list_b = NULL;
	size_t n_a, n_b, i = 0, k = 0;

	if (sort_files(model_a, &list_a, &n_a, err) < 0 ||
	    sort_files(model_b, &list_b, &n_b, err) < 0)
		return -1;
	while (i < n_a || k < n_b) {
		const Snap__File *a = i < n_a ? list_a[i] : NULL, *b = k < n_b ? list_b[k] : NULL;
		int order = a && b ? by_name(a, b) : 0;

		if (order < 0)
			b = NULL;
		else if (order > 0)
			a = NULL;
		if (compare_file(diff, store, a, b, err) < 0)
			return -1;
		i += a != NULL;
		k += b != NULL;
	}
	return 0;
}

/* ---- saved directories --------------------------------------------------------------------- */

struct tree_pair {
	struct diff *diff;
	struct store *store;
	const Snap__Tree *model_a, *model_b;
	struct tree a, b;
};

static bool is_same_object(const struct tree_object *a, const struct tree_object *b)
{
	return a->kind == b->kind && a->size == b->size && a->mtime == b->mtime &&
	       a->mode == b->mode && a->content.first == b->content.first;
}

/* The object of one tree against that of the other, NULL: there is none. */
static int compare_object(struct tree_pair *p, const char *path, const struct tree_object *a,
			  const struct tree_object *b, struct err *err)
{
	struct diff_file d = {.kind = a ? b ? DIFF_CHANGED : DIFF_GONE : DIFF_NEW,
			      .size_a = a ? a->size : 0,
			      .size_b = b ? b->size : 0};
	uint64_t size = d.size_a > d.size_b ? d.size_a : d.size_b;
	cleanup_free char *full = NULL;

	if (a && b && a->kind == TREE_DIRECTORY && b->kind == TREE_DIRECTORY)
		return 0;
	/* One stretch of the contents: what differs there can be told by pages. */
	if (a && b && a->kind == TREE_REGULAR && b->kind == TREE_REGULAR &&
	    a->content.first == b->content.first &&
	    diff_tables(p->store, p->model_a->contents_root, p->model_b->contents_root,
			a->content.first, tree_pages(size), &d.pages, err) < 0)
		return -1;
	if (a && b && is_same_object(a, b) && !d.pages.changed && !d.pages.came && !d.pages.went)
		return 0;
	if (asprintf(&full, "%s/%s", (p->model_b ? p->model_b : p->model_a)->path, path) < 0)
		return err_sys(err, "list of differences");
	return add(p->diff, &d, full, err);
}

/* Everything in `of` against the other; only_missing: that has been compared the other way round.
 */
static int compare_objects(struct tree_pair *p, const struct tree *of, const struct tree *other,
			   struct err *err)
{
	bool of_a = of == &p->a;
	char path[PATH_ROOM];

	for (uint32_t i = 1; i < of->n; i++) {
		const struct tree_object *o = &of->objects[i], *match;
		uint32_t found;

		if (o->kind == TREE_NONE || tree_path(of, i, path, sizeof(path)) < 0)
			continue;
		found = other->n ? tree_lookup(other, path) : TREE_NOWHERE;
		match = found == TREE_NOWHERE ? NULL : &other->objects[found];
		if (!of_a && match)
			continue;
		if (compare_object(p, path, of_a ? o : NULL, of_a ? match : o, err) < 0)
			return -1;
	}
	return 0;
}

static int compare_tree(struct tree_pair *p, struct err *err)
{
	const Snap__Tree *a = p->model_a, *b = p->model_b;
	int result = 0;

	if (a && b && a->objects_root == b->objects_root && a->contents_root == b->contents_root)
		return 0;
	if ((a && tree_load(&p->a, p->store, a, err) < 0) ||
	    (b && tree_load(&p->b, p->store, b, err) < 0))
		result = -1;
	if (result == 0)
		result = compare_objects(p, &p->a, &p->b, err);
	if (result == 0)
		result = compare_objects(p, &p->b, &p->a, err);
	tree_clear(&p->a);
	tree_clear(&p->b);
	return result == 0 ? 0 : err_wrap(err, "directory %s", (a ? a : b)->path);
}

static const Snap__Tree *find_tree(const Snap__Snapshot *model, const char *path)
{
	for (size_t i = 0; i < model->n_trees; i++)
		if (strcmp(model->trees[i]->path, path) == 0)
			return model->trees[i];
	return NULL;
}

int diff_files(struct diff *diff, struct store *store, const Snap__Snapshot *a,
	       const Snap__Snapshot *b, struct err *err)
{
	if (compare_files(diff, store, a, b, err) < 0)
		return -1;
	for (size_t i = 0; i < a->n_trees; i++) {
		struct tree_pair p = {diff, store, a->trees[i], find_tree(b, a->trees[i]->path),
				      {0},  {0}};

		if (compare_tree(&p, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < b->n_trees; i++) {
		struct tree_pair p = {diff, store, NULL, b->trees[i], {0}, {0}};

		if (!find_tree(a, b->trees[i]->path) && compare_tree(&p, err) < 0)
			return -1;
	}
	return 0;
}
