#include "checkpointer/collect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"

/*
 * The capsule's own /dev/shm: POSIX shared memory and named semaphores. The whole tree belongs to the job,
 * whoever has it open or mapped just now.
 */

#define MOST_LEVELS 32

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing /dev/shm");
}

static int read_target(const char *path, Snap__PrivateEntry *e, struct err *err)
{
	char target[4096];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return err_sys(err, "%s", e->path);
	target[n] = '\0';
	return snap_set_string(&e->target, target) < 0 ? no_memory(err) : 0;
}

/* Nothing tells when shared memory was written through a mapping: its times prove nothing. */
static int add_content(struct collection *c, const char *path, Snap__PrivateEntry *e, struct err *err)
{
	if (file_table_add(c, path, e->path, true, &e->file, err) < 0)
		return -1;
	c->sources[e->file].mapped_shared = true;
	return 0;
}

/* Sockets are made again by those who have them. */
static int add_entry(struct collection *c, const char *path, const char *name, const struct stat *st,
		     struct err *err)
{
	Snap__PrivateEntry *e;

	if (S_ISSOCK(st->st_mode))
		return 0;
	e = snap_append(&c->model->private_entries, &c->model->n_private_entries, Snap__PrivateEntry,
			SNAP__PRIVATE_ENTRY__INIT);
	if (!e || snap_set_string(&e->path, name) < 0)
		return no_memory(err);
	e->mode = st->st_mode;
	e->uid = st->st_uid;
	e->gid = st->st_gid;
	e->rdev = st->st_rdev;
	e->mtime = (uint64_t)st->st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st->st_mtim.tv_nsec;
	e->file = -1;
	if (S_ISLNK(st->st_mode))
		return read_target(path, e, err);
	return S_ISREG(st->st_mode) ? add_content(c, path, e, err) : 0;
}

static int add_directory(struct collection *c, const char *path, const char *name, int level,
			 struct err *err);

static int add_child(struct collection *c, const char *dir, const char *dir_name, const char *child,
		     int level, struct err *err)
{
	cleanup_free char *path = NULL, *name = NULL;
	struct stat st;

	if (asprintf(&path, "%s/%s", dir, child) < 0 || asprintf(&name, "%s/%s", dir_name, child) < 0)
		return no_memory(err);
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(err, "%s", name);
	if (add_entry(c, path, name, &st, err) < 0)
		return -1;
	return S_ISDIR(st.st_mode) ? add_directory(c, path, name, level + 1, err) : 0;
}

static int add_directory(struct collection *c, const char *path, const char *name, int level,
			 struct err *err)
{
	cleanup_dir DIR *dir = opendir(path);
	struct dirent *d;

	if (!dir)
		return err_sys(err, "%s", name);
	if (level > MOST_LEVELS)
		return err_set(err, ERR_UNSUPPORTED, "%s: more than %d levels of directories", name,
			       MOST_LEVELS);
	while ((errno = 0, d = readdir(dir)))
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0 &&
		    add_child(c, path, name, d->d_name, level, err) < 0)
			return -1;
	return errno ? err_sys(err, "%s", name) : 0;
}

int collect_shm(struct collection *c, struct err *err)
{
	struct stat ours, theirs;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/root" SHM_DIR, c->config->root.pid);
	/* A job that was started without a capsule shares it with the machine: what it has open or mapped
	 * is saved, the rest is not its own. */
	if (stat(path, &theirs) < 0 || (stat(SHM_DIR, &ours) == 0 && ours.st_dev == theirs.st_dev))
		return 0;
	return add_directory(c, path, SHM_DIR, 0, err);
}
