/*
 * refused.c: one object that no snapshot can hold, by variant. The snapshot must fail by its name,
 * the job must run on: it checks that the object still works.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#define PAGE 4096

/* Makes it; returns a number that `check` gets. Skips where this machine or user cannot. */
typedef long make_fn(const struct target *t);
typedef void check_fn(long made);

static long need(long result, const char *what)
{
	if (result < 0)
		target_skip(what);
	return result;
}

/* ---- namespaces and root ------------------------------------------------------------------- */

static long make_namespace(int flag)
{
	if (unshare(flag) == 0 || unshare(CLONE_NEWUSER | flag) == 0)
		return 0;
	target_skip("namespaces cannot be made here");
}

static long make_user(const struct target *t)
{
	return make_namespace(CLONE_NEWUSER);
}

static long make_mnt(const struct target *t)
{
	return need(unshare(CLONE_NEWNS), "needs root");
}

static long make_net(const struct target *t)
{
	return need(unshare(CLONE_NEWNET), "needs root");
}

static long make_uts(const struct target *t)
{
	return need(unshare(CLONE_NEWUTS), "needs root");
}

static long make_ipc(const struct target *t)
{
	return need(unshare(CLONE_NEWIPC), "needs root");
}

static long make_cgroup(const struct target *t)
{
	return need(unshare(CLONE_NEWCGROUP), "needs root");
}

static long make_pid(const struct target *t)
{
	return need(unshare(CLONE_NEWPID), "needs root");
}

static long make_root(const struct target *t)
{
	return need(chroot(t->dir), "needs root");
}

/* ---- filters ------------------------------------------------------------------------------- */

static long make_filter(const struct target *t)
{
	/* Kills whoever maps memory that may be executed: our own executor would be. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	if (geteuid() == 0)
		target_skip("root can read filters");
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	return need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "no seccomp");
}

static void *strict_main(void *arg)
{
	char byte;

	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
	CHECK(syscall(SYS_read, *(int *)arg, &byte, 1) == 1);
	syscall(SYS_exit, 0);
	return NULL;
}

static int strict_pipe[2];
static pthread_t strict_thread;

static long make_strict(const struct target *t)
{
	if (geteuid() == 0)
		target_skip("root can suspend strict mode");
	CHECK(pipe2(strict_pipe, O_CLOEXEC) == 0);
	CHECK(pthread_create(&strict_thread, NULL, strict_main, &strict_pipe[0]) == 0);
	sleep_ms(100);
	return 0;
}

static void check_strict(long made)
{
	CHECK(write(strict_pipe[1], "x", 1) == 1);
}

/* ---- a tracer ------------------------------------------------------------------------------ */

static long make_traced(const struct target *t)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		for (;;)
			sleep_ms(20);
	}
	CHECK(ptrace(PTRACE_SEIZE, child, 0, 0) == 0);
	return child;
}

static void check_traced(long child)
{
	int status;

	CHECK(ptrace(PTRACE_INTERRUPT, (pid_t)child, 0, 0) == 0);
	CHECK(waitpid((pid_t)child, &status, 0) == child && WIFSTOPPED(status));
	CHECK(kill((pid_t)child, SIGKILL) == 0);
	CHECK(waitpid((pid_t)child, &status, 0) == child);
}

/* ---- descriptors and memory ---------------------------------------------------------------- */

static long make_io_uring(const struct target *t)
{
	struct io_uring_params params = {0};

	return need(syscall(SYS_io_uring_setup, 8, &params), "no io_uring");
}

static void check_io_uring(long fd)
{
	CHECK(syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0) == 0);
}

/* The descriptor closed, the rings mapped: it is alive all the same. */
static long make_io_uring_mapped(const struct target *t)
{
	struct io_uring_params params = {0};
	int fd = (int)need(syscall(SYS_io_uring_setup, 8, &params), "no io_uring");
	void *ring = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);

	CHECK(ring != MAP_FAILED);
	close(fd);
	return 0;
}

/* A kernel thread of the ring's is one of the process's threads. */
static long make_io_uring_thread(const struct target *t)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 10};

	return need(syscall(SYS_io_uring_setup, 8, &params), "no io_uring");
}

static long make_userfaultfd(const struct target *t)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)need(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */),
			   "no userfaultfd");

	CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
	return fd;
}

static long make_secret(const struct target *t)
{
	int fd = (int)need(syscall(SYS_memfd_secret, O_CLOEXEC), "no memfd_secret");
	char *p;

	CHECK(ftruncate(fd, PAGE) == 0);
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		target_skip("secret memory cannot be locked here");
	close(fd);
	*p = 7;
	return (long)p;
}

static long make_secret_fd(const struct target *t)
{
	return need(syscall(SYS_memfd_secret, O_CLOEXEC), "no memfd_secret");
}

static void check_secret(long p)
{
	CHECK_EQ(*(char *)p, 7);
}

static long make_aio(const struct target *t)
{
	aio_context_t context = 0;

	need(syscall(SYS_io_setup, 4, &context), "no asynchronous I/O");
	return (long)context;
}

static void check_aio(long context)
{
	CHECK(syscall(SYS_io_destroy, context) == 0);
}

static long make_perf(const struct target *t)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
				       .size = sizeof(attr),
				       .config = PERF_COUNT_SW_CPU_CLOCK,
				       .exclude_kernel = 1};

	return need(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0),
		    "perf events are not allowed here");
}

static void check_perf(long fd)
{
	uint64_t count;

	CHECK(read((int)fd, &count, sizeof(count)) == sizeof(count));
}

static long make_bpf(const struct target *t)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};

	return need(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)),
		    "bpf is not allowed here");
}

/* ---- the rest ------------------------------------------------------------------------------ */

static long make_session_keyring(const struct target *t)
{
	return need(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "of the test"), "no keyrings");
}

static long make_process_keyring(const struct target *t)
{
	return need(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1),
		    "no keyrings");
}

static void check_process_keyring(long id)
{
	CHECK_EQ(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 0), id);
}

static long make_deadline(const struct target *t)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} a = {.size = 48,
	       .policy = 6,
	       .runtime = 1000000,
	       .deadline = 50000000,
	       .period = 50000000};

	return need(syscall(SYS_sched_setattr, 0, &a, 0), "SCHED_DEADLINE is not allowed here");
}

/* ---- IPC that belongs to no process -------------------------------------------------------- */

static long make_mqueue(const struct target *t)
{
	mqd_t queue = mq_open("/pawl-refused", O_CREAT | O_RDWR, 0600, NULL);

	need(queue, "no POSIX message queues here");
	CHECK(mq_send(queue, "waiting", 8, 1) == 0);
	CHECK(mq_notify(queue, &(struct sigevent){.sigev_notify = SIGEV_NONE}) == 0);
	return queue;
}

static void check_mqueue(long queue)
{
	struct mq_attr attr;

	CHECK(mq_getattr((mqd_t)queue, &attr) == 0 && attr.mq_curmsgs == 1);
}

static const struct {
	const char *name;
	make_fn *make;
	check_fn *check;
} all[] = {
	{"user", make_user, NULL},
	{"mnt", make_mnt, NULL},
	{"net", make_net, NULL},
	{"uts", make_uts, NULL},
	{"ipc", make_ipc, NULL},
	{"cgroup", make_cgroup, NULL},
	{"pid", make_pid, NULL},
	{"root", make_root, NULL},
	{"filter", make_filter, NULL},
	{"strict", make_strict, check_strict},
	{"traced", make_traced, check_traced},
	{"io_uring", make_io_uring, check_io_uring},
	{"io_uring-mapped", make_io_uring_mapped, NULL},
	{"io_uring-thread", make_io_uring_thread, NULL},
	{"userfaultfd", make_userfaultfd, NULL},
	{"secret", make_secret, check_secret},
	{"secret-fd", make_secret_fd, NULL},
	{"aio", make_aio, check_aio},
	{"perf", make_perf, check_perf},
	{"bpf", make_bpf, NULL},
	{"session-keyring", make_session_keyring, NULL},
	{"process-keyring", make_process_keyring, check_process_keyring},
	{"deadline", make_deadline, NULL},
	{"mqueue", make_mqueue, check_mqueue},
};

/* Without the path: the root directory may be another by now. */
static void wait_until_told(int dir)
{
	while (faccessat(dir, "go", F_OK, 0) < 0)
		sleep_ms(10);
}

int main(int argc, char **argv)
{
	struct target t;
	int dir, fd;

	target_start(&t, argc, argv);
	dir = open(t.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir >= 0);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		long made;

		if (strcmp(all[i].name, t.variant))
			continue;
		made = all[i].make(&t);
		fd = openat(dir, "ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		CHECK(fd >= 0);
		close(fd);
		wait_until_told(dir);
		if (all[i].check)
			all[i].check(made);
		return target_pass(&t);
	}
	target_fail(__FILE__, __LINE__, "no such variant", 0, 0);
}
