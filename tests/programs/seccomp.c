/*
 * seccomp.c: filters of several threads, some shared by SECCOMP_FILTER_FLAG_TSYNC, are in force afterwards and can
 * still be extended for all threads. With variant "strict" one thread is in strict mode, with variant "dropped" the
 * process has given up the privileges that it took to install its filter. Only root can have them saved.
 */
#include "target.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define N_THREADS 3

/* Answers call nr with errno code. */
static void install(long nr, int code, unsigned flags)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog fprog = {sizeof(program) / sizeof(program[0]), program};

	CHECK_EQ(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog), 0);
}

/* Forbids by death all that a snapshot or a recovery does in our name. */
static void install_deadly(void)
{
	static const unsigned char deadly[] = {SYS_munmap, SYS_sigaltstack, SYS_getitimer, SYS_personality};
	struct sock_filter program[2 * sizeof(deadly) + 2];
	struct sock_fprog fprog = {sizeof(program) / sizeof(program[0]), program};
	size_t n = 0;

	program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < sizeof(deadly); i++) {
		program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, deadly[i], 0, 1);
		program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	}
	program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	CHECK_EQ(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &fprog), 0);
}

static void expect(long nr, int code)
{
	long result = syscall(nr, -1, 0, 0, 0, 0, 0);

	CHECK(result == -1);
	CHECK_EQ(errno, code);
}

static pthread_barrier_t barrier;
static volatile bool told;

static void *member_main(void *arg)
{
	pthread_barrier_wait(&barrier); /* ready */
	while (!told)
		usleep(10000);
	expect(SYS_getsid, 72);
	expect(SYS_times, 73);
	expect(SYS_getpgid, 41);
	return NULL;
}

static int strict_pipe[2];

static void *strict_main(void *arg)
{
	char byte;

	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
	CHECK(syscall(SYS_read, strict_pipe[0], &byte, 1) == 1 && byte == 'x');
	syscall(SYS_exit, 0);
	return NULL;
}

static int run_strict(const struct target *t)
{
	pthread_t thread;

	CHECK(pipe(strict_pipe) == 0);
	CHECK(pthread_create(&thread, NULL, strict_main, NULL) == 0);
	sleep_ms(100);
	target_ready(t);
	target_wait(t);
	CHECK(write(strict_pipe[1], "x", 1) == 1);
	CHECK(pthread_join(thread, NULL) == 0);
	return target_pass(t);
}

static int run_dropped(const struct target *t)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {0};

	install(SYS_getsid, 71, 0);
	CHECK(syscall(SYS_capset, &head, none) == 0);
	target_ready(t);
	target_wait(t);
	expect(SYS_getsid, 71);
	CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
	return target_pass(t);
}

int main(int argc, char **argv)
{
	pthread_t threads[N_THREADS];
	struct target t;

	target_start(&t, argc, argv);
	if (geteuid() != 0)
		target_skip("only root can read filters");
	if (!strcmp(t.variant, "strict"))
		return run_strict(&t);
	if (!strcmp(t.variant, "dropped"))
		return run_dropped(&t);
	pthread_barrier_init(&barrier, NULL, N_THREADS + 1);
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, member_main, NULL) == 0);
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	install(SYS_getsid, 71, SECCOMP_FILTER_FLAG_TSYNC);
	install(SYS_getsid, 72, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG); /* the last one wins */
	install_deadly();
	install(SYS_getpgid, 41, 0); /* for this thread alone, until the last TSYNC */
	pthread_barrier_wait(&barrier);
	target_ready(&t);
	target_wait(&t);
	expect(SYS_getsid, 72);
	/* Only where ours descend from the other threads' filters can it be given to them too. */
	install(SYS_times, 73, SECCOMP_FILTER_FLAG_TSYNC);
	told = true;
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return target_pass(&t);
}
