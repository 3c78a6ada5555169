#include "checkpointer/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

/*
 * Pipes and locks. pidfd_getfd(2) (Linux 5.6) gives us the very same open file
 * description, so contents are looked at without taking anything out and without calls in the process.
 */

int descriptor_fetch(const struct collected_process *p, int fd, struct err *err)
{
	cleanup_fd int pidfd = tracee_pidfd(p->frozen->pid);
	int mine = -1;

	if (pidfd >= 0)
		mine = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	return mine < 0 ? err_sys(err, "process %d: fd %d", p->frozen->vpid, fd) : mine;
}

/* ---- pipes --------------------------------------------------------------------------------- */

/* A read returns one packet, or everything up to the next packet. */
static int read_copy(int out, size_t n, char *buf, Snap__OpenFile *o)
{
	size_t done = 0;

	o->packets = calloc(n, sizeof(*o->packets));
	if (!o->packets)
		return -1;
	while (done < n) {
		ssize_t got = read(out, buf + done, n - done);

		if (got <= 0)
			return -1;
		o->packets[o->n_packets++] = (uint32_t)got;
		done += (size_t)got;
	}
	return 0;
}

/* tee(2) into a pipe of our own, which is then read: the original keeps its content. */
static int copy_pipe(int fd, int capacity, Snap__OpenFile *o, struct err *err)
{
	cleanup_free char *buf = NULL;
	cleanup_fd int in = -1, out = -1;
	int pair[2], queued = 0;
	ssize_t n;

	if (ioctl(fd, FIONREAD, &queued) == 0 && queued == 0)
		return 0;
	buf = malloc((size_t)capacity);
	if (!buf || pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "copy of a pipe");
	out = pair[0];
	in = pair[1];
	/* Whose user has many is given small ones, and may not make them larger (pipe(7), pipe-user-pages-soft). */
	if (fcntl(in, F_SETPIPE_SZ, capacity) < 0 && errno != EPERM)
		return err_sys(err, "copy of a pipe of %d bytes", capacity);
	n = tee(fd, in, (size_t)capacity, SPLICE_F_NONBLOCK);
	if (n < 0 && errno != EAGAIN)
		return err_sys(err, "copy of a pipe");
	if (n < queued)
		return err_set(err, ERR_UNSUPPORTED, "a pipe with %d bytes in it, where its user has more pipes than may be "
						     "large (pipe-user-pages-soft)", queued);
	if (n <= 0)
		return 0;
	if (read_copy(out, (size_t)n, buf, o) < 0 || snap_set_bytes(&o->queue, buf, (size_t)n) < 0)
		return err_sys(err, "copy of a pipe");
	return 0;
}

static bool queue_is_known(const struct collection *c, uint64_t object)
{
	for (int32_t i = -1; (i = numbers_next(&c->pipes, object, i)) >= 0;)
		if (c->model->open_files[i]->queue.len)
			return true;
	return false;
}

int describe_pipe(struct collection *c, const struct collected_process *p,
		  const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	bool reads = (d->info.flags & O_ACCMODE) == O_RDONLY, both = (d->info.flags & O_ACCMODE) == O_RDWR;
	cleanup_fd int fd = descriptor_fetch(p, d->fd, err);
	int capacity;

	if (fd < 0)
		return -1;
	capacity = fcntl(fd, F_GETPIPE_SZ);
	if (capacity <= 0)
		return err_sys(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	o->kind = SNAP__OPEN_FILE__KIND__PIPE;
	o->object = d->st.st_ino ^ (o->file >= 0 ? (uint64_t)d->st.st_dev << 32 : 0);
	o->capacity = (uint32_t)capacity;
	o->hung_up = descriptor_inherited(c, d) ||
		     has_event(fd, reads ? POLLIN : POLLOUT, reads ? POLLHUP : POLLERR);
	if (!(reads || both) || queue_is_known(c, o->object))
		return 0;
	return copy_pipe(fd, capacity, o, err);
}

/* ---- locks --------------------------------------------------------------------------------- */

static Snap__FileLock *append_lock(struct collected_process *p, Snap__OpenFile *o,
				   const struct proc_lock *lock)
{
	if (lock->kind == PROC_LOCK_POSIX)
		return snap_append(&p->model->locks, &p->model->n_locks, Snap__FileLock,
				   SNAP__FILE_LOCK__INIT);
	return snap_append(&o->locks, &o->n_locks, Snap__FileLock, SNAP__FILE_LOCK__INIT);
}

/* A process's lock shows with each of its descriptors of the file: it is taken again through one that may. */
static bool is_taken_elsewhere(const struct collected_process *p, const struct descriptor *d,
			       const struct proc_lock *lock)
{
	unsigned access = d->info.flags & O_ACCMODE;

	if (lock->kind != PROC_LOCK_POSIX)
		return false;
	if (access != O_RDWR && access != (lock->write ? O_WRONLY : O_RDONLY))
		return true;
	for (size_t i = 0; i < p->model->n_locks; i++) {
		const Snap__FileLock *known = p->model->locks[i];
		char path[64];
		struct stat st;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", p->frozen->pid, known->fd);
		if (known->start == lock->start && known->end == lock->end && stat(path, &st) == 0 &&
		    st.st_ino == d->st.st_ino && st.st_dev == d->st.st_dev)
			return true;
	}
	return false;
}

static int describe_lock(const struct collection *c, struct collected_process *p, const struct descriptor *d,
			 Snap__OpenFile *o, const struct proc_lock *lock, struct err *err)
{
	static const Snap__FileLock__Kind kinds[] = {
		[PROC_LOCK_POSIX] = SNAP__FILE_LOCK__KIND__POSIX,
		[PROC_LOCK_FLOCK] = SNAP__FILE_LOCK__KIND__FLOCK,
		[PROC_LOCK_OFD] = SNAP__FILE_LOCK__KIND__OFD,
	};
	Snap__FileLock *m;

	/* Leases are asked of the description itself (describe_owner). */
	if (lock->kind == PROC_LOCK_LEASE || is_taken_elsewhere(p, d, lock))
		return 0;
	m = append_lock(p, o, lock);
	if (!m)
		return err_sys(err, "list of locks");
	m->kind = kinds[lock->kind];
	m->write = lock->write;
	m->start = lock->start;
	m->end = lock->end;
	m->fd = d->fd;
	if (lock->kind == PROC_LOCK_FLOCK && lock->pid)
		m->pid = vtid_of(c, lock->pid);
	return 0;
}

/* o NULL: only those of the process. */
int describe_locks(const struct collection *c, struct collected_process *p, const struct descriptor *d,
		   Snap__OpenFile *o, struct err *err)
{
	if (d->info.n_locks > PROC_MAX_LOCKS)
		return descriptor_refuse(p, d, "a file with more locks than can be saved", err);
	for (size_t i = 0; i < d->info.n_locks; i++) {
		const struct proc_lock *lock = &d->info.locks[i];

		if ((o || lock->kind == PROC_LOCK_POSIX) && describe_lock(c, p, d, o, lock, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- ends ---------------------------------------------------------------------------------- */

static bool has_other_end(const struct collection *c, const Snap__OpenFile *o)
{
	for (int32_t i = -1; (i = numbers_next(&c->pipes, o->object, i)) >= 0;)
		if ((c->model->open_files[i]->flags & O_ACCMODE) != (o->flags & O_ACCMODE))
			return true;
	return false;
}

static int refuse_half(const struct collection *c, size_t index, struct err *err)
{
	for (size_t i = 0; i < c->n; i++) {
		const Snap__Process *m = c->processes[i].model;

		for (size_t j = 0; m && j < m->n_fds; j++)
			if (m->fds[j]->open_file == (int32_t)index)
				return err_set(err, ERR_UNSUPPORTED,
					       "process %d (%s): fd %d: a pipe whose other end is outside the job",
					       m->pid, c->processes[i].frozen->stat.comm,
					       m->fds[j]->number);
	}
	return err_set(err, ERR_UNSUPPORTED, "a pipe whose other end is outside the job");
}

int check_both_ends(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->model->n_open_files; i++) {
		const Snap__OpenFile *o = c->model->open_files[i];
		/* Opened through /proc for both, it is its own other end. */
		bool pipe = o->kind == SNAP__OPEN_FILE__KIND__PIPE && (o->flags & O_ACCMODE) != O_RDWR;

		if (pipe && !o->hung_up && o->file < 0 && !has_other_end(c, o) &&
		    refusals_go_on(&c->refusals, refuse_half(c, i, err), err) < 0)
			return -1;
	}
	return 0;
}
