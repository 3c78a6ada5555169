#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

#include "recovery/tree_restore.h"
#include "store/base/cleanup.h"

#define TIME_GRAIN_NS 20000000ll /* as of checkpointer/tree_match.c */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory");
}

uint32_t tree_on_disk(const struct tree_restore *r, uint32_t dir, const char *name)
{
	uint32_t disk = r->want.objects[dir].other;
	const struct tree_entry *e =
		disk == TREE_NOWHERE ? NULL : tree_find(&r->disk.objects[disk], name);

	return e ? e->object : TREE_NOWHERE;
}

bool tree_name_is_right(const struct tree_restore *r, uint32_t dir, const struct tree_entry *e)
{
	uint32_t disk = tree_on_disk(r, dir, e->name);

	return disk != TREE_NOWHERE && disk == r->want.objects[e->object].other;
}

/* ---- which is which ------------------------------------------------------------------------ */

static void claim(struct tree_restore *r, uint32_t want, uint32_t disk)
{
	r->want.objects[want].other = disk;
	r->disk.objects[disk].other = want;
}

/* Renamed files are known by their inodes. Directories are what has their names. */
static void claim_by_inode(struct tree_restore *r)
{
	for (uint32_t i = 0; i < r->want.n; i++) {
		const struct tree_object *o = &r->want.objects[i];
		uint32_t disk;

		if (o->kind == TREE_NONE || o->kind == TREE_DIRECTORY)
			continue;
		disk = tree_index_find(&r->walk.index, &r->disk, o->device, o->inode);
		if (disk != TREE_NOWHERE && r->disk.objects[disk].kind == o->kind &&
		    r->disk.objects[disk].names && r->disk.objects[disk].other == TREE_NOWHERE)
			claim(r, i, disk);
	}
}

static int claim_in(struct tree_restore *r, uint32_t dir, struct err *err)
{
	const struct tree_object *d = &r->want.objects[dir];

	for (uint32_t i = 0; i < d->n_entries; i++) {
		const struct tree_entry *e = &d->entries[i];
		struct tree_object *o = &r->want.objects[e->object];
		uint32_t disk = tree_on_disk(r, dir, e->name);

		if (o->kind == TREE_DIRECTORY && !(o->flags & TREE_BOUNDARY))
			r->dirs[r->n_dirs++] = e->object;
		if (disk == TREE_NOWHERE || o->other != TREE_NOWHERE ||
		    r->disk.objects[disk].kind != o->kind ||
		    r->disk.objects[disk].other != TREE_NOWHERE)
			continue;
		if (r->disk.objects[disk].flags & TREE_BOUNDARY && !(o->flags & TREE_BOUNDARY))
			return err_set(err, ERR_UNSUPPORTED, "%s is a mount point now", e->name);
		claim(r, e->object, disk);
	}
	return 0;
}

static int claim_all(struct tree_restore *r, struct err *err)
{
	for (uint32_t i = 0; i < r->want.n; i++)
		r->want.objects[i].other = TREE_NOWHERE;
	for (uint32_t i = 0; i < r->disk.n; i++)
		r->disk.objects[i].other = TREE_NOWHERE;
	r->dirs = calloc((size_t)r->want.n + 1, sizeof(*r->dirs));
	r->todo = calloc((size_t)r->want.n + 1, sizeof(*r->todo));
	if (!r->dirs || !r->todo)
		return no_memory(err);
	claim_by_inode(r);
	if (r->want.n == 0)
		return 0;
	if (r->disk.n)
		claim(r, 0, 0);
	r->dirs[r->n_dirs++] = 0;
	for (uint32_t i = 0; i < r->n_dirs; i++)
		if (claim_in(r, r->dirs[i], err) < 0)
			return -1;
	return 0;
}

/* ---- what is to be done -------------------------------------------------------------------- */

static bool times_prove(const struct tree_restore *r, const struct tree_object *o)
{
	int64_t latest = o->mtime > o->ctime ? o->mtime : o->ctime;
	struct statfs fs;

	if (o->flags & TREE_UNSTEADY || latest + TIME_GRAIN_NS >= (int64_t)r->model->walked)
		return false;
	return o->kind != TREE_REGULAR ||
	       (fstatfs(r->walk.root, &fs) == 0 && fs.f_type != TMPFS_MAGIC &&
		fs.f_type != RAMFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC);
}

static bool is_untouched(const struct tree_restore *r, const struct tree_object *o,
			 const struct tree_object *d)
{
	return o->device == d->device && o->inode == d->inode && o->mtime == d->mtime &&
	       o->ctime == d->ctime && (o->kind != TREE_REGULAR || o->size == d->size) &&
	       times_prove(r, o);
}

static bool attributes_differ(const struct tree_object *o, const struct tree_object *d)
{
	bool mode = o->kind != TREE_SYMLINK && o->mode != d->mode;

	return mode || o->uid != d->uid || o->gid != d->gid || o->mtime != d->mtime ||
	       o->xattrs_len != d->xattrs_len ||
	       (o->xattrs_len && memcmp(o->xattrs, d->xattrs, o->xattrs_len) != 0);
}

static int compare_regular(struct tree_restore *r, uint32_t i, struct tree_todo *todo,
			   struct err *err)
{
	const struct tree_object *o = &r->want.objects[i];
	const struct stored_content content = tree_content(r, o);
	cleanup_fd int fd = tree_walk_open(&r->walk, o->other, O_RDONLY);

	/* What cannot be read is made anew. */
	if (fd < 0)
		todo->work |= TREE_MAKE;
	if (content_compare(&content, fd, &todo->differ, err) < 0)
		return -1;
	if (todo->differ.n || r->disk.objects[o->other].size != o->size)
		todo->work |= TREE_WRITE | TREE_ATTRIBUTES;
	return 0;
}

static int compare_claimed(struct tree_restore *r, uint32_t i, struct tree_todo *todo,
			   struct err *err)
{
	const struct tree_object *o = &r->want.objects[i];
	struct tree_object *d = &r->disk.objects[o->other];

	if (is_untouched(r, o, d) || o->flags & TREE_BOUNDARY)
		return 0;
	if (tree_walk_details(&r->walk, o->other, err) < 0)
		return -1;
	if (attributes_differ(o, d))
		todo->work |= TREE_ATTRIBUTES;
	if (o->kind == TREE_SYMLINK && strcmp(o->target, d->target) != 0)
		todo->work |= TREE_MAKE;
	if ((o->kind == TREE_CHARACTER || o->kind == TREE_BLOCK) && o->rdev != d->rdev)
		todo->work |= TREE_MAKE;
	if (o->kind == TREE_REGULAR && compare_regular(r, i, todo, err) < 0)
		return -1;
	/* Names outside lead to it too, or it is somebody else's now. */
	if (todo->work && o->kind != TREE_DIRECTORY &&
	    (d->nlink > d->names || (geteuid() != 0 && d->uid != geteuid())))
		todo->work |= TREE_MAKE;
	return 0;
}

static void unclaim(struct tree_restore *r, uint32_t want)
{
	struct tree_object *o = &r->want.objects[want];

	if (o->other != TREE_NOWHERE)
		r->disk.objects[o->other].other = TREE_NOWHERE;
	o->other = TREE_NOWHERE;
}

static int decide(struct tree_restore *r, uint32_t i, struct err *err)
{
	struct tree_object *o = &r->want.objects[i];
	struct tree_todo *todo = &r->todo[i];
	char path[TREE_PATH_ROOM] = "";
	int result;

	if (o->other != TREE_NOWHERE) {
		result = compare_claimed(r, i, todo, err);
	} else {
		const struct stored_content content = tree_content(r, o);

		/* Read now, so that damage is noticed before anything is touched. */
		todo->work = TREE_MAKE;
		result = o->kind == TREE_REGULAR ? content_compare(&content, -1, &todo->differ, err)
						 : 0;
	}
	if (result < 0) {
		tree_path(&r->want, i, path, sizeof(path));
		return err_wrap(err, "%s", path);
	}
	if (todo->work & TREE_MAKE) {
		unclaim(r, i);
		page_runs_clear(&todo->differ);
		r->made++;
	} else if (todo->work) {
		r->changed++;
	}
	return 0;
}

static void count_removed(struct tree_restore *r)
{
	for (uint32_t i = 0; i < r->disk.n; i++)
		r->removed += r->disk.objects[i].names && r->disk.objects[i].other == TREE_NOWHERE;
}

static int compare(struct tree_restore *r, struct err *err)
{
	struct stat st;

	if (tree_load(&r->want, r->store, r->model, err) < 0)
		return -1;
	r->walk = (struct tree_walk){.tree = &r->disk, .root = -1, .still = true};
	if (stat(store_dir(r->store), &st) == 0)
		r->walk.spared = (struct tree_spared){st.st_dev, st.st_ino};
	if (tree_walk_begin(&r->walk, r->model->path, err) < 0 ||
	    tree_walk_all(&r->walk, err) < 0 || tree_link_up(&r->disk, err) < 0 ||
	    claim_all(r, err) < 0)
		return -1;
	for (uint32_t i = 0; i < r->want.n; i++)
		if (r->want.objects[i].kind != TREE_NONE && decide(r, i, err) < 0)
			return -1;
	count_removed(r);
	return 0;
}

int tree_restore_compare(struct tree_restore **ret, struct store *store, const Snap__Tree *model,
			 struct err *err)
{
	struct tree_restore *r = calloc(1, sizeof(*r));

	if (!r)
		return no_memory(err);
	r->store = store;
	r->model = model;
	if (compare(r, err) < 0) {
		tree_restore_free(r);
		return err_wrap(err, "directory %s", model->path);
	}
	*ret = r;
	return 0;
}

void tree_restore_free(struct tree_restore *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; r->todo && i < r->want.n; i++)
		page_runs_clear(&r->todo[i].differ);
	free(r->todo);
	free(r->dirs);
	tree_walk_end(&r->walk);
	tree_clear(&r->want);
	tree_clear(&r->disk);
	free(r);
}

/* ---- telling ------------------------------------------------------------------------------- */

static void print_line(const struct tree_restore *r, const char *verb, const struct tree *tree,
		       uint32_t i, FILE *out)
{
	char path[TREE_PATH_ROOM];

	if (tree_path(tree, i, path, sizeof(path)) == 0)
		fprintf(out, "     %s %s/%s%s\n", verb, r->model->path, path,
			tree->objects[i].kind == TREE_DIRECTORY ? "/" : "");
}

bool tree_restore_is_idle(const struct tree_restore *r)
{
	for (uint32_t d = 0; d < r->n_dirs; d++) {
		const struct tree_object *dir = &r->want.objects[r->dirs[d]];

		for (uint32_t i = 0; i < dir->n_entries; i++)
			if (!tree_name_is_right(r, r->dirs[d], &dir->entries[i]))
				return false;
	}
	return r->removed + r->made + r->changed == 0;
}

static void print_renames(const struct tree_restore *r, FILE *out)
{
	for (uint32_t d = 0; d < r->n_dirs; d++) {
		const struct tree_object *dir = &r->want.objects[r->dirs[d]];

		for (uint32_t i = 0; i < dir->n_entries; i++) {
			const struct tree_entry *e = &dir->entries[i];
			uint32_t disk = r->want.objects[e->object].other;
			char path[TREE_PATH_ROOM], old[TREE_PATH_ROOM];

			if (disk != TREE_NOWHERE && !tree_name_is_right(r, r->dirs[d], e) &&
			    tree_path(&r->disk, disk, old, sizeof(old)) == 0 &&
			    tree_path_of(&r->want, r->dirs[d], e->name, path, sizeof(path)) == 0)
				fprintf(out, "     rename %s/%s to %s\n", r->model->path, old,
					path);
		}
	}
}

void tree_restore_print(const struct tree_restore *r, FILE *out)
{
	for (uint32_t i = 0; i < r->disk.n; i++)
		if (r->disk.objects[i].names && r->disk.objects[i].other == TREE_NOWHERE)
			print_line(r, "remove", &r->disk, i, out);
	print_renames(r, out);
	for (uint32_t i = 0; i < r->want.n; i++)
		if (r->todo[i].work & TREE_MAKE)
			print_line(r, "make", &r->want, i, out);
		else if (r->todo[i].work)
			print_line(r, r->todo[i].work & TREE_WRITE ? "write" : "set attributes of",
				   &r->want, i, out);
}

int tree_restore_content(const struct tree_restore *r, const char *path, struct stored_content *ret,
			 struct err *err)
{
	size_t len = strlen(r->model->path);
	uint32_t i = strncmp(path, r->model->path, len) == 0 ? tree_lookup(&r->want, path + len)
							     : TREE_NOWHERE;

	if (i == TREE_NOWHERE || r->want.objects[i].kind != TREE_REGULAR)
		return err_set(err, ERR_NOT_FOUND, "%s is not in the snapshot's directory %s", path,
			       r->model->path);
	*ret = tree_content(r, &r->want.objects[i]);
	return 0;
}
