/*
 * What belongs to a process as a whole and needs no privilege to set.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recovery/batch.h"
#include "recovery/removed_dirs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

#define KERNEL_SIGSET_BYTES 8

/* struct sigaction of the kernel (include/linux/signal_types.h) where SA_RESTORER exists. */
struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

static int queue_directory(struct recovery *rec, struct batch *b, const Snap__Process *p, struct err *err)
{
	const struct stub *sharer = p->shares_fs ? stub_by_pid(rec, p->shares_fs) : b->stub;

	if (b->stub->entered || (sharer && sharer->entered))
		return 0;
	if (p->cwd_deleted)
		return queue_removed_directory(rec, b, p, err);
	if (batch_room(b, 1, strlen(p->cwd) + 1, err) < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_chdir, ARGS(batch_push_string(b, p->cwd)),
			  "working directory %s", p->cwd);
}

static int queue_actions(struct batch *b, const Snap__Process *p, struct err *err)
{
	for (size_t i = 0; i < p->n_actions; i++) {
		const Snap__SigAction *a = p->actions[i];
		struct kernel_sigaction sa = {a->handler, a->flags, a->restorer, a->mask};

		if (i + 1 == SIGKILL || i + 1 == SIGSTOP)
			continue;
		if (batch_room(b, 1, sizeof(sa), err) < 0 ||
		    batch_call(b, BATCH_MUST, err, SYS_rt_sigaction,
			       ARGS(i + 1, batch_push(b, &sa, sizeof(sa)), 0, KERNEL_SIGSET_BYTES),
			       "handler of signal %zu", i + 1) < 0)
			return -1;
	}
	return 0;
}

static int queue_prctls(struct batch *b, const Snap__Process *p, struct err *err)
{
	if (p->child_subreaper && batch_call(b, BATCH_MUST, err, SYS_prctl,
					     ARGS(PR_SET_CHILD_SUBREAPER, 1), "subreaper") < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_prctl, ARGS(PR_SET_THP_DISABLE, p->thp_disable),
			  "huge pages");
}

/* One call a registration (membarrier(2)). */
static int queue_barriers(struct batch *b, const Snap__Process *p, struct err *err)
{
	uint32_t wanted = p->control ? p->control->membarrier : 0;

	for (uint32_t bit = 1; bit && bit <= wanted; bit <<= 1)
		if (wanted & bit && batch_call(b, BATCH_MUST, err, SYS_membarrier, ARGS(bit),
					       "membarrier registration %#x", bit) < 0)
			return -1;
	return 0;
}

/* Large register state (AMX tiles) must be asked for before any thread uses it. */
static int queue_xstate_permission(struct batch *b, const Snap__Process *p, struct err *err)
{
	uint64_t wanted = p->xcomp_permission & native_dynamic_xstate(), option;
	long nr = native_xstate_permission_call(&option);

	for (uint64_t bit = 0; bit < 64; bit++) {
		if (wanted >> bit & 1 && batch_call(b, BATCH_MUST, err, nr, ARGS(option, bit),
						    "extended register component %d", (int)bit) < 0)
			return -1;
	}
	return 0;
}

static int write_proc(pid_t pid, const char *name, const char *text)
{
	char path[64];
	cleanup_fd int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -1 : write_full(fd, text, strlen(text));
}

/* Lowering the score takes a privilege, and neither decides the job's result. */
static void write_scores(const struct stub *stub)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", stub->model->oom_score_adj);
	if (write_proc(stub->pid, "oom_score_adj", text) < 0)
		log_debug("process %d: oom_score_adj: %s", stub->model->pid, strerror(errno));
	snprintf(text, sizeof(text), "%#x", stub->model->coredump_filter);
	if (write_proc(stub->pid, "coredump_filter", text) < 0)
		log_debug("process %d: coredump_filter: %s", stub->model->pid, strerror(errno));
}

int stub_set_attributes(struct recovery *rec, struct stub *stub, struct err *err)
{
	const Snap__Process *p = stub->model;
	struct batch b;

	write_scores(stub);
	stub_enter_cgroups(stub);
	batch_begin(&b, stub, &stub->threads[0]);
	if (queue_directory(rec, &b, p, err) < 0 ||
	    batch_call(&b, BATCH_MUST, err, SYS_umask, ARGS(p->umask), "umask") < 0 ||
	    batch_call(&b, BATCH_MUST, err, SYS_personality, ARGS(p->personality), "personality") <
		    0 ||
	    queue_actions(&b, p, err) < 0 || queue_prctls(&b, p, err) < 0 ||
	    queue_barriers(&b, p, err) < 0 ||
	    queue_xstate_permission(&b, p, err) < 0)
		return -1;
	/* The executor's traps reset an ignored SIGTRAP: remote_end puts it back. */
	stub->remote.trap_ignored = p->actions[SIGTRAP - 1]->handler == (uint64_t)SIG_IGN;
	return batch_run(&b, err);
}

int stub_set_last_pid(struct recovery *rec, struct stub *stub, struct err *err)
{
	int len, pid = rec->model->capsule->last_pid;
	char text[16];
	struct batch b;
	long fd, ignored;

	if (rec->host->new_ids)
		return 0;
	remote_reset(&stub->remote);
	if (stub_call(stub, stub_thread(stub), &fd, err, "last pid", SYS_openat,
		      ARGS((uint64_t)AT_FDCWD,
			   remote_push_string(&stub->remote, "/proc/sys/kernel/ns_last_pid"),
			   O_WRONLY | O_CLOEXEC)) < 0)
		return -1;
	if (fd < 0) {
		log_debug("the last pid given is not restored: %s", strerror((int)-fd));
		return 0;
	}
	len = snprintf(text, sizeof(text), "%d", pid);
	batch_begin(&b, stub, stub_thread(stub));
	if (batch_call(&b, BATCH_WARN, err, SYS_write,
		       ARGS((uint64_t)fd, batch_push(&b, text, (size_t)len), (uint64_t)len), "last pid given") < 0 ||
	    batch_run(&b, err) < 0)
		return -1;
	return stub_call(stub, stub_thread(stub), &ignored, err, "close", SYS_close, ARGS((uint64_t)fd));
}
