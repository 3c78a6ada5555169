#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/tree_restore.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

/* A directory of the tree, to work in; its owner may have taken the permission away from itself. */
static int open_directory(const struct tree_restore *r, const char *path)
{
	cleanup_fd int at = open_beneath(r->walk.root, path, O_PATH | O_DIRECTORY);
	char proc[64];
	struct stat st;

	if (at < 0 || fstat(at, &st) < 0)
		return -1;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", at);
	if ((st.st_mode & 0700) != 0700 && st.st_uid == geteuid() &&
	    chmod(proc, (st.st_mode & 07777) | 0700) < 0)
		return -1;
	return open(proc, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int open_dir_of(const struct tree_restore *r, const struct tree *tree, uint32_t dir,
		       struct err *err)
{
	char path[TREE_PATH_ROOM];
	int fd = -1;

	if (tree_path(tree, dir, path, sizeof(path)) == 0)
		fd = open_directory(r, path);
	return fd < 0 ? err_sys(err, "directory %s", path) : fd;
}

/* ---- the stash: links to files that have none of the names they are to have ---------------- */

static int open_stash(struct tree_restore *r, struct err *err)
{
	if (!*r->stash) {
		for (unsigned i = 0;; i++) {
			snprintf(r->stash, sizeof(r->stash), ".pawl-stash-%u", i);
			if (mkdirat(r->walk.root, r->stash, 0700) == 0)
				break;
			if (errno != EEXIST)
				return err_sys(err, "%s", r->stash);
		}
	}
	return openat(r->walk.root, r->stash, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static int stash(struct tree_restore *r, uint32_t object, struct err *err)
{
	const struct tree_object *d = &r->disk.objects[r->want.objects[object].other];
	cleanup_fd int to = open_stash(r, err), from = -1;
	char name[16];

	if (to < 0)
		return -1;
	from = open_dir_of(r, &r->disk, d->parent, err);
	if (from < 0)
		return -1;
	snprintf(name, sizeof(name), "%u", object);
	if (linkat(from, d->name, to, name, 0) == 0) {
		r->todo[object].work |= TREE_STASHED;
		return 0;
	}
	/* Without links (a file system that has none, fs.protected_hardlinks) it is made anew. */
	log_debug("%s: %s", d->name, strerror(errno));
	r->disk.objects[r->want.objects[object].other].other = TREE_NOWHERE;
	r->want.objects[object].other = TREE_NOWHERE;
	r->todo[object].work = TREE_MAKE;
	return 0;
}

/* Which objects have a right name already, and which must be kept by another. */
static int stash_all(struct tree_restore *r, struct err *err)
{
	for (uint32_t d = 0; d < r->n_dirs; d++) {
		const struct tree_object *dir = &r->want.objects[r->dirs[d]];

		for (uint32_t i = 0; i < dir->n_entries; i++) {
			struct tree_todo *todo = &r->todo[dir->entries[i].object];

			if (todo->work & TREE_PLACED ||
			    !tree_name_is_right(r, r->dirs[d], &dir->entries[i]))
				continue;
			todo->work |= TREE_PLACED;
			todo->dir = r->dirs[d];
			todo->name = dir->entries[i].name;
		}
	}
	for (uint32_t i = 1; i < r->want.n; i++) {
		const struct tree_object *o = &r->want.objects[i];

		if (o->kind != TREE_NONE && o->other != TREE_NOWHERE &&
		    !(r->todo[i].work & TREE_PLACED) && stash(r, i, err) < 0)
			return -1;
	}
	return 0;
}

static int remove_stash(struct tree_restore *r, struct err *err)
{
	cleanup_fd int fd = -1;
	char name[16];

	if (!*r->stash)
		return 0;
	fd = open_stash(r, err);
	if (fd < 0)
		return -1;
	for (uint32_t i = 0; i < r->want.n; i++) {
		snprintf(name, sizeof(name), "%u", i);
		if (r->todo[i].work & TREE_STASHED && unlinkat(fd, name, 0) < 0)
			return err_sys(err, "%s/%s", r->stash, name);
	}
	if (unlinkat(r->walk.root, r->stash, AT_REMOVEDIR) < 0)
		return err_sys(err, "%s", r->stash);
	return 0;
}

/* ---- removing ------------------------------------------------------------------------------ */

/* Whether a name on disk stays: it leads to what it is to lead to. */
static bool stays(const struct tree_restore *r, const struct tree_object *dir,
		  const struct tree_entry *e)
{
	const struct tree_object *d = &r->disk.objects[e->object];
	const struct tree_entry *wanted;

	if (dir->other == TREE_NOWHERE || d->other == TREE_NOWHERE)
		return false;
	wanted = tree_find(&r->want.objects[dir->other], e->name);
	return wanted && wanted->object == d->other;
}

static int remove_names(struct tree_restore *r, uint32_t disk_dir, struct err *err)
{
	const struct tree_object *dir = &r->disk.objects[disk_dir];
	cleanup_fd int fd = -1;

	for (uint32_t i = 0; i < dir->n_entries; i++) {
		const struct tree_entry *e = &dir->entries[i];
		bool is_dir = r->disk.objects[e->object].kind == TREE_DIRECTORY;

		if (stays(r, dir, e))
			continue;
		if (fd < 0 && (fd = open_dir_of(r, &r->disk, disk_dir, err)) < 0)
			return -1;
		if (unlinkat(fd, e->name, is_dir ? AT_REMOVEDIR : 0) == 0 || errno == ENOENT)
			continue;
		if (!is_dir || (errno != ENOTEMPTY && errno != EBUSY))
			return err_sys(err, "cannot remove %s", e->name);
		/* The store, a mount point, or what somebody has just put there. */
		log_warn("%s/…/%s is not the snapshot's, and stays: %s", r->model->path, e->name,
			 strerror(errno));
	}
	return 0;
}

/* Directories that contain others come before these: from the end, each is empty in its turn. */
static int remove_all(struct tree_restore *r, struct err *err)
{
	cleanup_free uint32_t *order = calloc((size_t)r->disk.n + 1, sizeof(*order));
	uint32_t n = 0;

	if (!order)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (r->disk.n)
		order[n++] = 0;
	for (uint32_t i = 0; i < n; i++) {
		const struct tree_object *dir = &r->disk.objects[order[i]];

		for (uint32_t j = 0; j < dir->n_entries; j++)
			if (r->disk.objects[dir->entries[j].object].kind == TREE_DIRECTORY)
				order[n++] = dir->entries[j].object;
	}
	while (n-- > 0)
		if (remove_names(r, order[n], err) < 0)
			return -1;
	return 0;
}

/* ---- making -------------------------------------------------------------------------------- */

/* Another name for what is placed or stashed. */
static int link_name(struct tree_restore *r, int fd, const char *name, uint32_t object,
		     struct err *err)
{
	const struct tree_todo *todo = &r->todo[object];
	cleanup_fd int from = -1;
	char stashed[16];

	snprintf(stashed, sizeof(stashed), "%u", object);
	if (todo->work & TREE_PLACED)
		from = open_dir_of(r, &r->want, todo->dir, err);
	else
		from = open_stash(r, err);
	if (from < 0)
		return -1;
	if (linkat(from, todo->work & TREE_PLACED ? todo->name : stashed, fd, name, 0) < 0)
		return err_sys(err, "link");
	return 0;
}

static int replace(struct tree_restore *r, int fd, const char *name, uint32_t object,
		   struct err *err)
{
	if (unlinkat(fd, name, 0) < 0)
		return err_sys(err, "unlink");
	return tree_make_object(r, fd, name, object, err);
}

static int change(struct tree_restore *r, int fd, const char *name, uint32_t object,
		  struct err *err)
{
	const struct tree_object *o = &r->want.objects[object];

	if (o->kind == TREE_DIRECTORY)
		return 0;
	if (r->todo[object].work & TREE_WRITE && tree_write_object(r, fd, name, object, err) < 0) {
		if (err->sys_errno != ETXTBSY || o->names != 1)
			return -1;
		return replace(r, fd, name, object, err);
	}
	/* What was renamed or linked has another time of change, but that cannot be set. */
	return r->todo[object].work & (TREE_WRITE | TREE_ATTRIBUTES)
		       ? tree_set_attributes(fd, name, o, err)
		       : 0;
}

static int do_name(struct tree_restore *r, uint32_t dir, int fd, const struct tree_entry *e,
		   struct err *err)
{
	struct tree_todo *todo = &r->todo[e->object];
	bool first = !(todo->work & TREE_PLACED) || (todo->dir == dir && todo->name == e->name);
	int result = 0;

	if (tree_name_is_right(r, dir, e))
		result = 0;
	else if (todo->work & (TREE_PLACED | TREE_STASHED))
		result = link_name(r, fd, e->name, e->object, err);
	else
		result = tree_make_object(r, fd, e->name, e->object, err);
	if (result == 0 && first && !(todo->work & TREE_MAKE))
		result = change(r, fd, e->name, e->object, err);
	if (result < 0)
		return err_wrap(err, "%s", e->name);
	if (first) {
		todo->work |= TREE_PLACED;
		todo->dir = dir;
		todo->name = e->name;
	}
	return 0;
}

static int do_directory(struct tree_restore *r, uint32_t dir, struct err *err)
{
	const struct tree_object *d = &r->want.objects[dir];
	cleanup_fd int fd = open_dir_of(r, &r->want, dir, err);

	for (uint32_t i = 0; fd >= 0 && i < d->n_entries; i++)
		if (do_name(r, dir, fd, &d->entries[i], err) < 0)
			return -1;
	return fd < 0 ? -1 : 0;
}

/* Working in a directory changes its times, so they come last; inner ones first. */
static int set_directories(struct tree_restore *r, struct err *err)
{
	for (uint32_t i = r->n_dirs; i-- > 0;) {
		cleanup_fd int fd = open_dir_of(r, &r->want, r->dirs[i], err);

		if (fd < 0 || tree_set_attributes(fd, ".", &r->want.objects[r->dirs[i]], err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the root ------------------------------------------------------------------------------ */

static int make_root(struct tree_restore *r, struct err *err)
{
	char parent[PATH_MAX];

	if (r->walk.root >= 0)
		return 0;
	snprintf(parent, sizeof(parent), "%s", r->model->path);
	if (make_dirs(dirname(parent), 0755, err) < 0)
		return -1;
	if (mkdir(r->model->path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, "%s", r->model->path);
	return tree_walk_begin(&r->walk, r->model->path, err);
}

static int remove_root(struct tree_restore *r, struct err *err)
{
	if (r->walk.root < 0)
		return 0;
	if (remove_all(r, err) < 0)
		return -1;
	if (rmdir(r->model->path) < 0 && errno != ENOENT)
		log_warn("%s was not there at the snapshot, and stays: %s", r->model->path,
			 strerror(errno));
	return 0;
}

static int apply(struct tree_restore *r, struct err *err)
{
	if (r->want.n == 0)
		return remove_root(r, err);
	if (make_root(r, err) < 0 || stash_all(r, err) < 0 || remove_all(r, err) < 0)
		return -1;
	for (uint32_t i = 0; i < r->n_dirs; i++)
		if (do_directory(r, r->dirs[i], err) < 0)
			return -1;
	if (remove_stash(r, err) < 0)
		return -1;
	return set_directories(r, err);
}

int tree_restore_apply(struct tree_restore *r, struct err *err)
{
	if (apply(r, err) < 0)
		return err_wrap(err, "putting directory %s back", r->model->path);
	log_info("directory %s: %u removed, %u made, %u changed", r->model->path, r->removed,
		 r->made, r->changed);
	return 0;
}
