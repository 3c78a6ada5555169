#include "store/new_ids.h"

#include <signal.h>
#include <stdbool.h>

#define WHY "which is lost where no capsule can be had"

static int check_descriptor(const Snap__Process *p, const Snap__Fd *fd, const Snap__OpenFile *o,
			    struct err *err)
{
	const char *what = NULL;

	if (o->owner)
		what = "signals about it go to a process by its number";
	else if (o->kind == SNAP__OPEN_FILE__KIND__PIDFD)
		what = "a pidfd";
	else if (o->kind == SNAP__OPEN_FILE__KIND__PTY_MASTER ||
		 o->kind == SNAP__OPEN_FILE__KIND__PTY_SLAVE)
		what = "a pseudo-terminal by its number";
	else if (o->kind == SNAP__OPEN_FILE__KIND__INSIDE)
		what = "a file of /proc, by the number of a process";
	if (!what)
		return 0;
	return err_set(err, ERR_UNSUPPORTED, "process %d: fd %d: %s, " WHY, p->pid, fd->number,
		       what);
}

static int check_process(const Snap__Snapshot *m, const Snap__Process *p, struct err *err)
{
	for (size_t i = 0; i < p->n_posix_timers; i++)
		if (p->posix_timers[i]->notify & SIGEV_THREAD_ID)
			return err_set(
				err, ERR_UNSUPPORTED,
				"process %d: POSIX timer %d signals a thread by its number, " WHY,
				p->pid, p->posix_timers[i]->id);
	for (size_t i = 0; i < p->n_fds; i++) {
		int32_t at = p->fds[i]->open_file;

		if (at >= 0 && (size_t)at < m->n_open_files &&
		    check_descriptor(p, p->fds[i], m->open_files[at], err) < 0)
			return -1;
	}
	if (p->zombie || p->leader_exited)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d: it has ended, and is known by its number, " WHY,
			       p->pid);
	return 0;
}

int new_ids_check(const Snap__Snapshot *m, struct err *err)
{
	if (m->n_processes > 1)
		return err_set(err, ERR_UNSUPPORTED,
			       "the job has %zu processes, which know each other by number, " WHY
			       ": only jobs of one process can be saved here",
			       m->n_processes);
	if (m->n_private_entries)
		return err_set(err, ERR_UNSUPPORTED, "%s is in a capsule's own /dev/shm",
			       m->private_entries[0]->path);
	for (size_t i = 0; i < m->n_processes; i++)
		if (check_process(m, m->processes[i], err) < 0)
			return -1;
	return 0;
}
