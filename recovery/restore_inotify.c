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

/* What we have open for writing of files without a path becomes what only leads to them: by its end the job, or
 * whoever watches their directory, would be told of a file closed. */
static void keep_names(struct recovery *rec)
{
	for (size_t i = 0; i < rec->model->n_files; i++) {
		struct file_slot *slot = &rec->files[i];
		char path[64];
		int name;

		if (slot->fd < 0 || fcntl(slot->fd, F_GETFL) & O_PATH)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", slot->fd);
		name = open(path, O_PATH | O_CLOEXEC);
		if (name < 0)
			continue;
		close(slot->fd);
		slot->fd = name;
	}
}

/* What is watched may have come back as another inode, or be gone: an instance with a watch less
 * would wait for ever. */
static int add_watch(struct recovery *rec, int fd, const Snap__InotifyWatch *w, struct err *err)
{
	char buf[PATH_MAX + 64];
	const char *path = w->file ? buf : capsule_path(rec, w->path, buf, sizeof(buf));
	int32_t next = w->wd;
	int wd;

	if (w->file)
		snprintf(buf, sizeof(buf), "/proc/self/fd/%d", rec->files[w->file - 1].fd);
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

	keep_names(rec);
	for (size_t i = 0; i < open->n_watches; i++)
		if (add_watch(rec, rec->open_fds[index], open->watches[i], err) < 0)
			return err_wrap(err, "inotify instance of open file %zu", index);
	return 0;
}
