/*
 * The ptrace engine on live children of our own: stops, calls made in another's name, and that the
 * target notices nothing of it.
 */
#include "unit.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "checkpointer/tracee/remote.h"
#include "checkpointer/tracee/waits.h"
#include "store/base/io.h"

/* A child that runs body and exits with what it returns; reports readiness by a page it shares. */
struct child {
	pid_t pid;
	volatile int *shared; /* [0]: ready, [1]: told to end */
};

static struct child start_child(int (*body)(volatile int *shared))
{
	struct child c;

	c.shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal((void *)c.shared, MAP_FAILED);
	c.pid = fork();
	assert_true(c.pid >= 0);
	if (c.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(body(c.shared));
	}
	while (!c.shared[0])
		usleep(1000);
	return c;
}

static int end_child(struct child *c)
{
	int status;

	c->shared[1] = 1;
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	munmap((void *)c->shared, 4096);
	return status;
}

static void freeze_child(struct child *c, struct tracee *t)
{
	struct err err;

	assert_int_equal(tracee_seize(t, c->pid, c->pid, &err), 0);
	assert_int_equal(tracee_wait_stop(t, &err), 0);
}

static int spin(volatile int *shared)
{
	shared[0] = 1;
	while (!shared[1])
		shared[2]++;
	return 7;
}

static void calls_run_in_a_busy_process(void **state)
{
	struct child c = start_child(spin);
	struct tracee t;
	struct remote r;
	struct remote_call *pid, *bad;
	struct arch_regs before, after;
	uint64_t addr;
	char *name, own_name[16];
	struct err err;

	freeze_child(&c, &t);
	assert_int_equal(tracee_get_regs(&t, &before, &err), 0);
	assert_int_equal(remote_begin(&r, &t, 0, REMOTE_ROOM, &err), 0);
	pid = remote_call(&r, SYS_getpid);
	name = remote_data(&r, 16, &addr);
	remote_call(&r, SYS_prctl, PR_GET_NAME, addr);
	bad = remote_call(&r, SYS_close, 9999);
	assert_int_equal(remote_run(&r, &t, &err), 0);
	assert_int_equal(pid->ret, c.pid);
	assert_int_equal(bad->ret, -EBADF);
	prctl(PR_GET_NAME, own_name);
	assert_string_equal(name, own_name);
	assert_int_equal(remote_end(&r, &t, &err), 0);
	assert_int_equal(tracee_get_regs(&t, &after, &err), 0);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(tracee_detach(&t, &err), 0);
	assert_int_equal(WEXITSTATUS(end_child(&c)), 7);
}

#define SPINNERS 8

static void *spin_thread(void *arg)
{
	volatile int *shared = arg;

	__atomic_add_fetch(&shared[3], 1, __ATOMIC_SEQ_CST);
	while (!shared[1])
		;
	return NULL;
}

static int spin_in_threads(volatile int *shared)
{
	pthread_t threads[SPINNERS];

	for (int i = 0; i < SPINNERS; i++)
		if (pthread_create(&threads[i], NULL, spin_thread, (void *)shared))
			return 1;
	while (shared[3] < SPINNERS)
		usleep(1000);
	shared[0] = 1;
	for (int i = 0; i < SPINNERS; i++)
		pthread_join(threads[i], NULL);
	return 5;
}

/* Each in its own name, one of them without the executor, and all are afterwards where they were. */
static void calls_run_in_many_threads_at_a_time(void **state)
{
	struct child c = start_child(spin_in_threads);
	struct tracee t[SPINNERS + 1];
	struct remote_part parts[SPINNERS + 1] = {0};
	struct remote_call *tid[SPINNERS + 1], *pid[SPINNERS + 1];
	struct arch_regs after;
	struct remote r;
	struct err err;
	int *tids;
	size_t n;

	assert_int_equal(proc_list_numbers(c.pid, "task", &tids, &n, &err), 0);
	assert_int_equal(n, SPINNERS + 1);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(tracee_seize(&t[i], c.pid, tids[i], &err), 0);
		assert_int_equal(tracee_wait_stop(&t[i], &err), 0);
	}
	assert_int_equal(remote_begin(&r, &t[0], 0, REMOTE_ROOM, &err), 0);
	for (size_t i = 0; i < n; i++) {
		parts[i].thread = &t[i];
		parts[i].one_by_one = i == 3;
		parts[i].first = r.n_calls;
		tid[i] = remote_call(&r, SYS_gettid);
		pid[i] = remote_call(&r, SYS_getpid);
		parts[i].n = 2;
		assert_int_equal(tracee_get_regs(&t[i], &parts[i].regs, &err), 0);
		assert_int_equal(tracee_get_sigmask(&t[i], &parts[i].mask, &err), 0);
	}
	assert_int_equal(remote_run_parts(&r, parts, n, &err), 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(tid[i]->ret, tids[i]);
		assert_int_equal(pid[i]->ret, c.pid);
		assert_int_equal(tracee_get_regs(&t[i], &after, &err), 0);
		assert_memory_equal(&parts[i].regs, &after, sizeof(after));
	}
	assert_int_equal(remote_end(&r, &t[0], &err), 0);
	for (size_t i = n; i-- > 0;)
		assert_int_equal(tracee_detach(&t[i], &err), 0);
	free(tids);
	assert_int_equal(WEXITSTATUS(end_child(&c)), 5);
}

struct vain_wait {
	struct child *child;
	volatile pid_t tracer;
	int result;
	struct err err;
};

/* Seizes all threads of the child, and waits for its first one to stop once it runs again. */
static void *trace_and_wait(void *arg)
{
	struct vain_wait *w = arg;
	struct tracee t[SPINNERS + 1];
	struct err err;
	int *tids;
	size_t n;

	assert_int_equal(proc_list_numbers(w->child->pid, "task", &tids, &n, &err), 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(tracee_seize(&t[i], w->child->pid, tids[i], &err), 0);
		assert_int_equal(tracee_wait_stop(&t[i], &err), 0);
	}
	free(tids);
	assert_int_equal(tracee_continue(&t[0], 0, &err), 0);
	w->tracer = gettid();
	w->result = tracee_wait_stop(&t[0], &w->err);
	return NULL;
}

/* Its first thread would be waited for in vain, for the others have not been. */
static void the_end_of_a_killed_process_is_seen(void **state)
{
	struct child c = start_child(spin_in_threads);
	struct vain_wait w = {.child = &c};
	struct timespec until;
	pthread_t tracer;
	bool ended = false;

	assert_int_equal(pthread_create(&tracer, NULL, trace_and_wait, &w), 0);
	while (!w.tracer)
		usleep(1000);
	kill(c.pid, SIGKILL);
	for (int i = 0; i < 300 && !ended; i++) {
		tracee_end_vain_wait(w.tracer);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += until.tv_nsec > 900000000;
		until.tv_nsec = (until.tv_nsec + 100000000) % 1000000000;
		ended = pthread_timedjoin_np(tracer, NULL, &until) == 0;
	}
	assert_true(ended);
	assert_int_equal(w.result, -1);
	assert_int_equal(w.err.kind, ERR_GONE);
	munmap((void *)c.shared, 4096);
}

static void no_mapping_is_left_behind(void **state)
{
	struct child c = start_child(spin);
	struct proc_map *before, *after;
	size_t n_before, n_after;
	struct tracee t;
	struct remote r;
	struct err err;

	assert_int_equal(proc_read_maps(c.pid, false, &before, &n_before, &err), 0);
	freeze_child(&c, &t);
	assert_int_equal(remote_begin(&r, &t, 0, REMOTE_ROOM, &err), 0);
	assert_int_equal(remote_end(&r, &t, &err), 0);
	assert_int_equal(tracee_detach(&t, &err), 0);
	assert_int_equal(proc_read_maps(c.pid, false, &after, &n_after, &err), 0);
	assert_int_equal(n_before, n_after);
	for (size_t i = 0; i < n_before; i++)
		assert_int_equal(before[i].start, after[i].start);
	proc_maps_free(before, n_before);
	proc_maps_free(after, n_after);
	end_child(&c);
}

static int ignore_trap(volatile int *shared)
{
	struct sigaction sa;

	signal(SIGTRAP, SIG_IGN);
	shared[0] = 1;
	while (!shared[1])
		usleep(1000);
	sigaction(SIGTRAP, NULL, &sa);
	return sa.sa_handler == SIG_IGN ? 0 : 1;
}

static void an_ignored_trap_stays_ignored(void **state)
{
	struct child c = start_child(ignore_trap);
	struct tracee t;
	struct remote r;
	struct err err;

	freeze_child(&c, &t);
	assert_int_equal(remote_begin(&r, &t, 0, REMOTE_ROOM, &err), 0);
	remote_call(&r, SYS_getpid);
	assert_int_equal(remote_run(&r, &t, &err), 0);
	assert_int_equal(remote_end(&r, &t, &err), 0);
	assert_int_equal(tracee_detach(&t, &err), 0);
	assert_int_equal(WEXITSTATUS(end_child(&c)), 0);
}

/* Sleeps of every restart kind, disturbed ten times; each must take its own time and return normally. */
static int sleeper(volatile int *shared)
{
	struct timespec rel = {0, 400000000}, end;
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	int epoll = epoll_create1(0);
	struct epoll_event event;

	shared[0] = 1;
	if (nanosleep(&rel, NULL) != 0)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec++;
	if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) != 0)
		return 2;
	if (poll(NULL, 0, 400) != 0)
		return 3;
	if (epoll_wait(epoll, &event, 1, 400) != 0)
		return 4;
	return (clock_ns(CLOCK_MONOTONIC) - begin) / 100000000 == 22 ? 0 : 5;
}

static void disturbed_sleeps_keep_their_time(void **state)
{
	struct child c = start_child(sleeper);
	int status;

	for (int i = 0; i < 10; i++) {
		struct tracee t;
		struct remote r;
		struct arch_regs regs;
		struct err err;

		usleep(100000);
		freeze_child(&c, &t);
		assert_int_equal(remote_begin(&r, &t, 0, REMOTE_ROOM, &err), 0);
		remote_call(&r, SYS_getpid);
		assert_int_equal(remote_run(&r, &t, &err), 0);
		assert_int_equal(remote_end(&r, &t, &err), 0);
		/* What the checkpointer does for calls that a mere stop ends: make them again. */
		assert_int_equal(tracee_get_regs(&t, &regs, &err), 0);
		if (arch_restart_kind(&regs) == ARCH_INTERRUPTED) {
			arch_rewind(&regs);
			assert_int_equal(tracee_set_regs(&t, &regs, &err), 0);
		}
		assert_int_equal(tracee_detach(&t, &err), 0);
	}
	status = end_child(&c);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_second_tracer_is_told_who_has_it(void **state)
{
	struct child c = start_child(spin);
	struct tracee t, second;
	struct err err;
	int status;
	pid_t other;

	freeze_child(&c, &t);
	other = fork();
	if (other == 0) {
		int result = tracee_seize(&second, c.pid, c.pid, &err);

		_exit(result < 0 && err.kind == ERR_UNSUPPORTED ? 0 : 1);
	}
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(tracee_detach(&t, &err), 0);
	end_child(&c);
	assert_int_equal(tracee_seize(&t, c.pid, c.pid, &err), -1);
	assert_int_equal(err.kind, ERR_GONE);
}

static void a_call_number_is_read_from_its_code(void **state)
{
	const unsigned char code[] = {0x90, 0x90, 0xb8, 0x23, 0, 0, 0, 0x0f, 0x05};
	const unsigned char none[] = {0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x05};

	assert_int_equal(arch_guess_call_nr(code, sizeof(code)), 35);
	assert_int_equal(arch_guess_call_nr(none, sizeof(none)), -1);
	assert_int_equal(arch_guess_call_nr(none, 3), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_run_in_a_busy_process),
		cmocka_unit_test(calls_run_in_many_threads_at_a_time),
		cmocka_unit_test(the_end_of_a_killed_process_is_seen),
		cmocka_unit_test(no_mapping_is_left_behind),
		cmocka_unit_test(an_ignored_trap_stays_ignored),
		cmocka_unit_test(disturbed_sleeps_keep_their_time),
		cmocka_unit_test(a_second_tracer_is_told_who_has_it),
		cmocka_unit_test(a_call_number_is_read_from_its_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
