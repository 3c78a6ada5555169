/*
 * Many of everything. Variants are a kind and how many: "processes500" (a tree, eight children each),
 * "threads2000" (asleep in three ways, some with a signal mask of their own), "regions20000" (of four
 * pages, one of them written), "pool1024" (a parent and 15 forked children that share so many MiB),
 * "descriptors5000" (pipes, socket pairs, eventfds, files, duplicates, all of which a child has too;
 * one epoll instance watches them).
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
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

/* ---- descriptors --------------------------------------------------------------------------- */

/* A pair is two descriptors: of a pipe, of a socket pair, a file and its duplicate, an eventfd and a file. */
enum pair_kind { PAIR_PIPE, PAIR_SOCKET, PAIR_FILE, PAIR_EVENT, PAIR_KINDS };

struct pair {
	int fd[2];
};

static int numbered_file(long i)
{
	char name[4096];
	int fd;

	snprintf(name, sizeof(name), "%s/file%ld", target.dir, i);
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	CHECK_EQ(write(fd, &i, sizeof(i)), sizeof(i));
	return fd;
}

static void open_pair(struct pair *p, long i)
{
	switch (i % PAIR_KINDS) {
	case PAIR_PIPE:
		CHECK(pipe(p->fd) == 0);
		break;
	case PAIR_SOCKET:
		CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p->fd) == 0);
		break;
	case PAIR_FILE:
		p->fd[0] = numbered_file(i);
		p->fd[1] = dup(p->fd[0]);
		break;
	default:
		p->fd[0] = eventfd((unsigned)i, EFD_NONBLOCK);
		p->fd[1] = numbered_file(i);
	}
	CHECK(p->fd[0] >= 0 && p->fd[1] >= 0);
	if (i % PAIR_KINDS < PAIR_FILE)
		CHECK_EQ(write(p->fd[1], &i, sizeof(i)), sizeof(i));
}

static void check_pair(const struct pair *p, long i)
{
	uint64_t value = 0;

	if (i % PAIR_KINDS == PAIR_FILE)
		CHECK_EQ(lseek(p->fd[0], 0, SEEK_SET), 0);
	CHECK_EQ(read(p->fd[i % PAIR_KINDS == PAIR_FILE], &value, sizeof(value)), sizeof(value));
	CHECK_EQ(value, i);
	if (i % PAIR_KINDS == PAIR_EVENT)
		CHECK_EQ(lseek(p->fd[1], 0, SEEK_CUR), sizeof(i));
}

static void watch_pair(int epoll, const struct pair *p, long i)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)i};

	if (i % PAIR_KINDS != PAIR_FILE)
		CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, p->fd[0], &event) == 0);
}

/* A child keeps all of them open too. */
static pid_t fork_holder(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid)
		return pid;
	close(gate[1]);
	wait_at_gate();
	_exit(7);
}

static void descriptors(long n)
{
	struct rlimit room = {(rlim_t)n + 64, (rlim_t)n + 64};
	struct pair *pairs = calloc((size_t)n / 2, sizeof(*pairs));
	struct epoll_event event;
	int epoll = epoll_create1(0), status;
	pid_t holder;

	CHECK(pairs && epoll >= 0 && setrlimit(RLIMIT_NOFILE, &room) == 0);
	for (long i = 0; i < n / 2; i++) {
		open_pair(&pairs[i], i);
		watch_pair(epoll, &pairs[i], i);
	}
	holder = fork_holder();
	target_ready(&target);
	target_wait(&target);
	CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1);
	for (long i = 0; i < n / 2; i++)
		check_pair(&pairs[i], i);
	close(gate[1]);
	CHECK_EQ(waitpid(holder, &status, 0), holder);
	CHECK_EQ(status, 7 << 8);
	free(pairs);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(long n);
	} kinds[] = {{"processes", processes}, {"threads", threads}, {"regions", regions}, {"pool", pool},
		     {"descriptors", descriptors}};
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
