/*
 * earlier.c: the capsule that an earlier watchdog of the job has left dying.
 *
 * A watchdog that is killed takes its capsule with it, but not in the same instant: the lock on the job is
 * free as soon as the watchdog is gone, while its processes still write to files and hold sockets. Pid 1 of a
 * pid namespace ends after everything else in it, down to the last descriptor (zap_pid_ns_processes in Linux's
 * kernel/pid_namespace.c); without a capsule, init waits for its children. So the end of init is waited for.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "watchdog/supervise.h"

#define QUIET_MS   2000  /* then a person is told what is waited for */
#define PATIENT_MS 60000 /* a process in the middle of a write to a dead server may take forever */

/* Its pidfd; -1: it is no more. */
static int open_init(const struct job_info *job)
{
	cleanup_fd int pidfd = -1;
	struct proc_stat stat;
	struct err ignored;

	if (job->init_pid <= 0)
		return -1;
	pidfd = (int)syscall(SYS_pidfd_open, job->init_pid, 0);
	/* Read after it was opened: what has this start is what the pidfd stands for. */
	if (pidfd < 0 || proc_read_stat(job->init_pid, 0, &stat, &ignored) < 0 ||
	    stat.start_time != job->init_start)
		return -1;
	return steal_fd(&pidfd);
}

/* 1: ended, 0: not within that time, or a signal asked us to end. */
static int await(int pidfd, int signals, int timeout_ms)
{
	struct pollfd fds[] = {{.fd = pidfd, .events = POLLIN}, {.fd = signals, .events = POLLIN}};

	while (poll(fds, 2, timeout_ms) < 0)
		if (errno != EINTR)
			return 0;
	return fds[0].revents != 0;
}

int wd_await_earlier(struct watchdog *w, struct err *err)
{
	cleanup_fd int pidfd = w->config->dry_run ? -1 : open_init(&w->job);

	if (pidfd < 0 || await(pidfd, w->signals, QUIET_MS))
		return 0;
	log_warn("waiting for the processes of job %s that its last watchdog has left to end (pid %d)", w->job.name,
		 w->job.init_pid);
	if (await(pidfd, w->signals, PATIENT_MS))
		return 0;
	return err_set(err, ERR_BUSY,
		       "processes of job '%s' are still being ended, below process %d: they would run beside the "
		       "new ones; try again once they are gone",
		       w->job.name, w->job.init_pid);
}

int wd_note_init(struct watchdog *w, struct err *err)
{
	struct proc_stat stat;

	if (proc_read_stat(w->capsule->init, 0, &stat, err) < 0)
		return -1;
	w->job.init_pid = w->capsule->init;
	w->job.init_start = stat.start_time;
	return store_job_put(w->store, &w->job, err);
}
