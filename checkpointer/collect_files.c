#include "checkpointer/collect.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "checkpointer/descriptor.h"
#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/units.h"

#define MQUEUE_MAGIC 0x19800202 /* ipc/mqueue.c */

#define DELETED " (deleted)"
#define MEM_MAJOR                                                                                  \
	1 /* /dev/null, zero, full, random, urandom (Documentation/admin-guide/devices.txt) */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing files");
}

/* ---- the file table ------------------------------------------------------------------------ */

static Snap__File *new_file(struct collection *c, uint64_t inode, int32_t *ret_id, struct err *err)
{
	struct file_source *more;
	Snap__File *f;

	more = reallocarray(c->sources, c->n_sources + 1, sizeof(*more));
	if (more) {
		c->sources = more;
		memset(&more[c->n_sources], 0, sizeof(*more));
	}
	f = more ? snap_append(&c->model->files, &c->model->n_files, Snap__File, SNAP__FILE__INIT)
		 : NULL;
	if (!f) {
		no_memory(err);
		return NULL;
	}
	f->inode = inode;
	*ret_id = (int32_t)c->n_sources++;
	return numbers_add(&c->files_by_inode, inode, *ret_id, err) < 0 ? NULL : f;
}

int32_t file_table_find_mapped(const struct collection *c, const struct proc_map *map)
{
	for (int32_t i = -1; (i = numbers_next(&c->files_by_inode, map->inode, i)) >= 0;) {
		const struct file_source *s = &c->sources[i];

		if ((s->kernel_dev_major == map->dev_major && s->kernel_dev_minor == map->dev_minor) ||
		    c->model->files[i]->device == makedev(map->dev_major, map->dev_minor))
			return i;
	}
	return -1;
}

static int32_t find_by_stat(const struct collection *c, const struct stat *st)
{
	for (int32_t i = -1; (i = numbers_next(&c->files_by_inode, st->st_ino, i)) >= 0;)
		if (c->model->files[i]->device == st->st_dev)
			return i;
	return -1;
}

static Snap__File__Kind kind_of_mode(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return SNAP__FILE__KIND__DIRECTORY;
	case S_IFCHR:
		return SNAP__FILE__KIND__CHARACTER;
	case S_IFBLK:
		return SNAP__FILE__KIND__BLOCK;
	case S_IFIFO:
		return SNAP__FILE__KIND__FIFO;
	case S_IFSOCK:
		return SNAP__FILE__KIND__SOCKET;
	case S_IFLNK:
		return SNAP__FILE__KIND__LINK;
	default:
		return SNAP__FILE__KIND__REGULAR;
	}
}

static uint64_t timespec_ns(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * NSEC_PER_SEC + (uint64_t)ts->tv_nsec;
}

static void fill_from_stat(Snap__File *f, const struct stat *st)
{
	f->kind = kind_of_mode(st->st_mode);
	f->device = st->st_dev;
	f->size = (uint64_t)st->st_size;
	f->mtime = timespec_ns(&st->st_mtim);
	f->ctime = timespec_ns(&st->st_ctim);
	f->mode = st->st_mode;
	f->uid = st->st_uid;
	f->gid = st->st_gid;
	f->rdev = st->st_rdev;
}

/* The name without what /proc puts around it; says whether the file has no path any more. */
static int set_name(Snap__File *f, const char *name, const struct stat *st, struct err *err)
{
	cleanup_free char *copy = strdup(name);
	size_t len = strlen(name), suffix = strlen(DELETED);
	const char *shown;

	if (!copy)
		return no_memory(err);
	if (st->st_nlink == 0)
		f->deleted = true;
	if (f->deleted && len > suffix && strcmp(copy + len - suffix, DELETED) == 0)
		copy[len - suffix] = '\0';
	shown = copy;
	if (strncmp(copy, "/memfd:", 7) == 0 && f->deleted) {
		f->kind = SNAP__FILE__KIND__MEMFD;
		shown += 7;
	}
	return snap_set_string(&f->path, shown) < 0 ? no_memory(err) : 0;
}

static enum file_policy policy_for(const struct checkpoint_config *config, const char *path)
{
	enum file_policy policy = FILES_SAVE;

	for (size_t i = 0; i < config->n_rules; i++)
		if (!config->rules[i].glob || fnmatch(config->rules[i].glob, path, 0) == 0)
			policy = config->rules[i].policy;
	return policy;
}

static bool is_below_shm(const char *path)
{
	return strncmp(path, SHM_DIR "/", strlen(SHM_DIR) + 1) == 0;
}

/* A file the job writes belongs to it: what happens to it is the user's choice. Memory has no
 * choice. */
static int apply_policy(struct collection *c, Snap__File *f, struct err *err)
{
	uint64_t limit = c->config->file_size_limit;

	if (f->kind != SNAP__FILE__KIND__REGULAR && f->kind != SNAP__FILE__KIND__MEMFD)
		return 0;
	if (f->kind == SNAP__FILE__KIND__MEMFD || is_below_shm(f->path)) {
		f->policy = SNAP__FILE__POLICY__RESTORE;
		f->content = true;
		return 0;
	}
	switch (policy_for(c->config, f->path)) {
	case FILES_SAVE:
		f->policy = SNAP__FILE__POLICY__RESTORE;
		f->content = true;
		if (limit && f->size > limit)
			return err_set(
				err, ERR_UNSUPPORTED,
				"%s is larger than the limit for saved files (see --max-file-size "
				"and --files)",
				f->path);
		return 0;
	case FILES_TRUNCATE:
		f->policy = SNAP__FILE__POLICY__TRUNCATE;
		return 0;
	case FILES_LEAVE:
		f->policy = SNAP__FILE__POLICY__LEAVE;
		return 0;
	case FILES_FAIL:
		return err_set(err, ERR_UNSUPPORTED, "%s is open for writing (--files fail)",
			       f->path);
	}
	return 0;
}

int file_table_own(struct collection *c, int32_t id, struct err *err)
{
	return apply_policy(c, c->model->files[id], err);
}

/* Below a directory of --save-dir, which saves and restores it whatever it is. */
static bool is_in_tree(const struct collection *c, const Snap__File *f)
{
	if (f->deleted || f->kind == SNAP__FILE__KIND__MEMFD)
		return false;
	for (size_t i = 0; i < c->config->n_save_dirs; i++) {
		size_t len = strlen(c->config->save_dirs[i]);

		if (strncmp(f->path, c->config->save_dirs[i], len) == 0 &&
		    (f->path[len] == '/' || f->path[len] == '\0'))
			return true;
	}
	return false;
}

/* Of a memfd. Whoever may open it may ask. */
static uint32_t read_seals(const char *path)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);

	return seals < 0 ? 0 : (uint32_t)seals;
}

/* Of a memfd of hugetlbfs (MFD_HUGETLB): the size of its pages. */
static uint64_t huge_page_of(const char *path, const struct stat *st)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)st->st_blksize : 0;
}

int file_table_add(struct collection *c, const char *path, const char *name, bool written,
		   int32_t *ret_id, struct err *err)
{
	struct stat st;
	int32_t id;
	Snap__File *f;

	if (stat(path, &st) < 0)
		return err_sys(err, "cannot look at %s", name);
	id = find_by_stat(c, &st);
	if (id < 0) {
		f = new_file(c, st.st_ino, &id, err);
		if (!f)
			return -1;
		fill_from_stat(f, &st);
		c->sources[id].path = strdup(path);
		if (!c->sources[id].path)
			return no_memory(err);
		if (set_name(f, name, &st, err) < 0)
			return -1;
		if (f->kind == SNAP__FILE__KIND__MEMFD) {
			f->seals = read_seals(path);
			f->huge_page = huge_page_of(path, &st);
		}
		/* Without a path, its content is all there is of it; /dev/shm will be empty. */
		written = written || f->deleted || is_below_shm(f->path);
		f->in_tree = is_in_tree(c, f);
		if (f->in_tree)
			f->policy = SNAP__FILE__POLICY__LEAVE;
	}
	f = c->model->files[id];
	if (written &&
	    (f->policy == SNAP__FILE__POLICY__IDENTITY || f->policy == SNAP__FILE__POLICY__INPUT) &&
	    apply_policy(c, f, err) < 0)
		return -1;
	*ret_id = id;
	return 0;
}

int file_source_add_piece(struct file_source *s, const struct file_piece *piece, struct err *err)
{
	struct file_piece *more;

	for (size_t i = 0; i < s->n_pieces; i++)
		if (s->pieces[i].offset <= piece->offset &&
		    s->pieces[i].offset + s->pieces[i].len >= piece->offset + piece->len)
			return 0;
	more = reallocarray(s->pieces, s->n_pieces + 1, sizeof(*more));
	if (!more)
		return no_memory(err);
	s->pieces = more;
	more[s->n_pieces++] = *piece;
	return 0;
}

int file_table_add_anonymous(struct collection *c, Snap__File__Kind kind, const char *name,
			     uint64_t device, uint64_t inode, uint64_t size, int32_t *ret_id,
			     struct err *err)
{
	int32_t id;
	Snap__File *f = new_file(c, inode, &id, err);

	if (!f)
		return -1;
	f->kind = kind;
	f->device = device;
	f->size = size;
	f->policy = SNAP__FILE__POLICY__RESTORE;
	f->content = true;
	f->deleted = true;
	f->mode = S_IFREG | 0700;
	if (snap_set_string(&f->path, name) < 0)
		return no_memory(err);
	*ret_id = id;
	return 0;
}

/* ---- descriptors --------------------------------------------------------------------------- */

int descriptor_refuse(const struct collected_process *p, const struct descriptor *d,
		      const char *what, struct err *err)
{
	char label[96];

	return err_set(err, ERR_UNSUPPORTED, "%s: fd %d: %s",
		       process_label(p->frozen, label, sizeof(label)), d->fd, what);
}

static bool matches(const struct capsule_stream *s, const struct stat *st)
{
	if (!s->used)
		return false;
	if (s->rdev)
		return S_ISCHR(st->st_mode) && st->st_rdev == s->rdev && st->st_dev == s->dev;
	return st->st_dev == s->dev && st->st_ino == s->ino;
}

bool stat_is_inherited(const struct collection *c, const struct stat *st)
{
	for (size_t i = 0; i < c->config->n_inherited; i++)
		if (matches(&c->config->inherited[i], st))
			return true;
	return false;
}

bool descriptor_inherited(const struct collection *c, const struct descriptor *d)
{
	return stat_is_inherited(c, &d->st);
}

/* Standard streams that pawl pumps, and the capsule's terminal. */
static bool match_stream(const struct collection *c, const struct descriptor *d, Snap__OpenFile *o)
{
	for (int i = 0; i < 3; i++)
		if (matches(&c->config->stream[i], &d->st)) {
			o->kind = SNAP__OPEN_FILE__KIND__STREAM;
			o->stream = i;
			return true;
		}
	if (matches(&c->config->terminal, &d->st)) {
		o->kind = SNAP__OPEN_FILE__KIND__TERMINAL;
		return true;
	}
	return false;
}

/* What users know it by, where the kernel's name differs. */
static const char *object_name(const char *link)
{
	static const char *const names[][2] = {
		{"anon_inode:[fanotify]", "a fanotify group"},
		{"anon_inode:[io_uring]", "an io_uring instance"},
		{"anon_inode:[userfaultfd]", "a userfaultfd"},
		{"anon_inode:[perf_event]", "a perf event"},
		{"anon_inode:bpf-map", "a BPF map"},
		{"anon_inode:bpf-prog", "a BPF program"},
		{"anon_inode:bpf_link", "a BPF link"},
		{"anon_inode:seccomp notify", "a listener to a seccomp filter"},
		{"/secretmem (deleted)", "secret memory (memfd_secret)"},
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(link, names[i][0]) == 0)
			return names[i][1];
	return link;
}

/* A queue is open like a file of its name, on a file system that is mounted nowhere (ipc/mqueue.c).
 */
static bool is_message_queue(const struct descriptor *d)
{
	return d->fs_type == MQUEUE_MAGIC;
}

static bool is_plain_device(const struct stat *st)
{
	return major(st->st_rdev) == MEM_MAJOR || st->st_rdev == makedev(5, 0);
}

/* A file that is to be put back must be found again: better refused now than at the recovery. */
static int check_reachable(const struct collection *c, const struct collected_process *p,
			   const struct descriptor *d, int32_t file, struct err *err)
{
	const Snap__File *f = c->model->files[file];
	cleanup_free char *path = NULL;
	struct stat st;

	if (f->deleted || f->kind != SNAP__FILE__KIND__REGULAR)
		return 0;
	if (asprintf(&path, "/proc/%d/root%s", p->frozen->pid, f->path) < 0)
		return no_memory(err);
	if (stat(path, &st) == 0 && st.st_ino == f->inode && st.st_dev == f->device)
		return 0;
	return err_set(err, ERR_UNSUPPORTED,
		       "process %d (%s): fd %d: %s is open, but that path does not lead to it",
		       p->frozen->vpid, p->frozen->stat.comm, d->fd, f->path);
}

/* A description that is a file (or directory, or harmless device) with a path or content. */
static int describe_file(struct collection *c, struct collected_process *p, struct descriptor *d,
			 Snap__OpenFile *o, struct err *err)
{
	bool writes = (d->info.flags & O_ACCMODE) != O_RDONLY;
	char name[sizeof(d->link)];

	if (S_ISBLK(d->st.st_mode) || (S_ISCHR(d->st.st_mode) && !is_plain_device(&d->st)))
		return descriptor_refuse(p, d, d->link, err);
	if (S_ISCHR(d->st.st_mode) && d->st.st_nlink == 0)
		return descriptor_refuse(p, d, "a device whose name is gone", err);
	if (d->link[0] != '/' || object_name(d->link) != d->link)
		return descriptor_refuse(p, d, object_name(d->link), err);
	o->kind = SNAP__OPEN_FILE__KIND__FILE;
	o->offset = d->info.pos;
	if (find_other_name(c, p, d, name, sizeof(name)) < 0)
		snprintf(name, sizeof(name), "%s", d->link);
	if (file_table_add(c, d->path, name, writes, &o->file, err) < 0)
		return err_wrap(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	if (!writes && !(d->info.flags & O_PATH))
		return describe_input(c, p, o->file, err);
	if (writes)
		c->sources[o->file].late = false;
	return writes ? check_reachable(c, p, d, o->file, err) : 0;
}

int describe_open_file(struct collection *c, struct collected_process *p, struct descriptor *d,
		       Snap__OpenFile *o, struct err *err)
{
	bool done;

	o->file = -1;
	o->flags = d->info.flags & ~(uint32_t)O_CLOEXEC;
	if (match_stream(c, d, o))
		return 0;
	if (d->info.has_lock && describe_locks(c, p, d, o, err) < 0)
		return -1;
	if (describe_special(c, p, d, o, &done, err) < 0)
		return -1;
	if (done)
		return 0;
	if (S_ISSOCK(d->st.st_mode)) {
		/* The rest when all descriptors are known (collect_sockets). */
		o->kind = SNAP__OPEN_FILE__KIND__SOCKET;
		o->object = d->st.st_ino;
		return 0;
	}
	if (S_ISFIFO(d->st.st_mode) && d->link[0] != '/')
		return describe_pipe(c, p, d, o, err);
	if (d->info.has_eventfd)
		return describe_eventfd(d, o);
	if (d->info.has_signalfd)
		return describe_signalfd(d, o);
	if (d->info.has_timerfd)
		return describe_timerfd(p, d, o, err);
	if (is_message_queue(d) && S_ISREG(d->st.st_mode))
		return describe_mqueue(c, p, d, o, err);
	if (strcmp(d->link, "anon_inode:inotify") == 0)
		return describe_inotify(c, p, d, o, err);
	if (strcmp(d->link, "anon_inode:[eventpoll]") == 0)
		return describe_epoll(p, d, o, err);
	return describe_file(c, p, d, o, err);
}
