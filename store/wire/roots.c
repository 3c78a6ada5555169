#include "store/wire/roots.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "store/base/cleanup.h"
#include "store/node.h"

static int add_field(void *ctx, uint64_t *root, struct err *err)
{
	struct wire_roots *roots = ctx;
	uint64_t **more;

	if ((roots->n & (roots->n - 1)) == 0) {
		more = reallocarray(roots->field, roots->n ? 2 * roots->n : 1, sizeof(*more));
		if (!more)
			return err_sys(err, "page tables of a snapshot");
		roots->field = more;
	}
	roots->field[roots->n++] = root;
	return 0;
}

int wire_roots_find(struct wire_roots *ret, Snap__Snapshot *model, struct err *err)
{
	struct wire_roots roots = {0};

	if (snap_each_root(model, add_field, &roots, err) < 0) {
		wire_roots_clear(&roots);
		return -1;
	}
	*ret = roots;
	return 0;
}

void wire_roots_clear(struct wire_roots *roots)
{
	free(roots->field);
	*roots = (struct wire_roots){0};
}

/* ---- numbers ------------------------------------------------------------------------------- */

struct by_root {
	uint64_t root;
	size_t place;
	uint64_t table;
};

static int compare_roots(const void *a, const void *b)
{
	const struct by_root *x = a, *y = b;

	if (x->root != y->root)
		return x->root < y->root ? -1 : 1;
	return (x->place > y->place) - (x->place < y->place);
}

static int compare_places(const void *a, const void *b)
{
	const struct by_root *x = a, *y = b;

	return (x->place > y->place) - (x->place < y->place);
}

/* Fields that name the same root get the place of the first of them as `table`, for the moment. */
static void find_first(struct by_root *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		list[i].table = i && list[i - 1].root == list[i].root ? list[i - 1].table
								      : list[i].place;
}

int wire_tables_number(struct wire_tables *ret, const struct wire_roots *roots, struct err *err)
{
	cleanup_free struct by_root *list = calloc(roots->n + 1, sizeof(*list));
	struct wire_tables tables = {
		.root = calloc(roots->n + 1, sizeof(*tables.root)),
		.place = calloc(roots->n + 1, sizeof(*tables.place)),
	};

	if (!list || !tables.root || !tables.place) {
		wire_tables_clear(&tables);
		return err_sys(err, "page tables of a snapshot");
	}
	for (size_t i = 0; i < roots->n; i++)
		list[i] = (struct by_root){*roots->field[i], i, 0};
	qsort(list, roots->n, sizeof(*list), compare_roots);
	find_first(list, roots->n);
	qsort(list, roots->n, sizeof(*list), compare_places);
	for (size_t i = 0; i < roots->n; i++) {
		if (list[i].root == 0)
			continue;
		if (list[i].table == i) {
			tables.root[tables.n] = list[i].root;
			tables.place[tables.n++] = i;
			*roots->field[i] = tables.n;
		} else {
			*roots->field[i] = *roots->field[list[i].table];
		}
	}
	*ret = tables;
	return 0;
}

void wire_tables_clear(struct wire_tables *tables)
{
	free(tables->root);
	free(tables->place);
	*tables = (struct wire_tables){0};
}

/* ---- likeness ------------------------------------------------------------------------------ */

static const uint64_t *field_of_process(const Snap__Snapshot *base, int32_t pid)
{
	for (size_t i = 0; i < base->n_processes; i++)
		if (base->processes[i]->pid == pid)
			return &base->processes[i]->pages_root;
	return NULL;
}

static const uint64_t *field_of_file(const Snap__Snapshot *base, const Snap__File *file)
{
	for (size_t i = 0; i < base->n_files; i++) {
		const Snap__File *f = base->files[i];

		if (f->kind == file->kind && f->inode == file->inode && f->device == file->device &&
		    f->path && file->path && strcmp(f->path, file->path) == 0)
			return &f->content_root;
	}
	return NULL;
}

static const uint64_t *field_of_tree(const Snap__Snapshot *base, const char *path, bool objects)
{
	for (size_t i = 0; path && i < base->n_trees; i++)
		if (base->trees[i]->path && strcmp(base->trees[i]->path, path) == 0)
			return objects ? &base->trees[i]->objects_root
				       : &base->trees[i]->contents_root;
	return NULL;
}

static const uint64_t *like(const Snap__Snapshot *model, const uint64_t *field,
			    const Snap__Snapshot *base)
{
	for (size_t i = 0; i < model->n_processes; i++)
		if (field == &model->processes[i]->pages_root)
			return field_of_process(base, model->processes[i]->pid);
	for (size_t i = 0; i < model->n_files; i++)
		if (field == &model->files[i]->content_root)
			return field_of_file(base, model->files[i]);
	for (size_t i = 0; i < model->n_trees; i++) {
		const Snap__Tree *tree = model->trees[i];

		if (field == &tree->objects_root || field == &tree->contents_root)
			return field_of_tree(base, tree->path, field == &tree->objects_root);
	}
	return NULL;
}

size_t wire_base_place(const Snap__Snapshot *model, const uint64_t *field,
		       const Snap__Snapshot *base, const struct wire_roots *base_roots)
{
	const uint64_t *found = like(model, field, base);

	for (size_t i = 0; found && i < base_roots->n; i++)
		if (base_roots->field[i] == found)
			return i + 1;
	return 0;
}

/* ---- digest -------------------------------------------------------------------------------- */

static int digest_without_roots(const Snap__Snapshot *model, uint64_t *ret, struct err *err)
{
	size_t len = snap__snapshot__get_packed_size(model);
	cleanup_free uint8_t *bytes = malloc(len + 1);

	if (!bytes)
		return err_sys(err, "a model of %zu bytes", len);
	snap__snapshot__pack(model, bytes);
	*ret = XXH3_64bits(bytes, len) | 1;
	return 0;
}

int wire_model_digest(const Snap__Snapshot *model, uint64_t *ret, struct err *err)
{
	Snap__Snapshot *borrowed = (Snap__Snapshot *)model; /* put back below */
	cleanup_free uint64_t *saved = NULL;
	struct wire_roots roots;
	int rc = -1;

	if (wire_roots_find(&roots, borrowed, err) < 0)
		return -1;
	saved = calloc(roots.n + 1, sizeof(*saved));
	if (!saved) {
		wire_roots_clear(&roots);
		return err_sys(err, "a model's digest");
	}
	for (size_t i = 0; i < roots.n; i++) {
		saved[i] = *roots.field[i];
		*roots.field[i] = 0;
	}
	rc = digest_without_roots(borrowed, ret, err);
	for (size_t i = 0; i < roots.n; i++)
		*roots.field[i] = saved[i];
	wire_roots_clear(&roots);
	return rc;
}
