/*
 * Processes and threads that come and go as fast as they can: forks, vforks, executions, exits,
 * threads. Variants: "forks", "spawns", "threads", "mixed" (all, the default). Each worker counts
 * what it has started and what it has collected; nothing may be lost, and no status be wrong,
 * whatever happens to the job meanwhile.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 3

static struct shared {
	volatile int stop;
	volatile unsigned long rounds[WORKERS];
} * shared;

static struct target target;
static char *self;

static void expect(pid_t pid, int code)
{
	int status;
	pid_t got;

	CHECK(pid > 0);
	do
		got = waitpid(pid, &status, 0);
	while (got < 0 && errno == EINTR);
	CHECK_EQ(got, pid);
	CHECK_EQ(status, code << 8);
}

/* Children and a grandchild, several at once. */
static void forks(unsigned round)
{
	pid_t pids[4];

	for (int i = 0; i < 4; i++) {
		pids[i] = fork();
		CHECK(pids[i] >= 0);
		if (pids[i] == 0) {
			if (i == 0) {
				pid_t pid = fork();

				if (pid == 0)
					_exit(17);
				expect(pid, 17);
			}
			_exit((int)(round % 100) + i);
		}
	}
	for (int i = 0; i < 4; i++)
		expect(pids[i], (int)(round % 100) + i);
}

static void spawns(unsigned round)
{
	char code[8];
	char *argv[] = {self, (char *)"--exit", code, NULL};
	pid_t pid;

	snprintf(code, sizeof(code), "%u", round % 100);
	CHECK_EQ(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
	expect(pid, (int)(round % 100));
	pid = vfork();
	if (pid == 0) {
		execv(self, argv);
		_exit(127);
	}
	expect(pid, (int)(round % 100));
}

static void *thread_body(void *arg)
{
	return (void *)((uintptr_t)arg * 3);
}

static void threads(unsigned round)
{
	pthread_t list[6];
	void *value;

	for (uintptr_t i = 0; i < 6; i++)
		CHECK_EQ(pthread_create(&list[i], NULL, thread_body, (void *)(i + round)), 0);
	for (uintptr_t i = 0; i < 6; i++) {
		CHECK_EQ(pthread_join(list[i], &value), 0);
		CHECK_EQ((uintptr_t)value, (i + round) * 3);
	}
}

static void work(int worker)
{
	bool all = !*target.variant || strcmp(target.variant, "mixed") == 0;

	for (unsigned round = 0; !shared->stop; round++) {
		if (all ? worker == 0 : strcmp(target.variant, "forks") == 0)
			forks(round);
		if (all ? worker == 1 : strcmp(target.variant, "spawns") == 0)
			spawns(round);
		if (all ? worker == 2 : strcmp(target.variant, "threads") == 0)
			threads(round);
		shared->rounds[worker] = round + 1;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t workers[WORKERS];

	if (argc == 3 && strcmp(argv[1], "--exit") == 0)
		_exit(atoi(argv[2]));
	target_start(&target, argc, argv);
	self = argv[0];
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED);
	for (int i = 0; i < WORKERS; i++) {
		workers[i] = fork();
		CHECK(workers[i] >= 0);
		if (workers[i] == 0)
			work(i);
	}
	target_ready(&target);
	while (!target_told(&target)) {
		sleep_ms(10);
		/* A worker that has failed ends the job at once. */
		CHECK_EQ(waitpid(-1, NULL, WNOHANG), 0);
	}
	shared->stop = 1;
	for (int i = 0; i < WORKERS; i++) {
		expect(workers[i], 0);
		CHECK(shared->rounds[i] > 0);
	}
	return target_pass(&target);
}
