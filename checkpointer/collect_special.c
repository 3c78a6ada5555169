#include "checkpointer/descriptor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "store/base/cleanup.h"

/*
 * Descriptors that have a path or none, and are no files with content: of pseudo file systems, namespaces,
 * processes, and paths themselves (O_PATH).
 */

#define DELETED " (deleted)"

#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446 /* include/uapi/linux/magic.h, Linux 6.9 */
#endif
#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202 /* ipc/mqueue.c */
#endif

static bool ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_pseudo(long type)
{
	switch (type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case SECURITYFS_MAGIC:
		return true;
	default:
		return false;
	}
}

/* A symbolic link that is gone is made again. */
static int set_target(const struct descriptor *d, Snap__File *f, struct err *err)
{
	cleanup_fd int fd = open(d->path, O_PATH | O_CLOEXEC);
	char target[PATH_MAX];
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", target, sizeof(target) - 1);

	if (n < 0)
		return err_sys(err, "cannot read the symbolic link %s", d->link);
	target[n] = '\0';
	return snap_set_string(&f->target, target) < 0 ? err_sys(err, "symbolic link %s", d->link) : 0;
}

/* A file whose content is the kernel's: only its path counts. */
static int add_path(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		    const char *name, Snap__OpenFile *o, struct err *err)
{
	o->offset = d->info.pos;
	if (file_table_add(c, d->path, name, false, &o->file, err) < 0)
		return err_wrap(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	if (S_ISLNK(d->st.st_mode) && set_target(d, c->model->files[o->file], err) < 0)
		return -1;
	if (c->model->files[o->file]->policy == SNAP__FILE__POLICY__IDENTITY &&
	    !c->model->files[o->file]->content)
		c->model->files[o->file]->policy = SNAP__FILE__POLICY__LEAVE;
	return 0;
}

static bool is_of_job(const struct collection *c, long vpid)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->processes[i].frozen->vpid == vpid)
			return true;
	return false;
}

/* Of a process that has ended: one that has its number for a moment opens it again. */
static int describe_ended(struct collection *c, const struct collected_process *p, const struct descriptor *d,
			  int32_t pid, Snap__OpenFile *o, struct err *err)
{
	cleanup_free char *name = strdup(d->link);

	if (!name)
		return err_sys(err, "name of a /proc file");
	if (c->config->root.attached || c->config->new_ids)
		return descriptor_refuse(p, d, "a /proc file of a process outside the job, or that has ended", err);
	if (ends_with(name, DELETED))
		name[strlen(name) - strlen(DELETED)] = '\0';
	o->kind = SNAP__OPEN_FILE__KIND__INSIDE;
	o->pid = pid;
	return add_path(c, p, d, name, o, err);
}

/* A thread opens it where only the first thread is there yet when descriptors are: its own is that of the process. */
static bool is_of_other_thread(const char *link, long pid)
{
	const char *task = strstr(link, "/task/");

	return task && task[6] && strtol(task + 6, NULL, 10) != pid;
}

/* Opened again by the process itself: what it shows depends on who opens it. */
static int describe_proc(struct collection *c, const struct collected_process *p,
			 const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	long pid = strncmp(d->link, "/proc/", 6) == 0 ? strtol(d->link + 6, NULL, 10) : 0;
	bool ours = is_of_job(c, pid);

	if (is_of_other_thread(d->link, pid))
		return descriptor_refuse(p, d, "a /proc file of a single thread", err);
	if (pid > 1 && !ours)
		return describe_ended(c, p, d, (int32_t)pid, o, err);
	if (ends_with(d->link, DELETED))
		return descriptor_refuse(p, d, "a /proc file of a process that has ended, whose number another "
					       "one has now", err);
	o->kind = SNAP__OPEN_FILE__KIND__INSIDE;
	return add_path(c, p, d, d->link, o, err);
}

/* "net:[4026531840]". Those that processes of the job are in come back as theirs. */
static int describe_namespace(struct collection *c, const struct collected_process *p,
			      const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	char path[64], target[64], name[64];
	int kind = (int)strcspn(d->link, ":");

	for (size_t i = 0; i < c->n; i++) {
		const struct frozen_process *f = c->processes[i].frozen;
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/ns/%.*s", f->pid, kind, d->link);
		n = f->zombie ? -1 : readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		if (strcmp(target, d->link) != 0)
			continue;
		snprintf(name, sizeof(name), "/proc/%d/ns/%.*s", f->vpid, kind, d->link);
		o->kind = SNAP__OPEN_FILE__KIND__INSIDE;
		return add_path(c, p, d, name, o, err);
	}
	return descriptor_refuse(p, d, "a namespace that no process of the job is in", err);
}

int32_t vtid_of(const struct collection *c, pid_t tid)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct frozen_process *f = c->processes[i].frozen;

		if (f->pid == tid)
			return f->vpid;
		for (size_t j = 0; j < f->n_threads; j++)
			if (f->threads[j]->tracee.tid == tid)
				return f->threads[j]->vtid;
	}
	return 0;
}

static int describe_pidfd(const struct collection *c, const struct collected_process *p,
			  const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	o->kind = SNAP__OPEN_FILE__KIND__PIDFD;
	o->pid = d->info.pidfd_pid > 0 ? vtid_of(c, d->info.pidfd_pid) : 0;
	if (d->info.pidfd_pid > 0 && !o->pid)
		return descriptor_refuse(p, d, "a pidfd of a process outside the job", err);
	if (o->pid && !is_of_job(c, o->pid))
		return descriptor_refuse(p, d, "a pidfd of a single thread", err);
	if (!o->pid && d->fs_type == PID_FS_MAGIC)
		o->object = d->st.st_ino;
	return 0;
}

static int describe_fifo(struct collection *c, const struct collected_process *p,
			 const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	if (add_path(c, p, d, d->link, o, err) < 0)
		return -1;
	o->offset = 0;
	return describe_pipe(c, p, d, o, err);
}

static int describe_o_path(struct collection *c, const struct collected_process *p,
			   const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	if (d->link[0] != '/')
		return descriptor_refuse(p, d, "an O_PATH descriptor without a path", err);
	if (d->st.st_nlink == 0 && (S_ISCHR(d->st.st_mode) || S_ISBLK(d->st.st_mode)))
		return descriptor_refuse(p, d, "an O_PATH descriptor of a device whose name is gone", err);
	o->kind = SNAP__OPEN_FILE__KIND__FILE;
	return add_path(c, p, d, d->link, o, err);
}

int describe_special(struct collection *c, struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, bool *ret_done, struct err *err)
{
	*ret_done = true;
	if (d->info.has_pidfd)
		return describe_pidfd(c, p, d, o, err);
	if (is_pty(&d->st) && !(d->info.flags & O_PATH))
		return describe_pty(c, p, d, o, err);
	if (d->fs_type == PROC_SUPER_MAGIC)
		return describe_proc(c, p, d, o, err);
	if (d->fs_type == NSFS_MAGIC)
		return describe_namespace(c, p, d, o, err);
	if (d->info.flags & O_PATH)
		return describe_o_path(c, p, d, o, err);
	if (S_ISFIFO(d->st.st_mode) && d->link[0] == '/')
		return describe_fifo(c, p, d, o, err);
	if (is_pseudo(d->fs_type)) {
		o->kind = SNAP__OPEN_FILE__KIND__FILE;
		return add_path(c, p, d, d->link, o, err);
	}
	*ret_done = false;
	return 0;
}

/* ---- another name -------------------------------------------------------------------------- */

/* In the directory that it was in. */
static int find_beside(const struct collected_process *p, const struct descriptor *d, char *name, size_t len)
{
	size_t n = strlen(d->link) - strlen(DELETED);
	cleanup_free char *dir = NULL;
	cleanup_dir DIR *entries = NULL;
	const char *slash;
	struct dirent *e;

	if (d->st.st_nlink == 0 || !ends_with(d->link, DELETED) || !(slash = memrchr(d->link, '/', n)) ||
	    asprintf(&dir, "/proc/%d/root%.*s/", p->frozen->pid, (int)(slash - d->link), d->link) < 0)
		return -1;
	entries = opendir(dir);
	while (entries && (e = readdir(entries))) {
		struct stat st;

		if (e->d_ino == d->st.st_ino && fstatat(dirfd(entries), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    st.st_ino == d->st.st_ino && st.st_dev == d->st.st_dev)
			return snprintf(name, len, "%.*s/%s", (int)(slash - d->link), d->link, e->d_name) <
					       (int)len
				       ? 0
				       : -1;
	}
	return -1;
}

int find_other_name(const struct collection *c, const struct collected_process *p, const struct descriptor *d,
		    char *name, size_t len)
{
	const struct proc_watch inode = {
		.inode = d->st.st_ino, .major = major(d->st.st_dev), .minor = minor(d->st.st_dev)};

	if (d->st.st_nlink == 0 || !ends_with(d->link, DELETED))
		return -1;
	return find_beside(p, d, name, len) == 0 ? 0 : path_of_watched(c, p, &inode, name, len);
}

/* ---- who gets signals, leases -------------------------------------------------------------- */

static int32_t owner_of(const struct collection *c, const struct f_owner_ex *owner)
{
	if (owner->type != F_OWNER_PGRP)
		return vtid_of(c, owner->pid);
	for (size_t i = 0; i < c->n; i++)
		if (c->processes[i].frozen->stat.pgid == owner->pid)
			return c->processes[i].frozen->vpgid;
	return 0;
}

int describe_owner(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		   Snap__OpenFile *o, struct err *err)
{
	struct f_owner_ex owner = {0};
	cleanup_fd int fd = -1;
	int lease;

	if (d->info.flags & O_PATH || o->kind == SNAP__OPEN_FILE__KIND__STREAM ||
	    o->kind == SNAP__OPEN_FILE__KIND__TERMINAL)
		return 0;
	fd = descriptor_fetch(p, d->fd, err);
	if (fd < 0)
		return -1;
	if (fcntl(fd, F_GETOWN_EX, &owner) == 0 && owner.pid > 0) {
		o->owner = owner_of(c, &owner);
		o->owner_type = owner.type;
		o->owner_signal = fcntl(fd, F_GETSIG);
	}
	lease = S_ISREG(d->st.st_mode) ? fcntl(fd, F_GETLEASE) : F_UNLCK;
	o->lease = lease == F_RDLCK || lease == F_WRLCK ? 1 + lease : 0;
	if (lease == F_WRLCK && o->file >= 0) {
		if ((d->info.flags & O_ACCMODE) == O_WRONLY)
			return descriptor_refuse(p, d, "a lease on a file that is open for writing only", err);
		c->sources[o->file].leased = 1 + steal_fd(&fd);
	}
	/* dnotify marks are nowhere to be seen, but whoever sets one becomes the owner (fs/notify/dnotify). */
	if (S_ISDIR(d->st.st_mode) && owner.pid > 0)
		return descriptor_refuse(p, d, "a directory watched with F_NOTIFY", err);
	return 0;
}
