/*
 * Pidfds, leases, and files that a process must open itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "recovery/batch.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif

static bool is_used(const Snap__Snapshot *model, int32_t id)
{
	for (size_t i = 0; i < model->n_processes; i++) {
		const Snap__Process *p = model->processes[i];

		if (p->pid == id || p->pgid == id || p->sid == id)
			return true;
		for (size_t t = 0; t < p->n_threads; t++)
			if (p->threads[t]->tid == id)
				return true;
	}
	return false;
}

/* The others of the same process: they show the same inode. */
static int open_fellows(struct recovery *rec, size_t index, pid_t pid, struct err *err)
{
	uint64_t object = rec->model->open_files[index]->object;

	for (size_t i = index + 1; object && i < rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = rec->model->open_files[i];

		if (open->kind != SNAP__OPEN_FILE__KIND__PIDFD || open->pid || open->object != object)
			continue;
		rec->open_fds[i] = (int)syscall(SYS_pidfd_open, pid, 0);
		if (rec->open_fds[i] < 0)
			return err_sys(err, "pidfd of a process that has ended");
	}
	return 0;
}

/* A process of the capsule that has come to its end and been waited for, by init. */
static int dead_pidfd(struct recovery *rec, size_t index, struct err *err)
{
	const struct recovery_host *host = rec->host;
	int32_t id = 2;
	int fd, result;
	pid_t pid;

	if (rec->open_fds[index] >= 0)
		return 0; /* made with another */
	while (is_used(rec->model, id))
		id++;
	if (host->spawn(host->ctx, id, &pid, &fd, err) < 0)
		return -1;
	rec->open_fds[index] = fd;
	result = open_fellows(rec, index, pid, err);
	syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	while (syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return result;
}

static pid_t find_process(const struct recovery *rec, int32_t pid)
{
	for (size_t i = 0; i < rec->model->n_processes; i++)
		if (rec->stubs[i].model->pid == pid)
			return rec->stubs[i].pid;
	return 0;
}

int open_pidfd(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	int flags = (int)open->flags & (O_NONBLOCK | PIDFD_THREAD);
	pid_t pid = open->pid ? find_process(rec, open->pid) : 0;

	if (open->pid && !pid)
		return err_set(err, ERR_UNSUPPORTED, "a pidfd of thread %d, which is not a process",
			       open->pid);
	if (!pid && dead_pidfd(rec, index, err) < 0)
		return -1;
	if (pid)
		rec->open_fds[index] = (int)syscall(SYS_pidfd_open, pid, flags);
	return rec->open_fds[index] < 0 || set_nonblock(rec->open_fds[index], open->flags) < 0 ? err_sys(err, "pidfd of process %d", open->pid) : 0;
}

/* ---- leases -------------------------------------------------------------------------------- */

/* The process that takes a lease becomes the one that is told of its end: the owner is set afterwards. */
int queue_lease(struct batch *b, const Snap__OpenFile *open, int number, struct err *err)
{
	if (!open->lease)
		return 0;
	return batch_call(b, BATCH_MUST, err, SYS_fcntl,
			  ARGS((uint64_t)number, F_SETLEASE, (uint64_t)(open->lease - 1)),
			  "lease of descriptor %d", number);
}
