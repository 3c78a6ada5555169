/*
 * Pipes and locks. Made here with what was unread in them, then
 * sent into the processes like any other description.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

#define PIPE_FLAGS (O_NONBLOCK | O_DIRECT) /* O_DIRECT: packets */

int set_nonblock(int fd, uint32_t flags)
{
	int now = fcntl(fd, F_GETFL);

	return now < 0 ? -1 : fcntl(fd, F_SETFL, (now & ~PIPE_FLAGS) | (int)(flags & PIPE_FLAGS));
}

/* The descriptions that are the same end of the same pipe, or the same socket, share what we made. */
static int give_to(struct recovery *rec, size_t index, int fd)
{
	const Snap__OpenFile *open = rec->model->open_files[index];

	rec->open_fds[index] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return rec->open_fds[index] < 0 ? -1 : set_nonblock(rec->open_fds[index], open->flags);
}

static bool reads(const Snap__OpenFile *open)
{
	return (open->flags & O_ACCMODE) == O_RDONLY;
}

/* A second description of an end that exists, or one that reads and writes: opened anew, so that its flags are
 * its own. */
static int give_pipe_end(struct recovery *rec, size_t index, const int ends[2], bool taken[2])
{
	const Snap__OpenFile *end = rec->model->open_files[index];
	int side = reads(end) ? 0 : 1;
	char path[64];

	if (!taken[side] && (end->flags & O_ACCMODE) != O_RDWR) {
		taken[side] = true;
		return give_to(rec, index, ends[side]);
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[side]);
	rec->open_fds[index] = open(path, (int)(end->flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC);
	return rec->open_fds[index] < 0 ? -1 : set_nonblock(rec->open_fds[index], end->flags);
}

/* Each packet is a write; so is what is no packet and was not split. */
static int write_packets(int in, const Snap__OpenFile *open)
{
	const uint8_t *at = open->queue.data;

	if (open->n_packets == 0)
		return open->queue.len ? write_full(in, at, open->queue.len) : 0;
	for (size_t i = 0; i < open->n_packets; at += open->packets[i++])
		if (write_full(in, at, open->packets[i]) < 0)
			return -1;
	return 0;
}

static int fill_pipe(int in, const Snap__OpenFile *open, bool packets)
{
	int flags = O_NONBLOCK | (packets || open->n_packets > 1 ? O_DIRECT : 0);

	/* Growing it beyond the user's share of pipe memory may be forbidden now; its content fits. */
	if (fcntl(in, F_SETPIPE_SZ, (int)open->capacity) < 0)
		log_debug("pipe of %u bytes: %s", open->capacity, strerror(errno));
	if (fcntl(in, F_SETFL, flags) < 0 || write_packets(in, open) < 0)
		return -1;
	return fcntl(in, F_SETFL, 0);
}

static bool is_of_pipe(const Snap__OpenFile *open, uint64_t object)
{
	return open->kind == SNAP__OPEN_FILE__KIND__PIPE && open->object == object;
}

static bool any_packets(const struct recovery *rec, uint64_t object)
{
	for (size_t i = 0; i < rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = rec->model->open_files[i];

		if (is_of_pipe(open, object) && open->flags & O_DIRECT)
			return true;
	}
	return false;
}

/* ---- named --------------------------------------------------------------------------------- */

static int find_or_make_fifo(struct recovery *rec, const Snap__File *file, char *path, size_t len,
			     struct err *err)
{
	char name[PATH_MAX + 64];
	struct stat st;

	snprintf(path, len, "%s", capsule_path(rec, file->path, name, sizeof(name)));
	if (file->deleted && snprintf(path, len, "%s/.pawl-fifo-%d-%llx", P_tmpdir, (int)getpid(),
				      (unsigned long long)file->inode) >= (int)len)
		return err_set(err, ERR_SYSTEM, "name of a FIFO");
	if (!file->deleted && lstat(path, &st) == 0)
		return S_ISFIFO(st.st_mode) ? 0
					    : err_set(err, ERR_UNSUPPORTED, "%s was a FIFO and is none any more",
						      file->path);
	if (mkfifo(path, 0600) < 0 || chmod(path, file->mode & 07777) < 0)
		return err_sys(err, "%s", file->path);
	return 0;
}

/* Whether somebody has had it open for writing: only then may we, or its readers would see an end of file
 * that never was. */
static bool was_written(const struct recovery *rec, uint64_t object)
{
	for (size_t i = 0; i < rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = rec->model->open_files[i];

		if (is_of_pipe(open, object) &&
		    (open->hung_up || open->queue.len || !reads(open)))
			return true;
	}
	return false;
}

static int open_fifo_end(struct recovery *rec, size_t index, const char *path)
{
	const Snap__OpenFile *end = rec->model->open_files[index];
	int fd = open(path, (int)(end->flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);

	rec->open_fds[index] = fd;
	return fd < 0 ? -1 : set_nonblock(fd, end->flags);
}

/* Every description opens the path; ours, which fills it, can do both and so waits for nobody. */
static int open_fifo_ends(struct recovery *rec, size_t index, const char *path, struct err *err)
{
	uint64_t object = rec->model->open_files[index]->object;
	bool written = was_written(rec, object);
	cleanup_fd int keeper = open(path, (written ? O_RDWR : O_RDONLY | O_NONBLOCK) | O_CLOEXEC);

	if (keeper < 0)
		return err_sys(err, "%s", path);
	for (size_t i = index; i < rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = rec->model->open_files[i];

		if (!is_of_pipe(open, object))
			continue;
		if ((written && (open->queue.len || i == index) &&
		     fill_pipe(keeper, open, any_packets(rec, object)) < 0) ||
		    open_fifo_end(rec, i, path) < 0)
			return err_sys(err, "%s", path);
	}
	return 0;
}

static int open_fifo(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__File *file = rec->model->files[rec->model->open_files[index]->file];
	char path[PATH_MAX + 128];
	int result;

	if (find_or_make_fifo(rec, file, path, sizeof(path), err) < 0)
		return -1;
	result = open_fifo_ends(rec, index, path, err);
	if (file->deleted)
		unlink(path);
	return result;
}

int open_pipe(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__Snapshot *model = rec->model;
	uint64_t object = model->open_files[index]->object;
	cleanup_fd int out = -1, in = -1;
	bool taken[2] = {false, false};
	int ends[2];

	if (rec->open_fds[index] >= 0)
		return 0; /* made with its other end */
	if (rec->model->open_files[index]->file >= 0)
		return open_fifo(rec, index, err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, "pipe");
	out = ends[0];
	in = ends[1];
	/* Filled before an end is given away: filling changes flags, which then are the job's. */
	for (size_t i = index; i < model->n_open_files; i++)
		if (is_of_pipe(model->open_files[i], object) &&
		    (i == index || model->open_files[i]->queue.len) &&
		    fill_pipe(in, model->open_files[i], any_packets(rec, object)) < 0)
			return err_sys(err, "pipe of open file %zu", i);
	for (size_t i = index; i < model->n_open_files; i++)
		if (is_of_pipe(model->open_files[i], object) && give_pipe_end(rec, i, ends, taken) < 0)
			return err_sys(err, "pipe of open file %zu", i);
	return 0;
}

/* ---- locks --------------------------------------------------------------------------------- */

static struct flock to_flock(const Snap__FileLock *lock)
{
	return (struct flock){
		.l_type = lock->write ? F_WRLCK : F_RDLCK,
		.l_whence = SEEK_SET,
		.l_start = (off_t)lock->start,
		.l_len = lock->end == UINT64_MAX ? 0 : (off_t)(lock->end - lock->start + 1),
	};
}

/* The process that took it, if it has the description yet, else the first that has: /proc/locks shows who it is, and
 * whether it is one that can be seen. NULL: the description is in flight. */
static const Snap__Process *taker(const Snap__Snapshot *model, size_t index, const Snap__FileLock *lock)
{
	const Snap__Process *first = NULL;

	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		for (size_t j = 0; j < p->n_fds && (!first || p->pid == lock->pid); j++) {
			if (p->fds[j]->open_file != (int32_t)index)
				continue;
			if (p->pid == lock->pid)
				return p;
			first = p;
		}
	}
	return first;
}

static uint64_t flock_operation(const Snap__FileLock *lock)
{
	return (uint64_t)((lock->write ? LOCK_EX : LOCK_SH) | LOCK_NB);
}

/* Locks that belong to the description, and do not tell who took them: before it is sent. */
int lock_open_file(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];

	for (size_t i = 0; i < open->n_locks; i++) {
		const Snap__FileLock *lock = open->locks[i];
		struct flock range = to_flock(lock);
		int fd = rec->open_fds[index];
		int result = 0;

		if (lock->kind == SNAP__FILE_LOCK__KIND__OFD)
			result = fcntl(fd, F_OFD_SETLK, &range);
		else if (!taker(rec->model, index, lock))
			result = flock(fd, (int)flock_operation(lock));
		if (result < 0)
			return err_sys(err, "locking %s again",
				       open->file >= 0 ? rec->model->files[open->file]->path : "a file");
	}
	return 0;
}

/* Those that tell. */
static int queue_flocks(struct recovery *rec, struct batch *b, const Snap__Fd *fd, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[fd->open_file];

	for (size_t i = 0; i < open->n_locks; i++) {
		const Snap__FileLock *lock = open->locks[i];

		if (lock->kind == SNAP__FILE_LOCK__KIND__FLOCK &&
		    taker(rec->model, (size_t)fd->open_file, lock) == b->stub->model &&
		    batch_call(b, BATCH_MUST, err, SYS_flock, ARGS((uint64_t)fd->number, flock_operation(lock)),
			       "locking the file of descriptor %d again", fd->number) < 0)
			return -1;
	}
	return 0;
}

/* Locks that belong to the process, or are known by it: taken by it. */
int stub_take_locks(struct recovery *rec, struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;
	struct batch b;

	batch_begin(&b, stub, &stub->threads[0]);
	for (size_t i = 0; i < p->n_fds; i++)
		if (queue_flocks(rec, &b, p->fds[i], err) < 0)
			return -1;
	for (size_t i = 0; i < p->n_locks; i++) {
		struct flock range = to_flock(p->locks[i]);

		if (batch_room(&b, 1, sizeof(range), err) < 0 ||
		    batch_call(&b, BATCH_MUST, err, SYS_fcntl,
			       ARGS((uint64_t)p->locks[i]->fd, F_SETLK,
				    batch_push(&b, &range, sizeof(range))),
			       "locking the file of descriptor %d again", p->locks[i]->fd) < 0)
			return -1;
	}
	return batch_run(&b, err);
}
