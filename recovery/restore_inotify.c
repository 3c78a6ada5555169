/* Inotify instances, and what they watch. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "recovery/rebuild.h"

#ifndef INOTIFY_IOC_SETNEXTWD
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t) /* include/uapi/linux/inotify.h, Linux 4.17 */
#endif

int open_inotify(struct recovery *rec, size_t index, struct err *err)
{
	int fd = inotify_init1(IN_CLOEXEC);

	rec->open_fds[index] = fd;
	if (fd < 0 || set_nonblock(fd, rec->model->open_files[index]->flags) < 0)
		return err_sys(
			err,
			"inotify instance of open file %zu (see fs.inotify.max_user_instances)",
			index);
	return 0;
}

/* How to reach what has no path. What we have open of it for writing is closed before: the job would be told. */
static const char *removed_path(struct recovery *rec, size_t file, char *buf, size_t len)
{
	struct file_slot *slot = &rec->files[file];
	int name;

	snprintf(buf, len, "/proc/self/fd/%d", slot->fd);
	name = open(buf, O_PATH | O_CLOEXEC);
	if (name >= 0) {
		close(slot->fd);
		slot->fd = name;
		snprintf(buf, len, "/proc/self/fd/%d", name);
	}
	return buf;
}

/* What is watched may have come back as another inode, or be gone: an instance with a watch less
 * would wait for ever. */
static int add_watch(struct recovery *rec, int fd, const Snap__InotifyWatch *w, struct err *err)
{
	char buf[PATH_MAX + 64];
	const char *path = w->file ? removed_path(rec, (size_t)w->file - 1, buf, sizeof(buf))
				   : capsule_path(rec, w->path, buf, sizeof(buf));
	int32_t next = w->wd;
	int wd;

	if (ioctl(fd, INOTIFY_IOC_SETNEXTWD, next) < 0)
		return err_set(err, ERR_UNSUPPORTED,
			       "watch %d on %s: this kernel does not let its number be chosen: %s",
			       w->wd, w->path, strerror(errno));
	wd = inotify_add_watch(fd, path, w->mask);
	if (wd < 0)
		return err_sys(err, "watch %d on %s (see fs.inotify.max_user_watches)", w->wd,
			       w->path);
	if (wd != w->wd)
		return err_set(err, ERR_UNSUPPORTED, "watch %d on %s: it was given number %d",
			       w->wd, w->path, wd);
	return 0;
}

int inotify_watch(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];

	for (size_t i = 0; i < open->n_watches; i++)
		if (add_watch(rec, rec->open_fds[index], open->watches[i], err) < 0)
			return err_wrap(err, "inotify instance of open file %zu", index);
	return 0;
}
