/*
 * Empty processes under their old pids, ready to be filled.
 */
#include <errno.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "recovery/batch.h"
#include "store/base/cleanup.h"

/* Well away from where executables, heaps, libraries and stacks are put, and from where they grow.
 */
#define HOLE_FROM 0x100000000000ull

#define RSEQ_UNREGISTER 1

struct stub *stub_by_pid(struct recovery *rec, int32_t pid)
{
	for (size_t i = 0; i < rec->model->n_processes; i++) {
		if (rec->stubs[i].pid && rec->stubs[i].model->pid == pid)
			return &rec->stubs[i];
	}
	return NULL;
}

struct tracee *stub_thread(struct stub *stub)
{
	for (size_t i = 0; i < stub->n_threads; i++) {
		if (stub->threads[i].state != TRACEE_GONE)
			return &stub->threads[i];
	}
	return &stub->threads[0];
}

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

bool capsule_path_is_private(const char *path)
{
	return is_below(path, "/proc") || is_below(path, "/dev/shm") || is_below(path, "/dev/pts") ||
	       is_below(path, "/dev/mqueue");
}

const char *capsule_path(struct recovery *rec, const char *path, char *buf, size_t len)
{
	if (!rec->host || !rec->host->init)
		return path;
	snprintf(buf, len, "/proc/%d/root%s", rec->host->init, path);
	return buf;
}

int stub_executor_place(const struct stub *stub, const Snap__Snapshot *model, uint64_t *ret, struct err *err)
{
	struct proc_map *maps = NULL;
	struct range *taken = NULL;
	size_t n_maps = 0, n_taken = 0;
	int result;

	if (proc_read_maps(stub->pid, false, &maps, &n_maps, err) < 0)
		return -1;
	result = taken_ranges(model, maps, n_maps, &taken, &n_taken, err);
	if (result == 0)
		*ret = find_hole(taken, n_taken, REMOTE_ROOM, HOLE_FROM);
	free(taken);
	proc_maps_free(maps, n_maps);
	return result;
}

/* All stubs have it at the same place. */
static int choose_executor(struct recovery *rec, const struct stub *stub, struct err *err)
{
	return rec->executor ? 0 : stub_executor_place(stub, rec->model, &rec->executor, err);
}

/* The C library registered its rseq area; the kernel would write there after it is unmapped. */
static int queue_rseq_off(struct batch *b, struct err *err)
{
	struct __ptrace_rseq_configuration rseq = {0};

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, b->thread->tid, sizeof(rseq), &rseq) < 0) {
		if (errno == EIO || errno == EINVAL) /* before Linux 5.13 */
			return 0;
		return err_sys(err, "process %d: rseq", b->stub->model->pid);
	}
	if (!rseq.rseq_abi_pointer)
		return 0;
	return batch_call(
		b, BATCH_MUST, err, SYS_rseq,
		ARGS(rseq.rseq_abi_pointer, rseq.rseq_abi_size, RSEQ_UNREGISTER, rseq.signature),
		"unregister rseq");
}

/* Work is done under the hard limits; the job's own come at the end. */
static int queue_limits(struct batch *b, struct err *err)
{
	for (uint64_t i = 0; i < RLIMIT_NLIMITS; i++) {
		struct rlimit limit;

		if (prlimit(b->stub->pid, (__rlimit_resource_t)i, NULL, &limit) < 0)
			return err_sys(err, "process %d: limit %d", b->stub->model->pid, (int)i);
		limit.rlim_cur = limit.rlim_max;
		if (batch_room(b, 1, sizeof(limit), err) < 0 ||
		    batch_call(b, BATCH_MUST, err, SYS_prlimit64,
			       ARGS(0, i, batch_push(b, &limit, sizeof(limit))), "limit %d",
			       (int)i) < 0)
			return -1;
	}
	return 0;
}

static int queue_close_all(struct batch *b, struct err *err)
{
	uint64_t keep = (uint64_t)b->stub->socket;

	if (keep > 0 && batch_call(b, BATCH_MUST, err, SYS_close_range, ARGS(0, keep - 1),
				   "close inherited descriptors") < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_close_range, ARGS(keep + 1, UINT_MAX),
			  "close inherited descriptors");
}

int stub_prepare(struct stub *stub, struct err *err)
{
	struct batch b;

	batch_begin(&b, stub, &stub->threads[0]);
	if (queue_rseq_off(&b, err) < 0 || queue_limits(&b, err) < 0 ||
	    queue_close_all(&b, err) < 0)
		return -1;
	return batch_run(&b, err);
}

static int spawn_from_init(struct recovery *rec, struct stub *stub, struct err *err)
{
	struct tracee *t = &stub->threads[0];

	if (rec->host->spawn(rec->host->ctx, stub->model->pid, &stub->pid, &stub->pidfd, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	if (tracee_seize(t, stub->pid, stub->pid, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	stub->n_threads = 1;
	if (tracee_wait_stop(t, err) < 0 || choose_executor(rec, stub, err) < 0 ||
	    remote_begin(&stub->remote, t, rec->executor, REMOTE_ROOM, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	stub->has_executor = true;
	return 0;
}

static int take_child(struct stub *parent, struct stub *stub, struct err *err)
{
	struct tracee *t = &parent->threads[0];

	if (t->n_born != 1)
		return err_set(err, ERR_SYSTEM, "process %d: no child appeared",
			       parent->model->pid);
	t->n_born = 0;
	stub->pid = t->born[0];
	if (tracee_adopt(&stub->threads[0], stub->pid, stub->pid, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	stub->n_threads = 1;
	stub->pidfd = (int)syscall(SYS_pidfd_open, stub->pid, 0);
	if (stub->pidfd < 0)
		return err_sys(err, "process %d: pidfd", stub->model->pid);
	if (remote_inherit(&stub->remote, &parent->remote, stub->pid, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	stub->has_executor = true;
	return 0;
}

static int spawn_from_parent(struct stub *parent, struct stub *stub, const struct birth *birth,
			     struct err *err)
{
	struct clone_args args = {
		.flags = birth->share | (birth->sibling ? CLONE_PARENT : 0),
		/* That of a sibling is its maker's. */
		.exit_signal = birth->sibling ? 0 : (uint64_t)(uint32_t)stub->model->exit_signal,
		.set_tid_size = 1,
	};
	struct batch b;

	batch_begin(&b, parent, &parent->threads[0]);
	parent->threads[0].n_born = 0;
	args.set_tid = batch_push(&b, &stub->model->pid, sizeof(stub->model->pid));
	if (batch_call(&b, BATCH_MUST, err, SYS_clone3,
		       ARGS(batch_push(&b, &args, sizeof(args)), sizeof(args)), "create child %d",
		       stub->model->pid) < 0 ||
	    batch_run(&b, err) < 0)
		return -1;
	stub->maker = parent->memory->mapped ? parent->memory : parent->memory->maker;
	return take_child(parent, stub, err);
}

static void final_registers(const Snap__Thread *model, struct arch_regs *ret)
{
	memcpy(ret, model->registers.data, sizeof(*ret));
	if (model->restart_code)
		arch_unrewind(ret, (enum arch_restart_code)model->restart_code);
}

int stub_spawn(struct recovery *rec, struct stub *stub, struct err *err)
{
	static const struct birth from_donor = {.sibling = true}; /* its parent is init */
	const struct birth *birth = &rec->plan.lineage.births[stub - rec->stubs];
	struct stub *parent = birth->by == LINEAGE_INIT ? NULL : &rec->stubs[birth->by];
	size_t n = stub->model->n_threads ? stub->model->n_threads : 1;

	stub->threads = calloc(n, sizeof(*stub->threads));
	stub->final = calloc(n, sizeof(*stub->final));
	if (!stub->threads || !stub->final)
		return err_set(err, ERR_SYSTEM, "out of memory");
	stub->socket = rec->host->stub_socket;
	for (size_t i = stub->model->leader_exited; i < stub->model->n_threads; i++)
		final_registers(stub->model->threads[i], &stub->final[i]);
	stub->memory = parent && birth->share & CLONE_VM ? parent->memory : stub;
	if (parent || rec->donor) {
		if (spawn_from_parent(parent ? parent : rec->donor, stub, parent ? birth : &from_donor, err) < 0)
			return -1;
	} else if (spawn_from_init(rec, stub, err) < 0 || stub_prepare(stub, err) < 0) {
		return -1;
	}
	stub->memory->tenants++;
	return 0;
}

/* A tracer sees the end of each thread first; init can reap the process only afterwards. */
static void reap(pid_t tid)
{
	int status;

	for (;;) {
		pid_t got = waitpid(tid, &status, __WALL);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || WIFEXITED(status) || WIFSIGNALED(status))
			return;
		ptrace(PTRACE_CONT, tid, 0, 0); /* PTRACE_EVENT_EXIT and the like */
	}
}

/* All that the kernel has attached to us, whether we have come to know of it or not: the first thread can be waited for
 * only after all others of its process. */
static void reap_others(struct stub *stub)
{
	const struct tracee *maker = &stub->threads[0];
	cleanup_free int *tids = NULL;
	struct err ignored;
	size_t n;

	for (size_t i = 0; i < maker->n_born; i++) {
		if (tracee_is_ours(maker->born[i])) /* else its number may be another's by now */
			kill(maker->born[i], SIGKILL);
		reap(maker->born[i]);
	}
	if (proc_list_numbers(stub->pid, "task", &tids, &n, &ignored) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (tids[i] != stub->pid)
			reap(tids[i]);
}

void stub_forget(struct stub *stub)
{
	remote_forget(&stub->remote);
	if (stub->pidfd >= 0)
		close(stub->pidfd);
	free(stub->threads);
	free(stub->final);
	*stub = (struct stub){.model = stub->model, .pidfd = -1};
}

void stub_kill(struct stub *stub)
{
	if (stub->pid > 0) {
		if (stub->pidfd >= 0)
			syscall(SYS_pidfd_send_signal, stub->pidfd, SIGKILL, NULL, 0);
		else if (tracee_is_ours(stub->pid))
			kill(stub->pid, SIGKILL);
		reap_others(stub);
		reap(stub->pid);
	}
	stub_forget(stub);
}
