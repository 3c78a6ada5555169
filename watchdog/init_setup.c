/* What init does before it serves. Runs in a fork of the watchdog: no allocation (see init.h). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "watchdog/init.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static int write_text(const char *path, const char *text)
{
	size_t len = strlen(text);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int saved;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, text, len);
	saved = errno;
	close(fd);
	errno = saved;
	return n == (ssize_t)len ? 0 : -1;
}

/* user_namespaces(7): an unprivileged process may map its own effective ids, one line each, and the
 * group only once setgroups(2) is denied. */
static int write_maps(const struct init_plan *plan)
{
	char line[64];

	snprintf(line, sizeof(line), "%u %u 1", plan->uid, plan->uid);
	if (write_text("/proc/self/uid_map", line) < 0)
		return -1;
	if (write_text("/proc/self/setgroups", "deny") < 0 && errno != ENOENT)
		return -1;
	snprintf(line, sizeof(line), "%u %u 1", plan->gid, plan->gid);
	return write_text("/proc/self/gid_map", line);
}

static int take_session(const struct init_plan *plan)
{
	if (setsid() < 0)
		return -1;
	if (plan->config->terminal >= 0)
		return ioctl(plan->config->terminal, TIOCSCTTY, 0);
	return 0;
}

static int mount_shm(void)
{
	if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
		return errno == ENOENT ? 0 : -1;
	return 0;
}

/* The job's terminal is of the caller's /dev/pts, which the capsule's own will hide: /dev/console becomes
 * another name of it, so that ttyname(3) finds one. Without it the job has a terminal without a name. */
static void name_terminal(int terminal)
{
	char link[64], path[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", terminal);
	n = readlink(link, path, sizeof(path) - 1);
	if (terminal < 0 || n <= 0)
		return;
	path[n] = '\0';
	if (mount(path, "/dev/console", NULL, MS_BIND, NULL) < 0)
		return;
}

/* A /dev/pts of its own, so that pseudo-terminals of the job can be had again under their numbers, and the
 * message queues of its IPC namespace. Not every machine has these directories. */
static int mount_more(const struct init_plan *plan)
{
	const unsigned long flags = MS_NOSUID | MS_NOEXEC;
	const char *group = plan->user_namespace ? "ptmxmode=0666,mode=0620"
						 : "ptmxmode=0666,mode=0620,gid=5";

	name_terminal(plan->config->terminal);
	if (mount("devpts", "/dev/pts", "devpts", flags, group) < 0 && errno != ENOENT)
		return -1;
	if (mount("mqueue", "/dev/mqueue", "mqueue", flags | MS_NODEV, NULL) < 0 && errno != ENOENT)
		return -1;
	return 0;
}

static int64_t wanted_offset(const char *now, const char *name, uint64_t wanted, clockid_t clock)
{
	return proc_parse_clock_offset(now, name) + (int64_t)(wanted - clock_ns(clock));
}

static int64_t floor_seconds(int64_t ns)
{
	int64_t s = ns / (int64_t)NSEC_PER_SEC;

	return ns < s * (int64_t)NSEC_PER_SEC ? s - 1 : s;
}

static int write_offset(const char *name, int64_t ns)
{
	int64_t s = floor_seconds(ns);
	char line[96];

	snprintf(line, sizeof(line), "%s %lld %lld\n", name, (long long)s,
		 (long long)(ns - s * (int64_t)NSEC_PER_SEC));
	return write_text("/proc/self/timens_offsets", line);
}

/* time_namespaces(7): offsets are to the initial namespace's clocks, and may be written only while
 * the new namespace has no member. A new namespace starts with the offsets of ours. */
static int set_clocks(uint64_t monotonic, uint64_t boottime)
{
	char now[512];
	ssize_t n;
	int fd;

	if (unshare(CLONE_NEWTIME) < 0)
		return -1;
	fd = open("/proc/self/timens_offsets", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, now, sizeof(now) - 1);
	close(fd);
	if (n < 0)
		return -1;
	now[n] = '\0';
	if (write_offset("monotonic", wanted_offset(now, "monotonic", monotonic, CLOCK_MONOTONIC)) < 0)
		return -1;
	return write_offset("boottime", wanted_offset(now, "boottime", boottime, CLOCK_BOOTTIME));
}

int init_set_clocks(uint64_t monotonic, uint64_t boottime)
{
	return set_clocks(monotonic, boottime) < 0 ? errno : 0;
}

/* Whatever descriptor is not in the plan goes: the store's files above all. */
static int close_others(const struct init_plan *plan)
{
	unsigned next = 3;
	size_t i;

	for (i = 0; i < plan->n_keep; i++) {
		unsigned fd = (unsigned)plan->keep[i];

		if (fd > next && close_range(next, fd - 1, 0) < 0)
			return -1;
		if (fd >= next)
			next = fd + 1;
	}
	return close_range(next, ~0u, 0);
}

static int mount_proc(void)
{
	return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* Needs CAP_CHECKPOINT_RESTORE in the namespace (pid_ns_ctl_handler in Linux's kernel/pid_namespace.c) and a kernel
 * with CONFIG_CHECKPOINT_RESTORE; the job does as well without. */
static void set_last_pid(int pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	write_text("/proc/sys/kernel/ns_last_pid", text);
}

/* In a chroot, "/" is no mount point whose propagation could be set: it is mounted on itself. ".." of the
 * root leads onto what is mounted there. */
static int own_root(void)
{
	char cwd[PATH_MAX];

	if (!getcwd(cwd, sizeof(cwd)) || mount("/", "/", NULL, MS_BIND | MS_REC, NULL) < 0 ||
	    chroot("/..") < 0 || chdir(cwd) < 0)
		return -1;
	return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

int init_setup(const struct init_plan *plan, enum init_stage *ret_stage)
{
	const struct capsule_config *config = plan->config;

	/* The watchdog may be gone already: then its end of the request socket is closed too. */
	if (!plan->plain)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "pawl-init");
	*ret_stage = STAGE_REQUESTS;
	if (close_others(plan) < 0)
		return errno;
	*ret_stage = STAGE_MAPS;
	if (plan->user_namespace && write_maps(plan) < 0)
		return errno;
	*ret_stage = STAGE_SESSION;
	if (take_session(plan) < 0)
		return errno;
	if (plan->plain)
		return prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ? errno : 0;
	*ret_stage = STAGE_MOUNTS;
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 && (errno != EINVAL || own_root() < 0))
		return errno;
	*ret_stage = STAGE_SHM;
	if (mount_shm() < 0 || mount_more(plan) < 0)
		return errno;
	*ret_stage = STAGE_PROC;
	if (mount_proc() < 0)
		return errno;
	if (config->last_pid)
		set_last_pid(config->last_pid);
	*ret_stage = STAGE_TIME;
	if (config->set_clocks && set_clocks(config->monotonic, config->boottime) < 0)
		return errno;
	/* A change of credentials may have cleared it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}
