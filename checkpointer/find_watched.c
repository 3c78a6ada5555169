/*
 * A path to an inode that a job watches, or has open under a name that it has no more. An ordinary user cannot ask the kernel for it
 * (open_by_handle_at(2) is for root; since Linux 6.13 also for directories whose parents all are
 * one's own, below one of a mount namespace of one's own), so places are tried where the job may
 * have it from, the likely ones first: where it was found for the snapshot before, what the job has
 * open or mapped, its arguments, its working directories, the directories of its files, and at last
 * whole trees.
 */
#include "checkpointer/descriptor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "checkpointer/tracee/inside.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define ENTRIES_MOST 200000 /* looked at in one tree, while the job stands still */
#define LEVELS_MOST  16

struct search {
	const struct collection *c;
	const struct proc_watch *watch;
	pid_t root; /* whose root directory paths begin at */
	char *path;
	size_t len;
	unsigned entries;
};

/* Whether `path` of the job leads there; then that is the result. */
static bool leads_there(struct search *s, const char *path)
{
	cleanup_free char *ours = NULL;
	struct stat st;

	if (path[0] != '/' || asprintf(&ours, "/proc/%d/root%s", s->root, path) < 0 ||
	    stat(ours, &st) < 0 || st.st_ino != s->watch->inode ||
	    st.st_dev != makedev(s->watch->major, s->watch->minor))
		return false;
	return snprintf(s->path, s->len, "%s", path) < (int)s->len;
}

static bool try_below(struct search *s, const char *dir, const char *name)
{
	cleanup_free char *path = NULL;

	if (name[0] == '/')
		return leads_there(s, name);
	return asprintf(&path, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) >= 0 &&
	       leads_there(s, path);
}

/* ---- what the job is known to have --------------------------------------------------------- */

static bool try_last(struct search *s)
{
	const Snap__Snapshot *last = s->c->config->last;

	for (size_t i = 0; last && i < last->n_files; i++)
		if (last->files[i]->inode == s->watch->inode && leads_there(s, last->files[i]->path))
			return true;
	for (size_t i = 0; last && i < last->n_open_files; i++)
		for (size_t k = 0; k < last->open_files[i]->n_watches; k++)
			if (leads_there(s, last->open_files[i]->watches[k]->path))
				return true;
	return false;
}

static bool try_files(struct search *s)
{
	for (size_t i = 0; i < s->c->model->n_files; i++) {
		const Snap__File *f = s->c->model->files[i];

		if (!f->deleted && f->inode == s->watch->inode && leads_there(s, f->path))
			return true;
	}
	return false;
}

/* Arguments that are paths, or end in one as "--file=PATH" does. */
static bool try_arguments(struct search *s, const struct collected_process *p)
{
	cleanup_free char *text = NULL;
	char path[64];
	size_t len;
	struct err ignored;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", p->frozen->pid);
	if (!p->model->cwd || read_text(AT_FDCWD, path, &text, &len, &ignored) < 0)
		return false;
	for (const char *at = text; at < text + len; at += strlen(at) + 1) {
		const char *value = strchr(at, '=');

		if (*at && (try_below(s, p->model->cwd, at) ||
			    (value && value[1] && try_below(s, p->model->cwd, value + 1))))
			return true;
	}
	return false;
}

/* Directly in a directory. */
static bool try_entries(struct search *s, const char *dir)
{
	cleanup_free char *ours = NULL;
	cleanup_dir DIR *entries = NULL;
	struct dirent *e;

	if (dir[0] != '/' || asprintf(&ours, "/proc/%d/root%s", s->root, dir) < 0)
		return false;
	entries = opendir(ours);
	while (entries && (e = readdir(entries)))
		if (e->d_ino == s->watch->inode && strcmp(e->d_name, ".") != 0 &&
		    strcmp(e->d_name, "..") != 0 && try_below(s, dir, e->d_name))
			return true;
	return false;
}

/* A directory itself, and what is in it. */
static bool try_directory(struct search *s, const char *dir)
{
	return leads_there(s, dir) || try_entries(s, dir);
}

static bool try_parents_of_files(struct search *s)
{
	char dir[PATH_MAX], last[PATH_MAX] = "";

	for (size_t i = 0; i < s->c->model->n_files; i++) {
		const Snap__File *f = s->c->model->files[i];
		const char *slash = f->path ? strrchr(f->path, '/') : NULL;

		if (!slash || f->path[0] != '/' || slash - f->path >= PATH_MAX)
			continue;
		snprintf(dir, sizeof(dir), "%.*s", slash == f->path ? 1 : (int)(slash - f->path),
			 f->path);
		if (strcmp(dir, last) != 0 && try_directory(s, dir))
			return true;
		memcpy(last, dir, sizeof(last));
	}
	return false;
}

static bool try_processes(struct search *s)
{
	static const char *const common[] = {"/",    "/tmp", "/var/tmp", "/dev/shm", "/dev",
					     "/etc", "/usr", "/var",	 "/var/log", "/home"};

	for (size_t i = 0; i < s->c->n; i++) {
		const struct collected_process *p = &s->c->processes[i];

		if (p->model && p->model->cwd &&
		    (try_arguments(s, p) || try_directory(s, p->model->cwd)))
			return true;
	}
	for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
		if (try_directory(s, common[i]))
			return true;
	return false;
}

/* ---- by handle ----------------------------------------------------------------------------- */

struct handle_try {
	struct search *s;
	bool found;
};

static bool open_handle(struct search *s, const char *dir)
{
	union {
		struct file_handle head;
		char room[sizeof(struct file_handle) + PROC_MAX_HANDLE];
	} handle = {.head = {.handle_bytes = s->watch->handle_bytes,
			     .handle_type = s->watch->handle_type}};
	cleanup_fd int mount = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_fd int fd = -1;

	memcpy(handle.head.f_handle, s->watch->handle, s->watch->handle_bytes);
	if (mount >= 0)
		fd = open_by_handle_at(mount, &handle.head, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 && fchdir(fd) == 0 && getcwd(s->path, s->len) && s->path[0] == '/';
}

/* From dir and from all above it: those that are not one's own, or have mounts below that the
 * capsule has inherited, do not serve (fs/fhandle.c, may_decode_fh). */
static bool open_handle_above(struct search *s, const char *dir)
{
	cleanup_free char *at = strdup(dir);
	char *slash;

	while (at && at[0] == '/') {
		if (open_handle(s, at))
			return true;
		slash = strrchr(at, '/');
		if (at[1] == '\0')
			break;
		slash[slash == at ? 1 : 0] = '\0';
	}
	return false;
}

static int try_handle_inside(void *ctx, struct err *err)
{
	struct handle_try *t = ctx;
	const struct collection *c = t->s->c;

	(void)err;
	for (size_t i = 0; i < c->n && !t->found; i++)
		t->found = c->processes[i].model && c->processes[i].model->cwd &&
			   open_handle_above(t->s, c->processes[i].model->cwd);
	if (!t->found && getenv("HOME"))
		t->found = open_handle_above(t->s, getenv("HOME"));
	return 0;
}

/* Only where that is another process, whose working directory is its own to change. */
static bool try_handle(struct search *s)
{
	struct handle_try t = {.s = s};
	cleanup_free char *path = NULL;
	struct err ignored;
	bool apart;

	if (!s->watch->handle_bytes || inside_is_apart(s->root, &apart, &ignored) < 0 || !apart ||
	    inside_run(s->root, try_handle_inside, &t, &ignored) < 0 || !t.found)
		return false;
	path = strdup(s->path);
	return path && leads_there(s, path);
}

/* ---- trees --------------------------------------------------------------------------------- */

static bool try_tree(struct search *s, const char *dir, int level)
{
	cleanup_free char *ours = NULL;
	cleanup_dir DIR *entries = NULL;
	struct dirent *e;
	struct stat st;

	if (level > LEVELS_MOST || asprintf(&ours, "/proc/%d/root%s", s->root, dir) < 0)
		return false;
	entries = opendir(ours);
	/* A mount point's inode number is that of what is mounted there only for stat(2). */
	if (entries && (fstat(dirfd(entries), &st) < 0 ||
			st.st_dev != makedev(s->watch->major, s->watch->minor)))
		return false;
	while (entries && (e = readdir(entries)) && s->entries++ < ENTRIES_MOST) {
		cleanup_free char *child = NULL;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    asprintf(&child, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, e->d_name) < 0)
			continue;
		if ((e->d_ino == s->watch->inode && leads_there(s, child)) ||
		    (e->d_type == DT_DIR && try_tree(s, child, level + 1)))
			return true;
	}
	return false;
}

static bool try_trees(struct search *s, const struct collected_process *p)
{
	for (size_t i = 0; i < s->c->config->n_save_dirs; i++) {
		s->entries = 0;
		if (leads_there(s, s->c->config->save_dirs[i]) ||
		    try_tree(s, s->c->config->save_dirs[i], 0))
			return true;
	}
	s->entries = 0;
	if (p->model->cwd && try_tree(s, p->model->cwd, 0))
		return true;
	s->entries = 0;
	return try_tree(s, "/", 0);
}

int path_of_watched(const struct collection *c, const struct collected_process *p,
		    const struct proc_watch *watch, char *path, size_t len)
{
	struct search s = {
		.c = c, .watch = watch, .root = p->frozen->pid, .path = path, .len = len};

	return try_last(&s) || try_files(&s) || try_processes(&s) || try_parents_of_files(&s) ||
			       try_handle(&s) || try_trees(&s, p)
		       ? 0
		       : -1;
}
