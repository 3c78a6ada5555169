/*
 * Many of everything. Variants are a kind and how many: "processes500" (a tree, eight children each),
 * "threads2000" (asleep in three ways, some with a signal mask of their own), "regions20000" (of four
 * pages, one of them written), "pool1024" (a parent and 15 forked children that share so many MiB).
 */
#include "target.h"

#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static struct target target;

/* What wakes everybody at the end: its write end is closed. */
static int gate[2];

static void wait_at_gate(void)
{
	struct pollfd fd = {.fd = gate[0], .events = POLLIN};

	CHECK_EQ(poll(&fd, 1, -1), 1);
}

/* ---- processes ----------------------------------------------------------------------------- */

#define CHILDREN 8

/* Process number `index` of `n`, numbered level by level. */
static void process(long index, long n, int ready)
{
	pid_t self = getpid(), parent = getppid(), children[CHILDREN];
	uint64_t own[PAGE / 8];
	int made = 0, status;

	pattern_fill(own, sizeof(own), (uint64_t)index);
	for (long child = index * CHILDREN + 1; child <= index * CHILDREN + CHILDREN && child < n; child++) {
		children[made] = fork();
		CHECK(children[made] >= 0);
		if (children[made] == 0) {
			process(child, n, ready);
			_exit((int)(child % 100));
		}
		made++;
	}
	CHECK_EQ(write(ready, "", 1), 1);
	if (index == 0)
		return;
	close(gate[1]);
	wait_at_gate();
	CHECK_EQ(getpid(), self);
	CHECK_EQ(getppid(), parent);
	CHECK(pattern_holds(own, sizeof(own), (uint64_t)index));
	for (int i = 0; i < made; i++) {
		CHECK_EQ(waitpid(children[i], &status, 0), children[i]);
		CHECK_EQ(status, (index * CHILDREN + 1 + i) % 100 << 8);
	}
}

static void processes(long n)
{
	int ready[2];
	char byte;

	CHECK(pipe(ready) == 0);
	process(0, n, ready[1]);
	for (long i = 0; i < n; i++)
		CHECK_EQ(read(ready[0], &byte, 1), 1);
	target_ready(&target);
	target_wait(&target);
	close(gate[1]);
	for (long child = 1; child <= CHILDREN && child < n; child++) {
		int status;

		CHECK(wait(&status) > 0);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) < 100);
	}
}

/* ---- threads ------------------------------------------------------------------------------- */

static __thread long own_number;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool is_open;
static atomic_long n_ready;

static void sleep_somehow(long i)
{
	struct timespec moment = {.tv_nsec = 50000000};

	switch (i % 3) {
	case 0:
		wait_at_gate();
		return;
	case 1:
		pthread_mutex_lock(&lock);
		while (!is_open)
			pthread_cond_wait(&opened, &lock);
		pthread_mutex_unlock(&lock);
		return;
	default:
		while (!*(volatile bool *)&is_open) {
			nanosleep(&moment, NULL);
			moment.tv_nsec = moment.tv_nsec < 800000000 ? moment.tv_nsec * 2 : 800000000;
		}
	}
}

static void *thread(void *arg)
{
	long i = (long)(intptr_t)arg;
	pid_t tid = gettid();
	sigset_t mask, now;
	uint64_t own[32];

	own_number = i;
	pattern_fill(own, sizeof(own), (uint64_t)i);
	sigemptyset(&mask);
	if (i % 5 == 0)
		sigaddset(&mask, SIGRTMIN + (int)(i % 20));
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	n_ready++;
	sleep_somehow(i);
	CHECK_EQ(own_number, i);
	CHECK_EQ(gettid(), tid);
	CHECK(pattern_holds(own, sizeof(own), (uint64_t)i));
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	for (int s = SIGRTMIN; s < SIGRTMIN + 20; s++)
		CHECK_EQ(sigismember(&now, s), sigismember(&mask, s));
	return (void *)(intptr_t)(i * 7);
}

static void threads(long n)
{
	pthread_t *list = calloc((size_t)n, sizeof(*list));
	pthread_attr_t small;
	void *value;

	CHECK(list != NULL);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (long i = 0; i < n; i++)
		CHECK_EQ(pthread_create(&list[i], &small, thread, (void *)(intptr_t)i), 0);
	while (n_ready < n)
		sleep_ms(10);
	target_ready(&target);
	target_wait(&target);
	pthread_mutex_lock(&lock);
	is_open = true;
	pthread_cond_broadcast(&opened);
	pthread_mutex_unlock(&lock);
	close(gate[1]);
	for (long i = 0; i < n; i++) {
		CHECK_EQ(pthread_join(list[i], &value), 0);
		CHECK_EQ((intptr_t)value, i * 7);
	}
	free(list);
}

/* ---- regions ------------------------------------------------------------------------------- */

#define REGION (4 * PAGE)

/* Neighbours differ in protection, so they do not merge. */
static void regions(long n)
{
	char *all = mmap(NULL, (size_t)n * REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t touched = 0;

	CHECK(all != MAP_FAILED);
	for (long i = 0; i < n; i++) {
		pattern_fill(all + i * REGION + i % 4 * PAGE, PAGE, (uint64_t)i);
		if (i % 2)
			CHECK(mprotect(all + i * REGION, REGION, PROT_READ) == 0);
	}
	target_ready(&target);
	while (!target_told(&target)) {
		char *one = all + mix64(touched) % (uint64_t)n / 2 * 2 * REGION;

		pattern_fill(one + (one - all) / REGION % 4 * PAGE, PAGE, (uint64_t)((one - all) / REGION));
		touched++;
		sleep_ms(1);
	}
	for (long i = 0; i < n; i++)
		for (long k = 0; k < 4; k++) {
			static const char zero[PAGE];
			const char *page = all + i * REGION + k * PAGE;

			CHECK(k == i % 4 ? pattern_holds(page, PAGE, (uint64_t)i)
					 : memcmp(page, zero, PAGE) == 0);
		}
}

/* ---- a forked pool ------------------------------------------------------------------------- */

#define WORKERS 15

static void check_pool(const char *all, size_t len, int worker)
{
	for (size_t at = 0; at < len; at += PAGE)
		CHECK(pattern_holds(all + at, PAGE,
				    at / PAGE % 512 == 7 ? at + (uint64_t)worker : at));
}

static void pool(long mib)
{
	size_t len = (size_t)mib << 20;
	char *all = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t workers[WORKERS];
	int ready[2], status;
	char byte;

	CHECK(all != MAP_FAILED && pipe(ready) == 0);
	for (size_t at = 0; at < len; at += PAGE)
		pattern_fill(all + at, PAGE, at);
	for (int i = 0; i < WORKERS; i++) {
		workers[i] = fork();
		CHECK(workers[i] >= 0);
		if (workers[i] != 0)
			continue;
		close(gate[1]);
		/* One page in 2 MiB is its own. */
		for (size_t at = 7 * PAGE; at < len; at += 512 * PAGE)
			pattern_fill(all + at, PAGE, at + (uint64_t)i + 1);
		CHECK_EQ(write(ready[1], "", 1), 1);
		wait_at_gate();
		check_pool(all, len, i + 1);
		_exit(i);
	}
	for (int i = 0; i < WORKERS; i++)
		CHECK_EQ(read(ready[0], &byte, 1), 1);
	target_ready(&target);
	target_wait(&target);
	close(gate[1]);
	check_pool(all, len, 0);
	for (int i = 0; i < WORKERS; i++) {
		CHECK_EQ(waitpid(workers[i], &status, 0), workers[i]);
		CHECK_EQ(status, i << 8);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(long n);
	} kinds[] = {
		{"processes", processes}, {"threads", threads}, {"regions", regions}, {"pool", pool}};
	bool found = false;

	target_start(&target, argc, argv);
	CHECK(pipe(gate) == 0);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t len = strlen(kinds[i].name);

		if (strncmp(target.variant, kinds[i].name, len) != 0)
			continue;
		CHECK(atol(target.variant + len) > 0);
		kinds[i].run(atol(target.variant + len));
		found = true;
	}
	CHECK(found);
	return target_pass(&target);
}
