/*
 * The capsule's own /dev/shm. Its regular files are put back like all files of the job; here is the
 * rest: directories first, and what belongs to names when the files are there.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/rebuild.h"
#include "store/base/log.h"
#include "store/base/units.h"

#define PATH_ROOM (PATH_MAX + 64)

int private_make(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__PrivateEntry *e = rec->model->private_entries[index];
	char buf[PATH_ROOM];
	const char *path = capsule_path(rec, e->path, buf, sizeof(buf));
	int result = 0;

	if (S_ISDIR(e->mode))
		result = mkdir(path, 0700);
	else if (S_ISLNK(e->mode))
		result = symlink(e->target, path);
	else if (!S_ISREG(e->mode))
		result = mknod(path, (e->mode & S_IFMT) | 0600, (dev_t)e->rdev);
	return result < 0 ? err_sys(err, "%s", e->path) : 0;
}

static int link_again(struct recovery *rec, const Snap__PrivateEntry *e, const char *path, struct err *err)
{
	const char *first = rec->model->files[e->file]->path;
	char buf[PATH_ROOM];

	if (strcmp(first, e->path) == 0 ||
	    linkat(AT_FDCWD, capsule_path(rec, first, buf, sizeof(buf)), AT_FDCWD, path, 0) == 0)
		return 0;
	return err_sys(err, "%s as another name of %s", e->path, first);
}

int private_finish(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__PrivateEntry *e = rec->model->private_entries[index];
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
				    {.tv_sec = (time_t)(e->mtime / NSEC_PER_SEC),
				     .tv_nsec = (long)(e->mtime % NSEC_PER_SEC)}};
	char buf[PATH_ROOM];
	const char *path = capsule_path(rec, e->path, buf, sizeof(buf));

	if (S_ISREG(e->mode))
		return link_again(rec, e, path, err);
	if (lchown(path, e->uid, e->gid) < 0)
		log_debug("%s: owner %u:%u not restored: %s", e->path, e->uid, e->gid, strerror(errno));
	if (!S_ISLNK(e->mode) && chmod(path, e->mode & 07777) < 0)
		return err_sys(err, "mode of %s", e->path);
	if (utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) < 0)
		log_debug("%s: time not restored: %s", e->path, strerror(errno));
	return 0;
}
