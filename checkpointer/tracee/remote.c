#include "checkpointer/tracee/remote.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "checkpointer/tracee/wait.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define CODE_ROOM  4096u /* a page of its own: see bootstrap_map */
#define CALLS_AT   CODE_ROOM
#define DATA_AT    (CALLS_AT + REMOTE_MAX_CALLS * (uint32_t)sizeof(struct remote_call))
#define VDSO_BYTES 8192u
#define KERNEL_SIGSET_BYTES 8

_Static_assert(sizeof(struct remote_call) == 64, "the executor steps by 64 bytes");
_Static_assert(DATA_AT < REMOTE_ROOM, "no room for data");

/* struct sigaction as the kernel has it (include/uapi/asm-generic/signal.h, x86 order). */
struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

/* For a process whose auxv we may not open: its maps are open to everybody who may trace it. */
static uint64_t find_vdso_in_maps(pid_t pid)
{
	struct proc_map *maps;
	struct err ignored;
	uint64_t at = 0;
	size_t n;

	if (proc_read_maps(pid, false, &maps, &n, &ignored) < 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (strcmp(maps[i].name, "[vdso]") == 0)
			at = maps[i].start;
	proc_maps_free(maps, n);
	return at;
}

/* AT_SYSINFO_EHDR: where the vdso is, without walking a long /proc/PID/maps. 0: none. */
static uint64_t find_vdso(pid_t pid)
{
	char path[64];
	Elf64_auxv_t auxv[64];
	cleanup_fd int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/auxv", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : pread_upto(fd, auxv, sizeof(auxv), 0);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(auxv[0]); i++)
		if (auxv[i].a_type == AT_SYSINFO_EHDR)
			return auxv[i].a_un.a_val;
	return fd < 0 ? find_vdso_in_maps(pid) : 0;
}

/* A `syscall` instruction of the target's own: in the vdso, or the one the thread is waiting in. */
static uint64_t find_syscall_insn(struct tracee *t, const struct arch_regs *regs)
{
	unsigned char image[VDSO_BYTES];
	uint64_t vdso = find_vdso(t->tgid);
	struct err ignored;
	long at;

	for (size_t len = sizeof(image); vdso && len >= 4096; len -= 4096) {
		if (mem_read(t->tgid, vdso, image, len, &ignored) < 0)
			continue;
		at = arch_find_syscall_insn(image, len);
		if (at >= 0)
			return vdso + (uint64_t)at;
	}
	if (mem_read(t->tgid, arch_ip(regs) - 2, image, 2, &ignored) == 0 &&
	    arch_find_syscall_insn(image, 2) == 0)
		return arch_ip(regs) - 2;
	return 0;
}

/* Without a vdso: two bytes of the code under the instruction pointer are lent for one call. */
static int syscall_over_code(struct tracee *t, const struct arch_regs *regs, long nr,
			     const uint64_t arg[6], long *ret, struct err *err)
{
	static const unsigned char insn[2] = {0x0f, 0x05};
	unsigned char saved[sizeof(insn)];
	uint64_t at = arch_ip(regs);
	int result;

	if (mem_read_forced(t->tgid, at, saved, sizeof(saved), err) < 0 ||
	    mem_write_forced(t->tgid, at, insn, sizeof(insn), err) < 0)
		return -1;
	result = tracee_syscall_at(t, at, nr, arg, ret, err);
	if (t->state == TRACEE_GONE)
		return result;
	if (mem_write_forced(t->tgid, at, saved, sizeof(saved), err) < 0)
		return -1;
	return result;
}

/* By a single step where its SIGTRAP takes nothing from the job. */
static int call_at(struct remote *r, struct tracee *t, uint64_t insn, long nr, const uint64_t arg[6],
		   long *ret, struct err *err)
{
	bool trap = r->trap_ignored;

	if (!trap && tracee_pending_trap(t, &trap, err) < 0)
		return -1;
	return (trap ? tracee_syscall_at : tracee_step_call)(t, insn, nr, arg, ret, err);
}

/* Before there is an executor. */
static int bootstrap_call(struct remote *r, struct tracee *t, uint64_t insn, long nr, const uint64_t arg[6], long *ret,
			  struct err *err)
{
	struct arch_regs regs;

	if (insn)
		return call_at(r, t, insn, nr, arg, ret, err);
	if (tracee_get_regs(t, &regs, err) < 0)
		return -1;
	return syscall_over_code(t, &regs, nr, arg, ret, err);
}

/* PR_SET_MDWE forbids memory that is writable and executable, and to make the one from the other, but not
 * to map code read-only over it: we write there in the tracer's right. */
static int map_code_apart(struct remote *r, struct tracee *t, uint64_t insn, const uint64_t whole[6],
			  long *base, struct err *err)
{
	uint64_t arg[6];
	long code;

	memcpy(arg, whole, sizeof(arg));
	arg[2] = PROT_READ | PROT_WRITE;
	if (bootstrap_call(r, t, insn, SYS_mmap, arg, base, err) < 0)
		return -1;
	if (*base < 0 && *base > -4096)
		return 0; /* for the caller to report */
	arg[0] = (uint64_t)*base;
	arg[1] = CODE_ROOM;
	arg[2] = PROT_READ | PROT_EXEC;
	arg[3] = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	r->code_apart = true;
	if (bootstrap_call(r, t, insn, SYS_mmap, arg, &code, err) < 0)
		return -1;
	if (code != *base) {
		arg[1] = r->size;
		if (bootstrap_call(r, t, insn, SYS_munmap, arg, base, err) < 0)
			return -1;
		*base = code;
	}
	return 0;
}

static int bootstrap_map(struct remote *r, struct tracee *t, uint64_t at, struct err *err)
{
	const uint64_t arg[6] = {
		at, r->size, PROT_READ | PROT_WRITE | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), (uint64_t)-1, 0};
	struct arch_regs regs;
	uint64_t insn;
	long base = 0;

	if (tracee_get_regs(t, &regs, err) < 0)
		return -1;
	insn = find_syscall_insn(t, &regs);
	if (bootstrap_call(r, t, insn, SYS_mmap, arg, &base, err) < 0)
		return -1;
	if ((base == -EACCES || base == -EPERM) && map_code_apart(r, t, insn, arg, &base, err) < 0)
		return -1;
	if (base < 0 && base > -4096)
		return err_code(err, (int)-base, "cannot map the call executor into process %d", t->tgid);
	r->base = (uint64_t)base;
	r->syscall_insn = insn ? insn : r->base + arch_blob_syscall_offset();
	return 0;
}

/* ERR_DENIED for /proc/PID/mem tells an undumpable process of an ordinary user. */
static int make_dumpable(struct remote *r, struct tracee *t, struct err *err)
{
	const uint64_t arg[6] = {PR_SET_DUMPABLE, 1};
	char path[64];
	long ret;

	snprintf(path, sizeof(path), "/proc/%d/mem", r->tgid);
	if (access(path, R_OK) == 0 || errno != EACCES)
		return 0;
	if (tracee_syscall_at(t, r->syscall_insn, SYS_prctl, arg, &ret, err) < 0)
		return -1;
	r->undumpable = true;
	return 0;
}

static int restore_undumpable(struct remote *r, struct tracee *t, struct err *err)
{
	const uint64_t arg[6] = {PR_SET_DUMPABLE, 0};
	long ret;

	return tracee_syscall_at(t, r->syscall_insn, SYS_prctl, arg, &ret, err);
}

/* Memory that is there when it is used: of each of hundreds of processes little is. (Clearing it all, and
 * finding as much room again on the heap, took a third of the pause of such a job.) */
static bool make_mirror(struct remote *r)
{
	void *mirror = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	r->mirror = mirror == MAP_FAILED ? NULL : mirror;
	return r->mirror;
}

int remote_begin(struct remote *r, struct tracee *t, uint64_t at, size_t size, struct err *err)
{
	size_t code = (size_t)(arch_blob_end - arch_blob_start);
	struct proc_status status;
	struct err ignored;

	memset(r, 0, sizeof(*r));
	r->tgid = t->tgid;
	r->size = size;
	if (code > CODE_ROOM || size <= DATA_AT)
		return err_set(err, ERR_INVALID, "call executor does not fit");
	if (proc_read_status(t->tgid, 0, &status, err) < 0)
		return -1;
	r->trap_ignored = status.ignored >> (SIGTRAP - 1) & 1;
	proc_status_clear(&status);
	if (!make_mirror(r))
		return err_sys(err, "call executor");
	memcpy(r->mirror, arch_blob_start, code);
	if (bootstrap_map(r, t, at, err) < 0) {
		remote_forget(r);
		return -1;
	}
	/* A forced write goes through a file of /proc that only a dumpable process lets us open. */
	if ((r->code_apart && make_dumpable(r, t, err) < 0) ||
	    (r->code_apart ? mem_write_forced : mem_write)(r->tgid, r->base, r->mirror, code, err) < 0 ||
	    (!r->code_apart && make_dumpable(r, t, err) < 0)) {
		remote_end(r, t, &ignored);
		return -1;
	}
	r->syscall_insn = r->base + arch_blob_syscall_offset();
	return 0;
}

int remote_inherit(struct remote *r, const struct remote *from, pid_t tgid, struct err *err)
{
	*r = *from;
	r->tgid = tgid;
	r->n_calls = r->data_used = 0;
	if (!make_mirror(r))
		return err_sys(err, "call executor");
	memcpy(r->mirror, from->mirror, CODE_ROOM);
	return 0;
}

void remote_forget(struct remote *r)
{
	if (r->mirror)
		munmap(r->mirror, r->size);
	memset(r, 0, sizeof(*r));
}

/*
 * A trap delivered to a process that ignores SIGTRAP resets its disposition to default
 * (kernel/signal.c, force_sig_info_to_task). It is put back with a syscall stop, which is no signal.
 */
static int restore_trap_disposition(struct remote *r, struct tracee *t, struct err *err)
{
	const struct kernel_sigaction ignore = {.handler = (uint64_t)SIG_IGN};
	uint64_t at = r->base + DATA_AT;
	const uint64_t arg[6] = {SIGTRAP, at, 0, KERNEL_SIGSET_BYTES};
	long ret;

	if (mem_write(r->tgid, at, &ignore, sizeof(ignore), err) < 0)
		return -1;
	return tracee_syscall_at(t, r->syscall_insn, SYS_rt_sigaction, arg, &ret, err);
}

int remote_end(struct remote *r, struct tracee *t, struct err *err)
{
	const uint64_t arg[6] = {r->base, r->size};
	long ret = 0;
	int result = 0;

	if (r->base && t->state == TRACEE_STOPPED) {
		if (r->trap_ignored)
			result = restore_trap_disposition(r, t, err);
		if (result == 0 && r->undumpable)
			result = restore_undumpable(r, t, err);
		if (result == 0)
			result = call_at(r, t, r->syscall_insn, SYS_munmap, arg, &ret, err);
		if (result == 0 && ret < 0)
			result = err_code(err, (int)-ret, "cannot take the call executor out of process %d",
					  r->tgid);
	}
	remote_forget(r);
	return result;
}

void *remote_data(struct remote *r, size_t len, uint64_t *ret_addr)
{
	size_t at = DATA_AT + r->data_used;
	size_t rounded = (len + 15) & ~(size_t)15;

	if (rounded < len || rounded > remote_data_left(r))
		return NULL;
	r->data_used += rounded;
	memset(r->mirror + at, 0, rounded);
	*ret_addr = r->base + at;
	return r->mirror + at;
}

size_t remote_data_left(const struct remote *r)
{
	return r->size - DATA_AT - r->data_used;
}

uint64_t remote_push(struct remote *r, const void *data, size_t len)
{
	uint64_t addr;
	void *p = remote_data(r, len, &addr);

	if (!p)
		return 0;
	memcpy(p, data, len);
	return addr;
}

uint64_t remote_push_string(struct remote *r, const char *text)
{
	return remote_push(r, text, strlen(text) + 1);
}

struct remote_call *remote_call_add(struct remote *r, long nr, const uint64_t *arg, size_t n_args)
{
	struct remote_call *c = (struct remote_call *)(void *)(r->mirror + CALLS_AT) + r->n_calls;

	if (r->n_calls >= REMOTE_MAX_CALLS || n_args > 6)
		return NULL;
	memset(c, 0, sizeof(*c));
	c->nr = nr;
	memcpy(c->arg, arg, n_args * sizeof(*arg));
	r->n_calls++;
	return c;
}

void remote_reset(struct remote *r)
{
	r->n_calls = 0;
	r->data_used = 0;
}

typedef ssize_t vm_call(pid_t, const struct iovec *, unsigned long, const struct iovec *,
			unsigned long, unsigned long);

/* Moves calls and used data between mirror and target in one system call. */
static int sync_mirror(struct remote *r, vm_call *call, struct err *err)
{
	size_t calls = r->n_calls * sizeof(struct remote_call);
	const struct iovec local[2] = {{r->mirror + CALLS_AT, calls}, {r->mirror + DATA_AT, r->data_used}};
	const struct iovec remote[2] = {{(void *)(r->base + CALLS_AT), calls},
					{(void *)(r->base + DATA_AT), r->data_used}};

	if (call(r->tgid, local, 2, remote, 2, 0) != (ssize_t)(calls + r->data_used))
		return err_sys(err, "cannot reach the call executor in process %d", r->tgid);
	return 0;
}

/* One that runs the executor: until it stands at its trap. */
static int await_trap(struct remote *r, struct tracee *t, struct err *err)
{
	struct tracee_stop stop;
	struct arch_regs regs;

	for (;;) {
		int deliver = 0;

		if (tracee_next_stop(t, &stop, err) < 0)
			return -1;
		if (stop.kind == STOP_SIGNAL && stop.signo == SIGTRAP) {
			if (tracee_get_regs(t, &regs, err) < 0)
				return -1;
			if (arch_at_blob_trap(&regs, r->base))
				return 0;
		} else if (stop.kind == STOP_SIGNAL && stop.signo == SIGSTOP) {
			deliver = SIGSTOP; /* cannot be blocked; begins a job-control stop we run through */
		} else if (stop.kind == STOP_SIGNAL) {
			return err_set(err, ERR_SYSTEM, "call executor in process %d got signal %d", r->tgid,
				       stop.signo);
		}
		if (tracee_resume(t, PTRACE_CONT, deliver, err) < 0)
			return -1;
	}
}

/* Lets the thread run until it stands at the executor's trap. */
static int run_to_trap(struct remote *r, struct tracee *t, struct err *err)
{
	return tracee_resume(t, PTRACE_CONT, 0, err) < 0 ? -1 : await_trap(r, t, err);
}

/* The executor ends with a trap, whose SIGTRAP would take the place of one that the job has pending. */
static int run_one_by_one(struct remote *r, struct tracee *t, size_t first, size_t n, struct err *err)
{
	struct remote_call *calls = (struct remote_call *)(void *)(r->mirror + CALLS_AT);

	if (sync_mirror(r, process_vm_writev, err) < 0)
		return -1;
	for (size_t i = first; i < first + n; i++) {
		long ret;

		if (tracee_syscall_at(t, r->syscall_insn, (long)calls[i].nr, calls[i].arg, &ret, err) < 0)
			return -1;
		calls[i].ret = ret;
		if (mem_write(r->tgid, r->base + (uint64_t)((char *)&calls[i].ret - r->mirror), &ret,
			      sizeof(ret), err) < 0)
			return -1;
	}
	return sync_mirror(r, process_vm_readv, err);
}

int remote_run(struct remote *r, struct tracee *t, struct err *err)
{
	struct tracee_held held;
	struct arch_regs regs;
	bool trap;

	if (r->n_calls == 0)
		return 0;
	if (tracee_pending_trap(t, &trap, err) < 0)
		return -1;
	if (trap || r->one_by_one)
		return run_one_by_one(r, t, 0, r->n_calls, err);
	if (sync_mirror(r, process_vm_writev, err) < 0 || tracee_hold(t, &held, err) < 0)
		return -1;
	regs = held.regs;
	arch_prepare_batch(&regs, r->base, r->base + CALLS_AT, r->n_calls);
	if (tracee_set_regs(t, &regs, err) < 0 || run_to_trap(r, t, err) < 0 ||
	    sync_mirror(r, process_vm_readv, err) < 0)
		return -1;
	return tracee_unhold(t, &held, err);
}

static int start_part(struct remote *r, struct remote_part *part, struct err *err)
{
	struct arch_regs regs = part->regs;

	if (tracee_block(part->thread, err) < 0)
		return -1;
	arch_prepare_batch(&regs, r->base,
			   r->base + CALLS_AT + part->first * sizeof(struct remote_call), part->n);
	if (tracee_set_regs(part->thread, &regs, err) < 0 ||
	    tracee_resume(part->thread, PTRACE_CONT, 0, err) < 0)
		return -1;
	part->running = true;
	return 0;
}

static int finish_part(struct remote *r, struct remote_part *part, struct err *err)
{
	const struct tracee_held held = {.regs = part->regs, .mask = part->mask};

	return await_trap(r, part->thread, err) < 0 ? -1 : tracee_unhold(part->thread, &held, err);
}

int remote_run_parts(struct remote *r, struct remote_part *parts, size_t n, struct err *err)
{
	struct err first;
	int result = sync_mirror(r, process_vm_writev, &first);

	for (size_t i = 0; i < n; i++)
		parts[i].running = false;
	for (size_t i = 0; i < n && result == 0; i++)
		result = parts[i].one_by_one ? 0 : start_part(r, &parts[i], &first);
	/* All that run must come to their trap before anything else can be done with them. */
	for (size_t i = 0; i < n; i++)
		if (parts[i].running && finish_part(r, &parts[i], result < 0 ? err : &first) < 0)
			result = -1;
	if (result == 0)
		result = sync_mirror(r, process_vm_readv, &first);
	for (size_t i = 0; i < n && result == 0; i++)
		if (parts[i].one_by_one)
			result = run_one_by_one(r, parts[i].thread, parts[i].first, parts[i].n, &first);
	if (result < 0)
		*err = first;
	return result;
}

size_t remote_calls_left(const struct remote *r)
{
	return REMOTE_MAX_CALLS - r->n_calls;
}

int remote_one(struct remote *r, struct tracee *t, long *ret, long nr, const uint64_t *arg,
	       size_t n_args, struct err *err)
{
	struct remote_call *c = remote_call_add(r, nr, arg, n_args);
	int result;

	if (!c)
		return err_set(err, ERR_INVALID, "too many calls queued");
	result = remote_run(r, t, err);
	if (result == 0)
		*ret = (long)c->ret;
	remote_reset(r);
	return result;
}

int remote_touch_xstate(struct remote *r, struct tracee *t, struct err *err)
{
	struct tracee_held held;
	struct arch_regs regs;
	bool trap;

	if (tracee_pending_trap(t, &trap, err) < 0)
		return -1;
	if (trap)
		return err_set(err, ERR_UNSUPPORTED,
			       "thread %d has both a SIGTRAP pending and large registers in use", t->tid);
	if (tracee_hold(t, &held, err) < 0)
		return -1;
	regs = held.regs;
	arch_prepare_touch_xstate(&regs, r->base);
	if (tracee_set_regs(t, &regs, err) < 0 || run_to_trap(r, t, err) < 0)
		return -1;
	return tracee_unhold(t, &held, err);
}
