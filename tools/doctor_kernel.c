#include "tools/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpointer/checkpointer.h"
#include "checkpointer/tracee/arch.h"
#include "recovery/lazy.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* ---- a child to try things on -------------------------------------------------------------- */

static pid_t start_sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		alarm(10); /* should its parent forget it */
		for (;;)
			pause();
	}
	return pid;
}

static void end_sleeper(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static const char *yama_hint(void)
{
	char buf[16];
	const char *scope =
		doctor_read_line("/proc/sys/kernel/yama/ptrace_scope", buf, sizeof(buf));

	if (scope && strcmp(scope, "3") == 0)
		return "; Yama forbids all tracing (kernel.yama.ptrace_scope is 3, a reboot resets "
		       "it)";
	if (scope && strcmp(scope, "2") == 0)
		return "; Yama allows it to administrators only (sysctl "
		       "kernel.yama.ptrace_scope=1)";
	return "; a container's seccomp profile may forbid it";
}

static void try_ptrace(struct doctor_report *report, pid_t pid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0) {
		doctor_add(report, "ptrace", DOCTOR_MISSING, "cannot trace a child: %s%s",
			   strerror(errno), yama_hint());
		return;
	}
	waitpid(pid, &status, __WALL);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	doctor_add(report, "ptrace", DOCTOR_OK, "a job's processes can be stopped and read");
}

static void try_memory(struct doctor_report *report, pid_t pid)
{
	static const int there = 4711;
	int here = 0;
	struct iovec local = {&here, sizeof(here)};
	struct iovec remote = {(void *)&there, sizeof(there)};

	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) == sizeof(here) && here == there)
		doctor_add(report, "process memory", DOCTOR_OK, "process_vm_readv works");
	else
		doctor_add(report, "process memory", DOCTOR_MISSING, "process_vm_readv fails: %s",
			   strerror(errno));
}

static void try_pidfd(struct doctor_report *report, pid_t pid)
{
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	cleanup_fd int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, STDERR_FILENO, 0);

	/* A closed descriptor there answers EBADF: the call itself works. */
	if (fd >= 0 || (pidfd >= 0 && errno == EBADF))
		doctor_add(report, "pidfd_getfd", DOCTOR_OK,
			   "a job's descriptors can be looked at");
	else
		doctor_add(report, "pidfd_getfd", DOCTOR_MISSING, "%s (needs Linux 5.6)",
			   strerror(errno));
}

static void try_on_child(struct doctor_report *report)
{
	pid_t pid = start_sleeper();

	if (pid < 0) {
		doctor_add(report, "ptrace", DOCTOR_MISSING, "cannot try: %s", strerror(errno));
		return;
	}
	try_ptrace(report, pid);
	try_memory(report, pid);
	try_pidfd(report, pid);
	end_sleeper(pid);
}

/* ---- trackers, CPU, kernel ----------------------------------------------------------------- */

static void try_trackers(struct doctor_report *report)
{
	const char *why = "";
	enum tracker_kind kind = checkpointer_probe_tracker(TRACKER_AUTO, &why);
	bool has_pagemap = kind == TRACKER_PAGEMAP;

	doctor_add(report, "changed pages", has_pagemap ? DOCTOR_OK : DOCTOR_FALLBACK,
		   "tracker %s: %s", tracker_name(kind), why);
	if (kind == TRACKER_SOFT_DIRTY)
		return;
	kind = checkpointer_probe_tracker(TRACKER_SOFT_DIRTY, &why);
	doctor_add(report, "soft-dirty",
		   kind == TRACKER_SOFT_DIRTY ? DOCTOR_OK
		   : has_pagemap	      ? DOCTOR_ABSENT
					      : DOCTOR_FALLBACK,
		   "%s%s", why, has_pagemap ? " (not needed here)" : "");
}

static void try_lazy(struct doctor_report *report)
{
	const char *why;

	if (lazy_is_possible(&why))
		doctor_add(report, "lazy recovery", DOCTOR_OK, "%s (recover --lazy)", why);
	else
		doctor_add(report, "lazy recovery", DOCTOR_ABSENT, "%s; all memory is filled before a job goes on",
			   why);
}

static void look_at_cpu(struct doctor_report *report)
{
	uint32_t words[16];
	size_t n = arch_cpuid_words(words, 16);
	unsigned level = arch_cpu_level(words, n);
	char name[64];

	arch_cpu_name(name, sizeof(name));
	if (level < 2) {
		doctor_add(report, "CPU", DOCTOR_FALLBACK, "%s, below x86-64-v2: jobs go on on equal ones", name);
		return;
	}
	doctor_add(report, "CPU", DOCTOR_OK,
		   "%s, x86-64-v%u (a job goes on where the CPU has all that this one has; "
		   "--cpu-baseline x86-64-v%u keeps jobs to less)",
		   name, level, level > 2 ? level - 1 : 2);
}

static void look_at_kernel(struct doctor_report *report)
{
	struct utsname name;
	bool known_cpu;

	uname(&name);
	known_cpu = strcmp(name.machine, "x86_64") == 0;
	doctor_add(report, "kernel", known_cpu ? DOCTOR_OK : DOCTOR_MISSING, "%s %s on %s%s",
		   name.sysname, name.release, name.machine,
		   known_cpu ? "" : ": only x86_64 is supported");
}

void doctor_kernel(struct doctor_report *report)
{
	try_on_child(report);
	try_trackers(report);
	try_lazy(report);
	look_at_cpu(report);
	look_at_kernel(report);
}
