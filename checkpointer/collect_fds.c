#include "checkpointer/collect.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "checkpointer/descriptor.h"
#include "store/base/cleanup.h"
#include "store/base/parallel.h"
#include "store/base/search.h"

/*
 * Descriptors, and the open file descriptions that they lead to.
 *
 * A job may have hundreds of thousands: what /proc tells of them is read by several threads, some hundreds at a
 * time. Most that a forked process has it has inherited, under the same number: then one question tells so, and
 * only what is its own is read.
 */

#define AT_A_TIME 256u
#define WORTH     32u /* so many make a thread worth starting */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing descriptors");
}

/* ---- reading ------------------------------------------------------------------------------- */

static int read_file(const struct collected_process *p, struct descriptor *d, struct err *err)
{
	struct statfs fs;
	ssize_t n;

	snprintf(d->path, sizeof(d->path), "/proc/%d/fd/%d", p->frozen->pid, d->fd);
	n = readlink(d->path, d->link, sizeof(d->link) - 1);
	if (n < 0 || stat(d->path, &d->st) < 0 || statfs(d->path, &fs) < 0)
		return err_sys(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	d->link[n] = '\0';
	d->fs_type = fs.f_type;
	return 0;
}

int descriptor_read(const struct collected_process *p, int fd, struct descriptor *d, struct err *err)
{
	d->fd = fd;
	if (read_file(p, d, err) < 0)
		return -1;
	return proc_read_fdinfo(p->frozen->pid, fd, &d->info, err);
}

/* ---- descriptions --------------------------------------------------------------------------- */

bool find_holder(const struct collection *c, size_t open_file, const struct collected_process **ret,
		 int *ret_fd)
{
	for (size_t i = 0; i < c->n; i++) {
		const Snap__Process *m = c->processes[i].model;

		for (size_t j = 0; m && j < m->n_fds; j++)
			if (m->fds[j]->open_file == (int32_t)open_file) {
				*ret = &c->processes[i];
				*ret_fd = m->fds[j]->number;
				return true;
			}
	}
	return false;
}

/* What describe() may have put into a description that is not added. Returns -1. */
static int clear_open_file(Snap__OpenFile *o)
{
	for (size_t i = 0; i < o->n_locks; i++)
		snap__file_lock__free_unpacked(o->locks[i], NULL);
	free(o->locks);
	for (size_t i = 0; i < o->n_watched; i++)
		snap__epoll_entry__free_unpacked(o->watched[i], NULL);
	free(o->watched);
	if (o->timer)
		snap__timer_fd__free_unpacked(o->timer, NULL);
	free(o->queue.data);
	return -1;
}

/* A description that no earlier descriptor has. */
static int add_open_file(struct collection *c, struct collected_process *p, struct descriptor *d,
			 struct shared_entry *entry, struct err *err)
{
	Snap__OpenFile o = SNAP__OPEN_FILE__INIT, *added;

	if (describe_open_file(c, p, d, &o, err) < 0 || describe_owner(c, p, d, &o, err) < 0)
		return clear_open_file(&o);
	added = snap_append(&c->model->open_files, &c->model->n_open_files, Snap__OpenFile,
			    SNAP__OPEN_FILE__INIT);
	if (!added) {
		no_memory(err);
		return clear_open_file(&o);
	}
	*added = o;
	entry->open_file = (int32_t)c->model->n_open_files - 1;
	if (o.kind == SNAP__OPEN_FILE__KIND__PIPE && numbers_add(&c->pipes, o.object, entry->open_file, err) < 0)
		return -1;
	return shared_add(&c->shared, entry, err);
}

int descriptor_open_file(struct collection *c, struct collected_process *p, struct descriptor *d,
			 int32_t *ret_id, struct err *err)
{
	struct shared_entry entry = {
		.device = d->st.st_dev, .inode = d->st.st_ino, .pid = p->frozen->pid, .fd = d->fd};
	int32_t id = shared_find(&c->shared, &entry);

	if (id < 0) {
		if (add_open_file(c, p, d, &entry, err) < 0)
			return -1;
		*ret_id = entry.open_file;
		return 0;
	}
	*ret_id = id;
	return describe_locks(c, p, d, NULL, err);
}

/* ---- of a process -------------------------------------------------------------------------- */

struct reading {
	struct descriptor d;
	int32_t inherited; /* the open file that it is, if that is known; -1 */
	int result;
	struct err err;
};

struct readings {
	const struct collected_process *p, *ancestor; /* ancestor: NULL or described already */
	const int *fds;
	struct reading *list;
};

/* Its parent, or else whoever was described last: children of one that has ended have the same. */
static const struct collected_process *find_ancestor(const struct collection *c, const struct collected_process *p)
{
	size_t index = (size_t)(p - c->processes);
	const struct collected_process *found = NULL;

	for (size_t i = 0; i < index; i++) {
		const struct collected_process *q = &c->processes[i];

		if (q->files != q || !q->model || !q->model->n_fds)
			continue;
		found = q;
		if (q->frozen->vpid == p->frozen->vppid)
			break;
	}
	return found;
}

/* They are in ascending order. */
const Snap__Fd *find_number(const Snap__Process *m, int number)
{
	size_t at = COUNT_BEFORE(m->n_fds, i, m->fds[i]->number < number);

	return at < m->n_fds && m->fds[at]->number == number ? m->fds[at] : NULL;
}

static int32_t find_inherited(const struct readings *r, int fd)
{
	const Snap__Fd *theirs = r->ancestor ? find_number(r->ancestor->model, fd) : NULL;

	if (!theirs || !shared_is_same(r->p->frozen->pid, fd, r->ancestor->frozen->pid, fd))
		return -1;
	return theirs->open_file;
}

/* The flag of the descriptor and the locks of the process are its own, whoever else has the description. */
static void read_one(void *ctx, size_t i)
{
	const struct readings *all = ctx;
	struct reading *r = &all->list[i];

	r->d.fd = all->fds[i];
	r->inherited = find_inherited(all, r->d.fd);
	r->result = proc_read_fdinfo(all->p->frozen->pid, r->d.fd, &r->d.info, &r->err);
	if (r->result == 0 && (r->inherited < 0 || r->d.info.has_lock))
		r->result = read_file(all->p, &r->d, &r->err);
}

static int add_descriptor(struct collection *c, struct collected_process *p, struct reading *r, struct err *err)
{
	struct descriptor *d = &r->d;
	int32_t id = r->inherited;
	Snap__Fd *fd;

	if (id < 0 && descriptor_open_file(c, p, d, &id, err) < 0)
		return -1;
	if (r->inherited >= 0 && d->info.has_lock && describe_locks(c, p, d, NULL, err) < 0)
		return -1;
	fd = snap_append(&p->model->fds, &p->model->n_fds, Snap__Fd, SNAP__FD__INIT);
	if (!fd)
		return no_memory(err);
	fd->number = d->fd;
	fd->open_file = id;
	fd->close_on_exec = d->info.flags & O_CLOEXEC;
	return 0;
}

static int add_some(struct collection *c, struct collected_process *p, struct readings *all, size_t n, struct err *err)
{
	parallel_do(n, WORTH, read_one, all);
	for (size_t i = 0; i < n; i++) {
		struct reading *r = &all->list[i];

		if (r->result < 0) {
			*err = r->err;
			return -1;
		}
		if (refusals_go_on(&c->refusals, add_descriptor(c, p, r, err), err) < 0)
			return -1;
	}
	return 0;
}

int collect_fds(struct collection *c, struct collected_process *p, struct err *err)
{
	struct readings all = {.p = p, .ancestor = find_ancestor(c, p)};
	cleanup_free struct reading *list = NULL;
	cleanup_free int *fds = NULL;
	size_t n;

	/* Rather than "fd": what is in there is opened, and the list makes that cheaper. */
	if (proc_list_numbers(p->frozen->pid, "fdinfo", &fds, &n, err) < 0)
		return -1;
	all.list = list = calloc(n < AT_A_TIME ? n + 1 : AT_A_TIME, sizeof(*list));
	if (!list)
		return no_memory(err);
	for (size_t done = 0; done < n; done += AT_A_TIME) {
		all.fds = fds + done;
		if (add_some(c, p, &all, n - done < AT_A_TIME ? n - done : AT_A_TIME, err) < 0)
			return -1;
	}
	return 0;
}
