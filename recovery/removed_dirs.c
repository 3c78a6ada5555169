/*
 * Directories that had been removed while a process was in them or had them open: made again where they were,
 * with those above that are gone too, opened or entered, and removed again. And what else has a name only.
 */
#include "recovery/removed_dirs.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_MISSING 64
#define PATH_ROOM    (PATH_MAX + 64)

/* A path, and where the names in it end that lead to nothing yet. */
struct missing {
	char path[PATH_ROOM];
	size_t ends[MOST_MISSING], n;
};

/* Another directory may have taken the name: then this one gets another. */
static int find_missing(struct recovery *rec, const char *path, struct missing *ret, struct err *err)
{
	char buf[2 * PATH_ROOM];
	size_t len, before = strlen(capsule_path(rec, "", buf, sizeof(buf)));

	ret->n = 0;
	if (access(capsule_path(rec, path, buf, PATH_ROOM), F_OK) == 0)
		len = (size_t)snprintf(ret->path, sizeof(ret->path), "%s.pawl-%d", path, (int)getpid());
	else
		len = (size_t)snprintf(ret->path, sizeof(ret->path), "%s", path);
	if (len >= PATH_MAX)
		return err_set(err, ERR_UNSUPPORTED, "removed directory %s: its path is too long", path);
	capsule_path(rec, ret->path, buf, sizeof(buf));
	for (size_t end = 1; end <= len; end++) {
		char after = buf[before + end];

		if (after != '/' && after != '\0')
			continue;
		buf[before + end] = '\0';
		if (access(buf, F_OK) < 0) {
			if (ret->n == MOST_MISSING)
				return err_set(err, ERR_UNSUPPORTED,
					       "removed directory %s: too many above it are gone", path);
			ret->ends[ret->n++] = end;
		}
		buf[before + end] = after;
	}
	return 0;
}

int queue_removed_directory(struct recovery *rec, struct batch *b, const Snap__Process *p, struct err *err)
{
	uint64_t at[MOST_MISSING];
	struct missing m;

	if (find_missing(rec, p->cwd, &m, err) < 0 ||
	    batch_room(b, 2 * m.n + 1, (m.n + 1) * (strlen(m.path) + 17), err) < 0)
		return -1;
	for (size_t i = 0; i < m.n; i++) {
		char *copy = strndup(m.path, m.ends[i]);

		at[i] = copy ? batch_push_string(b, copy) : 0;
		free(copy);
		if (batch_call(b, BATCH_MUST, err, SYS_mkdir, ARGS(at[i], 0700), "removed working directory %s",
			       p->cwd) < 0)
			return -1;
	}
	if (batch_call(b, BATCH_MUST, err, SYS_chdir, ARGS(batch_push_string(b, m.path)),
		       "removed working directory %s", p->cwd) < 0)
		return -1;
	for (size_t i = m.n; i-- > 0;)
		if (batch_call(b, BATCH_MUST, err, SYS_rmdir, ARGS(at[i]), "removed working directory %s",
			       p->cwd) < 0)
			return -1;
	return 0;
}

static int make_and_open(struct recovery *rec, const Snap__File *file, struct missing *m)
{
	char buf[2 * PATH_ROOM];
	int fd;

	for (size_t i = 0; i < m->n; i++) {
		char after = m->path[m->ends[i]];
		int made;

		m->path[m->ends[i]] = '\0';
		made = mkdir(capsule_path(rec, m->path, buf, sizeof(buf)), 0700);
		m->path[m->ends[i]] = after;
		if (made < 0)
			return -1;
	}
	capsule_path(rec, m->path, buf, sizeof(buf));
	fd = open(buf, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && chmod(buf, file->mode & 07777) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int make_directory(struct recovery *rec, const Snap__File *file, int *ret_fd, struct err *err)
{
	char buf[2 * PATH_ROOM];
	struct missing m;
	int result = 0;

	if (find_missing(rec, file->path, &m, err) < 0)
		return -1;
	*ret_fd = make_and_open(rec, file, &m);
	if (*ret_fd < 0)
		result = err_sys(err, "removed directory %s", file->path);
	for (size_t i = m.n; i-- > 0;) {
		m.path[m.ends[i]] = '\0';
		rmdir(capsule_path(rec, m.path, buf, sizeof(buf)));
	}
	return result;
}

/* Only sockets of all nodes may be made by everyone (mknod(2)). */
static int make_named(const Snap__File *file, const char *path)
{
	switch (file->kind) {
	case SNAP__FILE__KIND__LINK:
		return symlink(file->target, path);
	case SNAP__FILE__KIND__FIFO:
		return mknod(path, S_IFIFO | (file->mode & 0777), 0);
	default:
		return mknod(path, S_IFSOCK | (file->mode & 0777), 0);
	}
}

static int make_node(struct recovery *rec, const Snap__File *file, int *ret_fd, struct err *err)
{
	char dir[PATH_ROOM], buf[PATH_ROOM], path[2 * PATH_ROOM];

	snprintf(dir, sizeof(dir), "%s", capsule_path(rec, file->path, buf, sizeof(buf)));
	snprintf(path, sizeof(path), "%s/.pawl-node-%d-%llx", dirname(dir), (int)getpid(),
		 (unsigned long long)file->inode);
	if (make_named(file, path) < 0) {
		snprintf(path, sizeof(path), "%s/.pawl-node-%d-%llx", P_tmpdir, (int)getpid(),
			 (unsigned long long)file->inode);
		if (make_named(file, path) < 0)
			return err_sys(err, "in place of %s, which is gone", file->path);
	}
	*ret_fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		err_sys(err, "in place of %s, which is gone", file->path);
	unlink(path);
	return *ret_fd < 0 ? -1 : 0;
}

int removed_make(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[index];
	int fd;

	if (rec->files[index].fd >= 0)
		return 0;
	if ((file->kind == SNAP__FILE__KIND__DIRECTORY ? make_directory(rec, file, &fd, err)
						      : make_node(rec, file, &fd, err)) < 0)
		return -1;
	rec->files[index].fd = fd;
	return 0;
}

int stub_enter_removed(struct recovery *rec, struct stub *stub, struct err *err)
{
	size_t file = (size_t)stub->model->cwd_file - 1;
	struct batch b;
	int number;

	if (removed_make(rec, file, err) < 0 ||
	    stub_send(rec, stub, &rec->files[file].fd, 1, &number, err) < 0)
		return -1;
	batch_begin(&b, stub, &stub->threads[0]);
	if (batch_call(&b, BATCH_MUST, err, SYS_fchdir, ARGS((uint64_t)number), "removed working directory %s",
		       stub->model->cwd) < 0 ||
	    batch_call(&b, BATCH_MUST, err, SYS_close, ARGS((uint64_t)number), "close") < 0)
		return -1;
	stub->entered = true;
	return batch_run(&b, err);
}
