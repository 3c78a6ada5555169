/*
 * Inotify instances. The kernel tells of a watch which inode it is on, not by which path it was
 * asked for: find_watched.c looks for one. Events that wait to be read could not be put back, only
 * made anew: where there are any, the snapshot waits for the job to read them, and is refused if it
 * does not.
 */
#include "checkpointer/descriptor.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "store/base/cleanup.h"

int describe_inotify(struct collection *c, const struct collected_process *p,
		     const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	cleanup_fd int fd = descriptor_fetch(p, d->fd, err);
	int unread = 0;

	if (fd < 0)
		return -1;
	o->kind = SNAP__OPEN_FILE__KIND__INOTIFY;
	if (ioctl(fd, FIONREAD, &unread) < 0)
		return err_sys(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	if (!unread)
		return 0;
	c->passing = true;
	return descriptor_refuse(p, d, "an inotify instance with events that the job has not read",
				 err);
}

static int refuse(const struct collected_process *p, int fd, const struct proc_watch *w,
		  struct err *err)
{
	char label[96];

	return err_set(err, ERR_UNSUPPORTED,
		       "%s: fd %d: an inotify instance that watches inode %llu of device %u:%u, "
		       "whose path "
		       "cannot be found (a directory given with --save-dir is searched)",
		       process_label(p->frozen, label, sizeof(label)), fd,
		       (unsigned long long)w->inode, w->major, w->minor);
}

/* What has no path any more, but is open or mapped or somebody's working directory. */
static int32_t find_removed(const struct collection *c, const struct proc_watch *w)
{
	for (size_t i = 0; i < c->model->n_files; i++) {
		const Snap__File *f = c->model->files[i];

		if (f->deleted && f->inode == w->inode && f->device == makedev(w->major, w->minor))
			return (int32_t)i;
	}
	return -1;
}

static int add_watch(struct collection *c, const struct collected_process *p, int fd,
		     Snap__OpenFile *o, const struct proc_watch *w, struct err *err)
{
	char path[PATH_MAX];
	Snap__InotifyWatch *added;
	int32_t file = find_removed(c, w);

	if (file >= 0)
		snprintf(path, sizeof(path), "%s", c->model->files[file]->path);
	else if (path_of_watched(c, p, w, path, sizeof(path)) < 0)
		return refuse(p, fd, w, err);
	added = snap_append(&o->watches, &o->n_watches, Snap__InotifyWatch,
			    SNAP__INOTIFY_WATCH__INIT);
	if (!added || snap_set_string(&added->path, path) < 0)
		return err_set(err, ERR_SYSTEM, "out of memory while describing inotify instances");
	added->file = 1 + file;
	added->wd = w->wd;
	added->mask = w->mask;
	return 0;
}

static int compare_wd(const void *a, const void *b)
{
	const struct proc_watch *x = a, *y = b;

	return (x->wd > y->wd) - (x->wd < y->wd);
}

static int add_watches(struct collection *c, size_t open_file, struct err *err)
{
	const struct collected_process *p;
	cleanup_free struct proc_watch *list = NULL;
	size_t n;
	int fd;

	if (!find_holder(c, open_file, &p, &fd))
		return refusals_go_on(&c->refusals,
				      err_set(err, ERR_UNSUPPORTED,
					      "an inotify instance that is in flight in a socket"),
				      err);
	if (proc_read_inotify(p->frozen->pid, fd, &list, &n, err) < 0)
		return -1;
	if (n)
		qsort(list, n, sizeof(*list), compare_wd);
	for (size_t i = 0; i < n; i++)
		if (refusals_go_on(
			    &c->refusals,
			    add_watch(c, p, fd, c->model->open_files[open_file], &list[i], err),
			    err) < 0)
			return -1;
	return 0;
}

int collect_watches(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->model->n_open_files; i++)
		if (c->model->open_files[i]->kind == SNAP__OPEN_FILE__KIND__INOTIFY &&
		    add_watches(c, i, err) < 0)
			return -1;
	return 0;
}
