#include "watchdog/attached.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/tracee/permission.h"
#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

/* ---- the target ---------------------------------------------------------------------------- */

static int read_argv(struct attach_target *t, const char *comm, struct err *err)
{
	cleanup_free char *text = NULL;
	char path[64];
	size_t len, n = 0, at = 0;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", t->pid);
	if (read_text(AT_FDCWD, path, &text, &len, err) < 0)
		return -1;
	for (size_t i = 0; i < len; i++)
		n += text[i] == '\0';
	t->argv = calloc(n + 2, sizeof(*t->argv));
	if (!t->argv)
		return err_sys(err, "process %d", t->pid);
	for (; at < len && t->argc <= n; at += strlen(text + at) + 1)
		if (!(t->argv[t->argc++] = strdup(text + at)))
			return err_sys(err, "process %d", t->pid);
	if (t->argc == 0 && !(t->argv[t->argc++] = strdup(comm)))
		return err_sys(err, "process %d", t->pid);
	return 0;
}

static int read_cwd(struct attach_target *t, struct err *err)
{
	char path[64], target[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/cwd", t->pid);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return err_sys(err, "cannot read %s", path);
	target[n] = '\0';
	t->cwd = strdup(target);
	return t->cwd ? 0 : err_sys(err, "process %d", t->pid);
}

/* pawl cannot stand still with the tree it saves. */
static int check_not_above_us(pid_t pid, struct err *err)
{
	struct proc_stat stat;

	for (pid_t at = getpid(); at > 0; at = stat.ppid) {
		if (at == pid)
			return err_set(err, ERR_INVALID,
				       "process %d has this pawl among its descendants: attach "
				       "from outside, "
				       "another terminal for example",
				       pid);
		if (proc_read_stat(at, 0, &stat, err) < 0)
			return 0;
	}
	return 0;
}

static bool in_capsule_of_pawl(pid_t pid)
{
	struct proc_stat stat;
	struct err ignored;

	for (pid_t at = pid; at > 1; at = stat.ppid) {
		if (proc_read_stat(at, 0, &stat, &ignored) < 0)
			return false;
		if (strcmp(stat.comm, "pawl-init") == 0)
			return true;
	}
	return false;
}

/* It is recovered in the namespaces that recover has, under the pids that are seen from here. */
static int check_namespaces(pid_t pid, struct err *err)
{
	static const char *const kinds[][2] = {
		{"pid", "pid"}, {"user", "user"}, {"mnt", "mount"}, {"net", "network"},
		{"ipc", "IPC"}, {"uts", "UTS"},	  {"time", "time"}, {"cgroup", "cgroup"},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		bool same;

		if (same_namespace(getpid(), pid, kinds[i][0], &same, err) < 0)
			return -1;
		if (!same)
			return err_set(
				err, ERR_UNSUPPORTED,
				"process %d is in another %s namespace, a container's for example: "
				"attach from inside it",
				pid, kinds[i][1]);
	}
	return 0;
}

static int check_is_process(pid_t pid, struct err *err)
{
	struct proc_status status;
	pid_t tgid;

	if (proc_read_status(pid, 0, &status, err) < 0)
		return err_set(err, ERR_NOT_FOUND, "there is no process %d", pid);
	tgid = status.tgid;
	proc_status_clear(&status);
	if (tgid != pid)
		return err_set(err, ERR_INVALID, "%d is a thread: its process is %d", pid, tgid);
	return 0;
}

static int check_target(pid_t pid, struct err *err)
{
	if (check_is_process(pid, err) < 0 || check_not_above_us(pid, err) < 0)
		return -1;
	if (in_capsule_of_pawl(pid))
		return err_set(err, ERR_BUSY,
			       "process %d belongs to a job that pawl watches already", pid);
	if (trace_permitted(pid, err) < 0)
		return -1;
	return check_namespaces(pid, err);
}

static int read_target(struct attach_target *t, struct err *err)
{
	struct proc_stat stat;

	if (proc_read_stat(t->pid, 0, &stat, err) < 0)
		return -1;
	t->start_time = stat.start_time;
	return read_argv(t, stat.comm, err) < 0 ? -1 : read_cwd(t, err);
}

int attach_target_read(struct attach_target *ret, pid_t pid, struct err *err)
{
	struct attach_target target = {.pid = pid};

	if (check_target(pid, err) < 0)
		return -1;
	if (read_target(&target, err) < 0) {
		attach_target_clear(&target);
		return -1;
	}
	*ret = target;
	return 0;
}

void attach_target_clear(struct attach_target *target)
{
	while (target->argc > 0)
		free(target->argv[--target->argc]);
	free(target->argv);
	free(target->cwd);
	*target = (struct attach_target){0};
}

bool attach_target_is(const struct attach_target *target, const struct job_info *job)
{
	return job->attached && job->leader_pid == target->pid &&
	       job->leader_start == target->start_time;
}

bool attached_still_runs(const struct job_info *job)
{
	struct proc_stat stat;
	struct err ignored;

	return job->attached && job->leader_pid > 0 &&
	       proc_read_stat(job->leader_pid, 0, &stat, &ignored) == 0 &&
	       stat.start_time == job->leader_start && stat.state != 'Z' && stat.state != 'X';
}

/* ---- in a capsule's place ------------------------------------------------------------------ */

/* One pawl at a time: a lock on a file of /proc belongs to the process it is about, and goes with
 * us. */
static int claim(pid_t pid, int *ret, struct err *err)
{
	cleanup_fd int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, "cannot attach to process %d", pid);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return err_set(err, ERR_BUSY, "process %d is watched by another pawl already", pid);
	*ret = steal_fd(&fd);
	return 0;
}

int attached_create(struct capsule **ret, const struct attach_target *target, struct err *err)
{
	struct capsule *c = calloc(1, sizeof(*c));

	if (!c)
		return err_sys(err, "cannot attach to process %d", target->pid);
	c->init_fd = c->requests = c->events = c->stub_host = c->claim = -1;
	c->root = (struct tree_root){
		.pid = target->pid, .attached = true, .start_time = target->start_time};
	pthread_mutex_init(&c->lock, NULL);
	c->events = (int)syscall(SYS_pidfd_open, target->pid, 0);
	if (c->events < 0)
		err_sys(err, "cannot attach to process %d", target->pid);
	if (c->events < 0 || claim(target->pid, &c->claim, err) < 0) {
		capsule_destroy(c);
		return -1;
	}
	*ret = c;
	return 0;
}

/* ---- the end ------------------------------------------------------------------------------- */

/* include/uapi/linux/pidfd.h; exit_code of processes that have been collected: Linux 6.15. */
struct pidfd_exit_info {
	uint64_t mask, cgroupid;
	uint32_t ids[11];
	int32_t exit_code;
};
#define PIDFD_EXIT_INFO	    (1ull << 3)
#define PIDFD_GET_EXIT_INFO _IOWR(0xff, 11, struct pidfd_exit_info)

bool attached_exit_status(const struct capsule *capsule, int *ret)
{
	struct pidfd_exit_info info = {.mask = PIDFD_EXIT_INFO};
	struct proc_stat stat;
	struct err ignored;

	_Static_assert(sizeof(info) == 64, "PIDFD_INFO_SIZE_VER0");
	/* Its parent has not collected it yet: then /proc tells, and the pidfd does not. */
	if (proc_read_stat(capsule->root.pid, 0, &stat, &ignored) == 0 &&
	    stat.start_time == capsule->root.start_time &&
	    (stat.state == 'Z' || stat.state == 'X')) {
		*ret = stat.exit_code;
		return true;
	}
	if (ioctl(capsule->events, PIDFD_GET_EXIT_INFO, &info) < 0 ||
	    !(info.mask & PIDFD_EXIT_INFO))
		return false;
	*ret = info.exit_code;
	return true;
}
