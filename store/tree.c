#include "store/tree.h"

#include <stdlib.h>
#include <string.h>

void tree_free_entries(struct tree_object *dir)
{
	for (uint32_t i = 0; i < dir->n_entries; i++)
		free(dir->entries[i].name);
	free(dir->entries);
	dir->entries = NULL;
	dir->n_entries = 0;
}

void tree_clear(struct tree *tree)
{
	for (uint32_t i = 0; i < tree->n; i++) {
		tree_free_entries(&tree->objects[i]);
		free(tree->objects[i].xattrs);
		free(tree->objects[i].target);
	}
	free(tree->objects);
	*tree = (struct tree){0};
}

uint32_t tree_add(struct tree *tree)
{
	if (tree->n == tree->room) {
		uint32_t room = tree->room ? tree->room * 2 : 64;
		struct tree_object *more =
			room <= TREE_OBJECTS_MOST ? reallocarray(tree->objects, room, sizeof(*more))
						  : NULL;

		if (!more)
			return TREE_NOWHERE;
		tree->objects = more;
		tree->room = room;
	}
	tree->objects[tree->n] = (struct tree_object){
		.parent = TREE_NOWHERE, .slot = TREE_NOWHERE, .other = TREE_NOWHERE};
	return tree->n++;
}

int tree_append(struct tree *tree, uint32_t dir, char *name, uint32_t object)
{
	struct tree_object *d = &tree->objects[dir];
	uint32_t n = d->n_entries;

	/* Room at powers of two, as in snapshot.c. */
	if ((n & (n - 1)) == 0) {
		struct tree_entry *more =
			reallocarray(d->entries, n ? (size_t)n * 2 : 1, sizeof(*more));

		if (!more) {
			free(name);
			return -1;
		}
		d->entries = more;
	}
	d->entries[d->n_entries++] = (struct tree_entry){name, object};
	return 0;
}

static int compare_entries(const void *a, const void *b)
{
	return strcmp(((const struct tree_entry *)a)->name, ((const struct tree_entry *)b)->name);
}

void tree_sort(struct tree_object *dir)
{
	if (dir->n_entries > 1)
		qsort(dir->entries, dir->n_entries, sizeof(*dir->entries), compare_entries);
}

struct tree_entry *tree_find(const struct tree_object *dir, const char *name)
{
	const struct tree_entry key = {.name = (char *)name};

	if (dir->n_entries == 0)
		return NULL;
	return bsearch(&key, dir->entries, dir->n_entries, sizeof(key), compare_entries);
}

int tree_link_up(struct tree *tree, struct err *err)
{
	uint32_t *queue, head = 0, tail = 0;
	int result = 0;

	for (uint32_t i = 0; i < tree->n; i++) {
		tree->objects[i].parent = TREE_NOWHERE;
		tree->objects[i].name = NULL;
		tree->objects[i].names = 0;
	}
	if (tree->n == 0 || tree->objects[0].kind != TREE_DIRECTORY)
		return 0;
	queue = calloc(tree->n, sizeof(*queue));
	if (!queue)
		return err_sys(err, "directory tree");
	tree->objects[0].names = 1;
	queue[tail++] = 0;
	while (head < tail && result == 0) {
		uint32_t dir = queue[head++];

		for (uint32_t i = 0; i < tree->objects[dir].n_entries && result == 0; i++) {
			struct tree_entry *e = &tree->objects[dir].entries[i];
			struct tree_object *o = &tree->objects[e->object];

			if (o->kind == TREE_DIRECTORY && o->names)
				result = err_set(err, ERR_CORRUPT, "directory %s is in two places",
						 e->name);
			else if (o->names++ == 0) {
				o->parent = dir;
				o->name = e->name;
				if (o->kind == TREE_DIRECTORY)
					queue[tail++] = e->object;
			}
		}
	}
	free(queue);
	return result;
}

int tree_check(struct tree *tree, struct err *err)
{
	if (tree_link_up(tree, err) < 0)
		return -1;
	if (tree->n && tree->objects[0].kind != TREE_NONE &&
	    tree->objects[0].kind != TREE_DIRECTORY)
		return err_set(err, ERR_CORRUPT, "the root is no directory");
	for (uint32_t i = 0; i < tree->n; i++) {
		const struct tree_object *o = &tree->objects[i];

		if ((o->kind == TREE_NONE) != (o->names == 0))
			return err_set(err, ERR_CORRUPT, "object %u: names and kind differ", i);
	}
	return 0;
}

/* From the end of buf towards its beginning. */
int tree_path_of(const struct tree *tree, uint32_t dir, const char *name, char *buf, size_t len)
{
	size_t at = len, part;

	if (len == 0)
		return -1;
	buf[--at] = '\0';
	for (;;) {
		part = strlen(name);
		if (part > at)
			return -1;
		at -= part;
		memcpy(buf + at, name, part);
		if (dir == 0 || dir == TREE_NOWHERE)
			break;
		if (at == 0)
			return -1;
		buf[--at] = '/';
		name = tree->objects[dir].name;
		dir = tree->objects[dir].parent;
		if (!name)
			return -1;
	}
	memmove(buf, buf + at, len - at);
	return 0;
}

int tree_path(const struct tree *tree, uint32_t object, char *buf, size_t len)
{
	const struct tree_object *o = &tree->objects[object];

	if (object == 0)
		return tree_path_of(tree, 0, ".", buf, len);
	return o->name ? tree_path_of(tree, o->parent, o->name, buf, len) : -1;
}

uint32_t tree_lookup(const struct tree *tree, const char *path)
{
	char name[TREE_NAME_MOST + 1];
	uint32_t at = 0;

	if (tree->n == 0)
		return TREE_NOWHERE;
	for (;;) {
		const struct tree_entry *e;
		size_t len;

		path += strspn(path, "/");
		if (!*path)
			return at;
		len = strcspn(path, "/");
		if (len > TREE_NAME_MOST)
			return TREE_NOWHERE;
		memcpy(name, path, len);
		name[len] = '\0';
		path += len;
		e = tree_find(&tree->objects[at], name);
		if (!e)
			return TREE_NOWHERE;
		at = e->object;
	}
}

/* ---- by inode ------------------------------------------------------------------------------ */

static size_t place_of(const struct tree_index *index, uint64_t device, uint64_t inode)
{
	uint64_t h = (inode + device * 31) * 0x9e3779b97f4a7c15ull;

	return (size_t)(h >> 20) & (index->room - 1);
}

static void put(struct tree_index *index, const struct tree *tree, uint32_t object)
{
	const struct tree_object *o = &tree->objects[object];
	size_t at = place_of(index, o->device, o->inode);

	while (index->places[at])
		at = (at + 1) & (index->room - 1);
	index->places[at] = object + 1;
	index->used++;
}

static int grow(struct tree_index *index, const struct tree *tree)
{
	struct tree_index more = {.room = index->room ? index->room * 2 : 256};

	more.places = calloc(more.room, sizeof(*more.places));
	if (!more.places)
		return -1;
	for (size_t i = 0; i < index->room; i++)
		if (index->places[i])
			put(&more, tree, index->places[i] - 1);
	free(index->places);
	*index = more;
	return 0;
}

int tree_index_add(struct tree_index *index, const struct tree *tree, uint32_t object)
{
	if (index->used * 2 >= index->room && grow(index, tree) < 0)
		return -1;
	put(index, tree, object);
	return 0;
}

uint32_t tree_index_find(const struct tree_index *index, const struct tree *tree, uint64_t device,
			 uint64_t inode)
{
	if (!index->room)
		return TREE_NOWHERE;
	for (size_t at = place_of(index, device, inode); index->places[at];
	     at = (at + 1) & (index->room - 1)) {
		const struct tree_object *o = &tree->objects[index->places[at] - 1];

		if (o->inode == inode && o->device == device)
			return index->places[at] - 1;
	}
	return TREE_NOWHERE;
}

void tree_index_clear(struct tree_index *index)
{
	free(index->places);
	*index = (struct tree_index){0};
}
