#include "store/treewalk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"

int open_beneath(int root, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};

	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static enum tree_kind kind_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return TREE_REGULAR;
	case S_IFDIR:
		return TREE_DIRECTORY;
	case S_IFLNK:
		return TREE_SYMLINK;
	case S_IFIFO:
		return TREE_FIFO;
	case S_IFSOCK:
		return TREE_SOCKET;
	case S_IFCHR:
		return TREE_CHARACTER;
	default:
		return TREE_BLOCK;
	}
}

static int64_t nanoseconds(const struct timespec *ts)
{
	return (int64_t)((uint64_t)ts->tv_sec * NSEC_PER_SEC + (uint64_t)ts->tv_nsec);
}

void tree_object_from_stat(struct tree_object *o, const struct stat *st)
{
	o->kind = kind_of(st->st_mode);
	o->mode = st->st_mode & 07777;
	o->uid = st->st_uid;
	o->gid = st->st_gid;
	o->nlink = (uint32_t)st->st_nlink;
	o->device = st->st_dev;
	o->inode = st->st_ino;
	o->rdev = st->st_rdev;
	o->size = o->kind == TREE_REGULAR ? (uint64_t)st->st_size : 0;
	o->mtime = nanoseconds(&st->st_mtim);
	o->ctime = nanoseconds(&st->st_ctim);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Its owner may have taken the permission to read it away, from itself too. */
static int open_own(int root, const char *path, int flags)
{
	cleanup_fd int fd = open_beneath(root, path, O_PATH | O_NOFOLLOW);
	char proc[64];
	struct stat st;
	int opened;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (st.st_uid != geteuid() || S_ISLNK(st.st_mode)) {
		errno = EACCES;
		return -1;
	}
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (chmod(proc, (st.st_mode & 07777) | (S_ISDIR(st.st_mode) ? 0700 : 0400)) < 0)
		return -1;
	opened = open(proc, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	if (chmod(proc, st.st_mode & 07777) < 0 && opened >= 0) {
		close(opened);
		return -1;
	}
	return opened;
}

static int open_path(const struct tree_walk *walk, const char *path, int flags)
{
	int fd = open_beneath(walk->root, path, flags | O_NOFOLLOW | O_NOATIME);

	if (fd < 0 && errno == EPERM)
		fd = open_beneath(walk->root, path, flags | O_NOFOLLOW);
	if (fd < 0 && errno == EACCES && walk->still)
		fd = open_own(walk->root, path, flags);
	return fd;
}

int tree_walk_open(struct tree_walk *walk, uint32_t object, int flags)
{
	char path[TREE_PATH_ROOM];

	if (tree_path(walk->tree, object, path, sizeof(path)) < 0) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return open_path(walk, path, flags | O_NONBLOCK | O_NOCTTY);
}

/* ---- reading directories ------------------------------------------------------------------- */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while reading a directory tree");
}

static int enqueue(struct tree_walk *walk, uint32_t dir, struct err *err)
{
	if (walk->n_queue == walk->queue_room) {
		size_t room = walk->queue_room ? walk->queue_room * 2 : 64;
		uint32_t *more = reallocarray(walk->queue, room, sizeof(*more));

		if (!more)
			return no_memory(err);
		walk->queue = more;
		walk->queue_room = room;
	}
	walk->queue[walk->n_queue++] = dir;
	return 0;
}

/* The object that this inode is, new or known; *ret TREE_NOWHERE where it is to be passed over. */
static int object_of(struct tree_walk *walk, const struct stat *st, uint32_t *ret, struct err *err)
{
	struct tree *tree = walk->tree;
	uint32_t known, id;

	*ret = TREE_NOWHERE;
	if (st->st_dev == walk->spared.device && st->st_ino == walk->spared.inode)
		return 0;
	known = tree_index_find(&walk->index, tree, st->st_dev, st->st_ino);
	if (known != TREE_NOWHERE && tree->objects[known].kind == kind_of(st->st_mode)) {
		struct tree_object *o = &tree->objects[known];
		struct tree_object was = *o;

		tree_object_from_stat(o, st);
		/* Changed since it was looked at, or another one that was given the number of one
		 * that is gone. */
		if (o->size != was.size || o->mtime != was.mtime || o->ctime != was.ctime)
			o->mark |= TREE_READ_AGAIN;
		*ret = known;
		return 0;
	}
	id = tree_add(tree);
	if (id == TREE_NOWHERE)
		return no_memory(err);
	tree_object_from_stat(&tree->objects[id], st);
	tree->objects[id].mark = TREE_READ_AGAIN;
	/* The number of one that is gone, given to a new one: the index must find the new one. */
	if (known != TREE_NOWHERE) {
		tree->objects[known].inode = 0;
		tree->objects[known].device = 0;
	}
	if (tree_index_add(&walk->index, tree, id) < 0)
		return no_memory(err);
	*ret = id;
	return tree->objects[id].kind == TREE_DIRECTORY ? enqueue(walk, id, err) : 0;
}

/* Adds a name that readdir has shown. A name that is gone again is none. */
static int add_name(struct tree_walk *walk, uint32_t dir, int fd, const char *name, struct err *err)
{
	struct tree *tree = walk->tree;
	struct stat st;
	uint32_t id;
	char *copy;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return errno == ENOENT ? 0 : err_sys(err, "%s", name);
	if (object_of(walk, &st, &id, err) < 0)
		return -1;
	if (id == TREE_NOWHERE)
		return 0;
	copy = strdup(name);
	if (!copy || tree_append(tree, dir, copy, id) < 0)
		return no_memory(err);
	tree->objects[id].parent = dir;
	tree->objects[id].name = copy;
	return 0;
}

/* A name that was there before, and whose inode has the same number, keeps its object. */
static bool keep_name(struct tree_walk *walk, uint32_t dir, struct tree_object *old,
		      const struct dirent *d)
{
	struct tree_entry *e = tree_find(old, d->d_name);
	char *name;

	if (!e || walk->tree->objects[e->object].inode != d->d_ino ||
	    walk->tree->objects[e->object].mark & TREE_LOOK_AGAIN)
		return false;
	name = strdup(d->d_name);
	if (!name || tree_append(walk->tree, dir, name, e->object) < 0)
		return false;
	walk->tree->objects[e->object].parent = dir;
	walk->tree->objects[e->object].name = name;
	return true;
}

static int read_names(struct tree_walk *walk, uint32_t dir, int fd, struct tree_object *old,
		      struct err *err)
{
	cleanup_dir DIR *stream = NULL;
	struct dirent *d;
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (copy < 0)
		copy = dup(fd); /* no permission to search it any more */
	stream = copy >= 0 ? fdopendir(copy) : NULL;
	if (!stream)
		return err_sys(err, "directory");
	for (;;) {
		errno = 0;
		d = readdir(stream);
		if (!d)
			break;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
		    keep_name(walk, dir, old, d))
			continue;
		if (add_name(walk, dir, fd, d->d_name, err) < 0)
			return -1;
	}
	if (errno)
		return err_sys(err, "directory");
	tree_sort(&walk->tree->objects[dir]);
	return 0;
}

/* A directory whose permission to be searched is missing lets names be read, but not looked up. */
static int read_names_still(struct tree_walk *walk, uint32_t dir, int fd, struct tree_object *old,
			    struct err *err)
{
	struct stat st;
	bool lent = walk->still && fstat(fd, &st) == 0 && (st.st_mode & 0500) != 0500 &&
		    st.st_uid == geteuid() && st.st_uid != 0 &&
		    fchmod(fd, (st.st_mode & 07777) | 0500) == 0;
	int result = read_names(walk, dir, fd, old, err);

	if (lent && fchmod(fd, st.st_mode & 07777) < 0 && result == 0)
		result = err_sys(err, "mode of a directory");
	return result;
}

/* The descriptor of a directory; -1 with *ret_gone where that is no error. */
static int enter(struct tree_walk *walk, uint32_t dir, const char *path, bool *ret_gone,
		 struct err *err)
{
	struct tree_object *o = &walk->tree->objects[dir];
	int fd = open_path(walk, path, O_RDONLY | O_DIRECTORY);

	struct stat st;

	*ret_gone = true;
	o->flags &= ~(unsigned)TREE_BOUNDARY;
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == o->inode && st.st_dev == o->device)
		return fd;
	if (fd >= 0) { /* another one is there now */
		close(fd);
		errno = ENOENT;
	}
	if (errno == EXDEV) {
		o->flags |= TREE_BOUNDARY;
		return -1;
	}
	o->mark |= TREE_READ_AGAIN;
	if (walk->still) {
		*ret_gone = false;
		return err_sys(err, "%s", path);
	}
	return -1;
}

/* Objects that have not been found again are without a path. */
static void forget_names(struct tree *tree, struct tree_object *old)
{
	for (uint32_t i = 0; i < old->n_entries; i++) {
		struct tree_object *o = &tree->objects[old->entries[i].object];

		if (o->name == old->entries[i].name) {
			o->name = NULL;
			o->parent = TREE_NOWHERE;
		}
	}
	tree_free_entries(old);
}

static int read_directory(struct tree_walk *walk, uint32_t dir, struct err *err)
{
	char path[TREE_PATH_ROOM];
	struct tree_object old = walk->tree->objects[dir];
	cleanup_fd int fd = -1;
	bool gone;
	int result;

	if (tree_path(walk->tree, dir, path, sizeof(path)) < 0)
		return err_set(err, ERR_UNSUPPORTED, "a path in a directory tree is too long");
	walk->tree->objects[dir].entries = NULL;
	walk->tree->objects[dir].n_entries = 0;
	walk->tree->objects[dir].mark &= (uint8_t)~TREE_READ_AGAIN;
	fd = enter(walk, dir, path, &gone, err);
	if (fd < 0)
		result = gone ? 0 : -1;
	else if (walk->entered && walk->entered(walk->ctx, dir, fd, err) < 0)
		result = -1;
	else
		result = read_names_still(walk, dir, fd, &old, err);
	forget_names(walk->tree, &old);
	if (result < 0 && fd >= 0)
		return err_wrap(err, "%s", path);
	return result;
}

static int read_queued(struct tree_walk *walk, struct err *err)
{
	while (walk->n_queue)
		if (read_directory(walk, walk->queue[--walk->n_queue], err) < 0)
			return -1;
	return 0;
}

int tree_walk_begin(struct tree_walk *walk, const char *path, struct err *err)
{
	walk->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (walk->root < 0 && errno == EACCES)
		walk->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (walk->root >= 0 || errno == ENOENT)
		return 0;
	if (errno == ENOTDIR || errno == ELOOP)
		return err_set(err, ERR_UNSUPPORTED, "%s is no directory", path);
	return err_sys(err, "%s", path);
}

int tree_walk_all(struct tree_walk *walk, struct err *err)
{
	struct stat st;
	uint32_t id;

	if (walk->root < 0)
		return 0;
	if (fstat(walk->root, &st) < 0)
		return err_sys(err, "directory tree");
	if (object_of(walk, &st, &id, err) < 0)
		return -1;
	return read_queued(walk, err);
}

int tree_walk_again(struct tree_walk *walk, uint32_t dir, struct err *err)
{
	if (enqueue(walk, dir, err) < 0)
		return -1;
	return read_queued(walk, err);
}

bool tree_walk_look(struct tree_walk *walk, uint32_t object)
{
	struct tree_object *o = &walk->tree->objects[object];
	char path[TREE_PATH_ROOM];
	cleanup_fd int fd = -1;
	struct stat st;

	if (tree_path(walk->tree, object, path, sizeof(path)) < 0)
		return false;
	fd = open_beneath(walk->root, path, O_PATH | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 && errno == EXDEV; /* another file system's root: left alone */
	if (st.st_dev != o->device || st.st_ino != o->inode || kind_of(st.st_mode) != o->kind)
		return false;
	tree_object_from_stat(o, &st);
	return true;
}

void tree_walk_end(struct tree_walk *walk)
{
	if (walk->root >= 0)
		close(walk->root);
	walk->root = -1;
	free(walk->queue);
	walk->queue = NULL;
	walk->n_queue = walk->queue_room = 0;
	tree_index_clear(&walk->index);
}
