#include "tools/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* The steps to a capsule, in order. What comes after a failed one may still be tried. */
enum step {
	STEP_USER,
	STEP_MAPS,
	STEP_SPACES,
	STEP_CLOCKS,
	STEP_PROC,
	STEP_SHM,
	STEP_PID,
	N_STEPS
};

#define NOT_TRIED   (-1)
#define WANTED_PID  4242
#define CLOCK_SHIFT 100000 /* seconds */

/* Shared with the children that try. errno of each step, 0: it works. */
struct trial {
	int result[N_STEPS];
};

static int write_text(const char *path, const char *text)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	return write(fd, text, strlen(text)) < 0 ? errno : 0;
}

static int write_map(const char *path, unsigned id)
{
	char text[48];

	snprintf(text, sizeof(text), "%u %u 1", id, id);
	return write_text(path, text);
}

static int try_user_namespace(struct trial *t)
{
	unsigned uid = geteuid(), gid = getegid();
	int *maps = &t->result[STEP_MAPS];

	t->result[STEP_USER] = unshare(CLONE_NEWUSER) < 0 ? errno : 0;
	if (t->result[STEP_USER])
		return -1;
	*maps = write_text("/proc/self/setgroups", "deny");
	if (*maps == 0)
		*maps = write_map("/proc/self/uid_map", uid);
	if (*maps == 0)
		*maps = write_map("/proc/self/gid_map", gid);
	return *maps ? -1 : 0;
}

static int try_clocks(void)
{
	char text[80];

	if (unshare(CLONE_NEWTIME) < 0)
		return errno;
	snprintf(text, sizeof(text), "monotonic %d 0\nboottime %d 0\n", CLOCK_SHIFT, CLOCK_SHIFT);
	return write_text("/proc/self/timens_offsets", text);
}

static int try_wanted_pid(void)
{
	pid_t wanted = WANTED_PID;
	struct clone_args args = {
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&wanted,
		.set_tid_size = 1,
	};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		_exit(getpid() == WANTED_PID ? 0 : 1);
	if (pid < 0)
		return errno;
	waitpid((pid_t)pid, NULL, 0);
	return pid == WANTED_PID ? 0 : ENOTSUP;
}

/* Pid 1 of the new pid namespace. */
static void be_init(struct trial *t, time_t clock_outside)
{
	struct timespec now;

	t->result[STEP_PROC] = 0;
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		t->result[STEP_PROC] = errno;
	t->result[STEP_SHM] = 0;
	if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
		t->result[STEP_SHM] = errno;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (t->result[STEP_CLOCKS] == 0 && now.tv_sec - clock_outside < CLOCK_SHIFT / 2)
		t->result[STEP_CLOCKS] = ENOTSUP;
	t->result[STEP_PID] = try_wanted_pid();
	_exit(0);
}

static void try_all(struct trial *t, bool user_namespace)
{
	struct timespec now;
	pid_t init;

	if (user_namespace && try_user_namespace(t) < 0)
		_exit(1);
	t->result[STEP_SPACES] = unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID) < 0 ? errno : 0;
	if (t->result[STEP_SPACES])
		_exit(1);
	t->result[STEP_CLOCKS] = try_clocks();
	clock_gettime(CLOCK_MONOTONIC, &now);
	init = fork();
	if (init == 0)
		be_init(t, now.tv_sec);
	if (init > 0)
		waitpid(init, NULL, 0);
	_exit(0);
}

static int run_trial(struct trial *t, bool user_namespace)
{
	pid_t pid;

	for (int i = 0; i < N_STEPS; i++)
		t->result[i] = NOT_TRIED;
	pid = fork();
	if (pid == 0)
		try_all(t, user_namespace);
	return pid < 0 || waitpid(pid, NULL, 0) < 0 ? -1 : 0;
}

/* ---- what it means ------------------------------------------------------------------------- */

/* What is known to forbid user namespaces, and how to allow them. */
static const char *userns_hint(void)
{
	char buf[32];
	const char *value;

	value = doctor_read_line("/proc/sys/kernel/unprivileged_userns_clone", buf, sizeof(buf));
	if (value && strcmp(value, "0") == 0)
		return "; sysctl kernel.unprivileged_userns_clone=1 allows them";
	value = doctor_read_line("/proc/sys/user/max_user_namespaces", buf, sizeof(buf));
	if (value && strcmp(value, "0") == 0)
		return "; sysctl user.max_user_namespaces is 0";
	value = doctor_read_line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", buf,
				 sizeof(buf));
	if (value && strcmp(value, "1") == 0)
		return "; AppArmor restricts them "
		       "(sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows them)";
	return "; a container's seccomp profile may forbid them";
}

static void add_step(struct doctor_report *report, const char *what, int result,
		     enum doctor_grade when_not, const char *good, const char *bad)
{
	if (result == 0)
		doctor_add(report, what, DOCTOR_OK, "%s", good);
	else if (result == NOT_TRIED)
		doctor_add(report, what, when_not, "could not be tried without the above");
	else
		doctor_add(report, what, when_not, "%s: %s", bad, strerror(result));
}

/* What `pawl run` and `pawl attach` will do here. */
static void report_mode(struct doctor_report *report, const int *r)
{
	static const enum step needed[] = {STEP_SPACES, STEP_PROC, STEP_SHM, STEP_PID};
	bool whole = true;

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		whole &= r[needed[i]] == 0;
	if (whole)
		doctor_add(report, "mode", DOCTOR_OK, "jobs are in a capsule, and keep their pids");
	else
		doctor_add(report, "mode", DOCTOR_FALLBACK,
			   "no capsule: jobs of one process (any number of threads) are saved and come back "
			   "under a new pid; refused is what remembers pids; clocks jump");
}

static void report_trial(struct doctor_report *report, const struct trial *t, bool user_namespace)
{
	const int *r = t->result;

	if (!user_namespace)
		doctor_add(report, "user namespace", DOCTOR_OK, "not needed: you are root");
	else if (r[STEP_USER] > 0)
		doctor_add(report, "user namespace", DOCTOR_ABSENT, "cannot make one: %s%s",
			   strerror(r[STEP_USER]), userns_hint());
	else
		add_step(report, "user namespace", r[STEP_MAPS], DOCTOR_ABSENT,
			 "yours maps onto itself", "cannot write its maps");
	add_step(report, "capsule", r[STEP_SPACES], DOCTOR_ABSENT,
		 "own pid, mount and IPC namespaces", "cannot make pid, mount and IPC namespaces");
	add_step(
		report, "own /proc", r[STEP_PROC], DOCTOR_ABSENT, "mounted in the capsule",
		"cannot mount it (parts of the machine's own /proc are covered, as in containers)");
	add_step(report, "own /dev/shm", r[STEP_SHM], DOCTOR_FALLBACK, "mounted in the capsule",
		 "cannot mount it, the machine's is used");
	add_step(report, "same pid again", r[STEP_PID], DOCTOR_ABSENT,
		 "clone3 gives a process the pid it had",
		 "clone3 with set_tid fails (needs Linux 5.5)");
	add_step(report, "time namespace", r[STEP_CLOCKS], DOCTOR_FALLBACK,
		 "monotonic clocks go on where they were",
		 "monotonic clocks jump when a job is recovered after a reboot");
	report_mode(report, r);
}

void doctor_capsule(struct doctor_report *report)
{
	struct trial *t =
		mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool user_namespace = geteuid() != 0;
	int ret;

	if (t == MAP_FAILED) {
		doctor_add(report, "capsule", DOCTOR_MISSING, "cannot try: %s", strerror(errno));
		return;
	}
	ret = run_trial(t, user_namespace);
	/* Root without CAP_SYS_ADMIN is as anybody else. */
	if (ret == 0 && !user_namespace && t->result[STEP_SPACES] > 0) {
		user_namespace = true;
		ret = run_trial(t, user_namespace);
	}
	if (ret < 0)
		doctor_add(report, "capsule", DOCTOR_MISSING, "cannot try: %s", strerror(errno));
	else
		report_trial(report, t, user_namespace);
	munmap(t, sizeof(*t));
}
