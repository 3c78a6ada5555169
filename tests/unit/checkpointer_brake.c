/*
 * A child of our own that is slowed down: it gets less far, notices nothing, and runs as ever when that is over.
 */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpointer/brake.h"
#include "checkpointer/tracee/procfs.h"

#define LOOK_US 300000

/* What the child tells, in a page of both. */
struct told {
	atomic_ulong count;
	atomic_ulong waits;
	atomic_int interrupted;
};

struct lab {
	pid_t pid;
	struct told *told;
	struct tree_root root;
	struct sleeps *sleeps;
	struct brake *brake;
};

/* Each wait is the whole of its time, and no call ends early. */
static void *wait_again_and_again(void *arg)
{
	struct told *told = arg;
	struct epoll_event event;
	int epoll = epoll_create1(0);

	for (;;) {
		if (epoll_wait(epoll, &event, 1, 20) < 0)
			atomic_store(&told->interrupted, errno);
		atomic_fetch_add(&told->waits, 1);
	}
	return NULL;
}

static void count(struct told *told)
{
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pthread_create(&thread, NULL, wait_again_and_again, told))
		_exit(1);
	for (;;)
		atomic_fetch_add(&told->count, 1);
}

static int start(void **state)
{
	struct lab *lab = calloc(1, sizeof(*lab));
	struct proc_stat stat;
	struct err err;

	lab->told = mmap(NULL, sizeof(*lab->told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(lab->told, MAP_FAILED);
	lab->pid = fork();
	assert_true(lab->pid >= 0);
	if (lab->pid == 0)
		count(lab->told);
	assert_int_equal(proc_read_stat(lab->pid, 0, &stat, &err), 0);
	lab->root = (struct tree_root){.pid = lab->pid, .attached = true, .start_time = stat.start_time};
	assert_int_equal(sleeps_new(&lab->sleeps, &err), 0);
	assert_int_equal(brake_new(&lab->brake, &lab->root, lab->sleeps, &err), 0);
	*state = lab;
	return 0;
}

static int end(void **state)
{
	struct lab *lab = *state;

	brake_free(lab->brake);
	sleeps_free(lab->sleeps);
	if (lab->pid > 0) {
		assert_int_equal(kill(lab->pid, SIGKILL), 0);
		assert_int_equal(waitpid(lab->pid, NULL, 0), lab->pid);
	}
	munmap(lab->told, sizeof(*lab->told));
	free(lab);
	return 0;
}

/* Of LOOK_US, as far as can be told from outside: ns for which it was held meanwhile. */
static uint64_t look(struct lab *lab)
{
	uint64_t before = brake_held(lab->brake);

	usleep(LOOK_US);
	return brake_held(lab->brake) - before;
}

static void test_holds_as_long_as_it_is_told_to(void **state)
{
	struct lab *lab = *state;
	unsigned long counted;
	bool most = false;

	assert_int_equal(look(lab), 0);
	brake_set(lab->brake, 90);
	counted = atomic_load(&lab->told->count);
	for (int i = 0; !most && i < 10; i++) /* on a busy machine who is to hold it gets little done himself */
		most = look(lab) > LOOK_US * 500ull && atomic_load(&lab->told->count) > counted;
	assert_true(most); /* … and it goes on all the same */
	brake_set(lab->brake, 0);
	brake_lift(lab->brake); /* what was held is let go */
	brake_apply(lab->brake);
	assert_int_equal(look(lab), 0);
}

static void test_holds_nothing_while_it_is_lifted(void **state)
{
	struct lab *lab = *state;
	struct proc_stat stat;
	struct err err;

	brake_set(lab->brake, BRAKE_MOST);
	for (int i = 0; i < 20; i++) {
		usleep(1000u * (unsigned)i);
		brake_lift(lab->brake);
		assert_int_equal(proc_read_stat(lab->pid, 0, &stat, &err), 0);
		assert_int_not_equal(stat.state, 't');
		usleep(5000);
		assert_int_equal(proc_read_stat(lab->pid, 0, &stat, &err), 0);
		assert_int_not_equal(stat.state, 't');
		brake_apply(lab->brake);
	}
}

static void test_is_not_noticed(void **state)
{
	struct lab *lab = *state;
	unsigned long waits = atomic_load(&lab->told->waits);

	brake_set(lab->brake, 67);
	usleep(4 * LOOK_US);
	assert_int_equal(atomic_load(&lab->told->interrupted), 0);
	/* The waits end: none begins anew each time. */
	assert_true(atomic_load(&lab->told->waits) > waits + 5);
}

static void test_outlives_the_job(void **state)
{
	struct lab *lab = *state;
	struct proc_stat stat;
	struct err err;
	uint64_t held;

	brake_set(lab->brake, 67);
	usleep(LOOK_US / 10);
	assert_int_equal(kill(lab->pid, SIGKILL), 0);
	/* Whoever traces a child of his own may reap it. */
	while (proc_read_stat(lab->pid, 0, &stat, &err) == 0 && stat.state != 'Z')
		usleep(1000);
	brake_lift(lab->brake); /* a hold that was under way is over, however long it takes on a busy machine */
	held = brake_held(lab->brake);
	brake_apply(lab->brake);
	assert_int_equal(look(lab), 0);
	assert_int_equal(brake_held(lab->brake), held);
	waitpid(lab->pid, NULL, 0);
	lab->pid = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_holds_as_long_as_it_is_told_to, start, end),
		cmocka_unit_test_setup_teardown(test_holds_nothing_while_it_is_lifted, start, end),
		cmocka_unit_test_setup_teardown(test_is_not_noticed, start, end),
		cmocka_unit_test_setup_teardown(test_outlives_the_job, start, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
