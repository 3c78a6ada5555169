#include "checkpointer/approach.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Those that our own calls can run into. */
static const int lifted[] = {RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_NOFILE};
_Static_assert(sizeof(lifted) / sizeof(lifted[0]) == FROZEN_LIFTED, "as in struct frozen_process");

/* Beyond this many threads only the first is looked at: the pause is worth more. */
#define THREADS_MOST 256

static int refuse(const struct frozen_process *p, const struct frozen_thread *t, const char *what,
		  struct err *err)
{
	if (t == p->threads[0])
		return err_set(err, ERR_UNSUPPORTED, "process %d (%s): %s", p->vpid, p->stat.comm, what);
	return err_set(err, ERR_UNSUPPORTED, "process %d (%s), thread %d: %s", p->vpid, p->stat.comm, t->vtid,
		       what);
}

/* ---- namespaces ---------------------------------------------------------------------------- */

static const struct {
	const char *link, *of_init, *text;
	bool per_thread;
} kinds[] = {
	{"mnt", "mnt", "it has a mount namespace of its own", false},
	{"net", "net", "it has a network namespace of its own", true},
	{"user", "user", "it has a user namespace of its own", false},
	{"uts", "uts", "it has a UTS namespace (host name) of its own", true},
	{"ipc", "ipc", "it has an IPC namespace of its own", true},
	{"cgroup", "cgroup", "it has a cgroup namespace of its own", true},
	{"pid", "pid", "it is in a pid namespace of its own", false},
	{"pid_for_children", "pid_for_children", "its children are to be in another pid namespace", true},
	/* Init has made it for its children. */
	{"time", "time_for_children", "it is in a time namespace of its own", false},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))
_Static_assert(N_KINDS == NAMESPACES_MOST, "as in struct namespaces");

void namespaces_read(struct namespaces *ret, const struct tree_root *root)
{
	char path[80];

	for (size_t i = 0; i < N_KINDS; i++) {
		snprintf(path, sizeof(path), "/proc/%d/ns/%s", root->attached ? getpid() : root->pid,
			 kinds[i].of_init);
		ret->of[i].len = readlink(path, ret->of[i].text, sizeof(ret->of[i].text));
	}
}

static bool is_of_job(pid_t pid, pid_t tid, const char *name, const struct namespace_link *job)
{
	char path[80], link[sizeof(job->text)];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/ns/%s", pid, tid, name);
	n = readlink(path, link, sizeof(link));
	/* A pid namespace without its first process does not show (kernel/pid_namespace.c). */
	if (n < 0 && errno == ENOENT && strcmp(name, "pid_for_children") == 0 && job->len > 0)
		return false;
	/* What one of the two cannot be asked for, or what this kernel lacks, is no difference. */
	return n < 0 || job->len < 0 || (n == job->len && memcmp(link, job->text, (size_t)n) == 0);
}

static int check_namespaces(const struct frozen_process *p, const struct namespaces *job, struct err *err)
{
	size_t threads = p->n_threads <= THREADS_MOST ? p->n_threads : 1;

	for (size_t t = 0; t < threads; t++)
		for (size_t i = 0; i < N_KINDS; i++)
			if ((t == 0 || kinds[i].per_thread) &&
			    !is_of_job(p->pid, p->threads[t]->tracee.tid, kinds[i].link, &job->of[i]))
				return refuse(p, p->threads[t], kinds[i].text, err);
	return 0;
}

/* ---- filters and dispatch ------------------------------------------------------------------ */

static int suspend_filter(const struct frozen_process *p, struct frozen_thread *t, int mode, struct err *err)
{
	if (mode == 0 || tracee_suspend_seccomp(&t->tracee, err) == 0)
		return 0;
	if (err->kind == ERR_GONE)
		return -1;
	return refuse(p, t,
		      mode == 1 ? "it is in seccomp's strict mode, which only root can look behind"
				: "it has a seccomp filter, which only root can read",
		      err);
}

static int switch_off(const struct frozen_process *p, struct frozen_thread *t, struct err *err)
{
	const struct dispatch_config off = {0};

	t->has_dispatch = tracee_get_dispatch(&t->tracee, &t->dispatch);
	if (t->has_dispatch && tracee_set_dispatch(&t->tracee, &off, err) < 0) {
		t->has_dispatch = false;
		return err_wrap(err, "process %d, thread %d", p->vpid, t->vtid);
	}
	return 0;
}

/* ---- limits -------------------------------------------------------------------------------- */

/* Where that is not allowed (a job that has changed its user), they stay: our calls may still fit. */
static void lift_limits(struct frozen_process *p)
{
	for (size_t i = 0; i < FROZEN_LIFTED; i++) {
		struct rlimit *own = &p->limits[i], high;

		if (prlimit(p->pid, (__rlimit_resource_t)lifted[i], NULL, own) < 0)
			continue;
		high = (struct rlimit){own->rlim_max, own->rlim_max};
		p->limit_lifted[i] = own->rlim_cur != own->rlim_max &&
				     prlimit(p->pid, (__rlimit_resource_t)lifted[i], &high, NULL) == 0;
	}
}

static int drop_limits(struct frozen_process *p, struct err *err)
{
	int result = 0;

	for (size_t i = 0; i < FROZEN_LIFTED; i++) {
		if (p->limit_lifted[i] &&
		    prlimit(p->pid, (__rlimit_resource_t)lifted[i], &p->limits[i], NULL) < 0 &&
		    errno != ESRCH)
			result = err_sys(err, "process %d: limit %d is not put back", p->vpid, lifted[i]);
		p->limit_lifted[i] = false;
	}
	return result;
}

/* ---- both ends ----------------------------------------------------------------------------- */

static int begin_thread(const struct frozen_process *p, struct frozen_thread *t, struct err *err)
{
	struct arch_regs regs;

	/* Those of an io_uring are given that name; a thread of the job's own may bear it, too. */
	if (strncmp(frozen_status(p, t)->name, "iou-", 4) == 0 && proc_is_kernel_thread(p->pid, t->tracee.tid))
		return refuse(p, t, "an io_uring instance is in use", err);
	/* Refuses what runs 32-bit code. */
	if (tracee_get_regs(&t->tracee, &regs, err) < 0) {
		if (err->kind == ERR_UNSUPPORTED)
			return refuse(p, t, "it runs 32-bit code", err);
		return -1;
	}
	if (suspend_filter(p, t, frozen_status(p, t)->seccomp, err) < 0)
		return -1;
	return switch_off(p, t, err);
}

int approach_begin(struct frozen_process *p, const struct namespaces *job, struct err *err)
{
	struct err ignored;

	if (check_namespaces(p, job, err) < 0)
		return -1;
	for (size_t i = 0; i < p->n_threads; i++)
		if (begin_thread(p, p->threads[i], err) < 0) {
			approach_end(p, &ignored);
			return -1;
		}
	lift_limits(p);
	return 0;
}

int approach_end(struct frozen_process *p, struct err *err)
{
	int result = drop_limits(p, err);

	for (size_t i = 0; i < p->n_threads; i++) {
		struct frozen_thread *t = p->threads[i];

		if (t->has_dispatch && t->tracee.state == TRACEE_STOPPED &&
		    tracee_set_dispatch(&t->tracee, &t->dispatch, err) < 0)
			result = -1;
		t->has_dispatch = false;
	}
	return result;
}
