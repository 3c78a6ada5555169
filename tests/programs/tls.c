/*
 * tls.c: what the C library keeps a thread: thread-local variables, keys, errno, robust mutexes,
 * pthread_join (clear_child_tid), and error-checking locks that remember the owner's tid.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#define N_THREADS 4

static __thread uint64_t local_zero;
static __thread uint64_t local_set = 0x1234567890abcdefull;

struct team {
	struct target target;
	pthread_key_t key;
	pthread_mutex_t robust, checked;
	pthread_barrier_t barrier;
};

struct member {
	struct team *team;
	uint64_t index;
	pthread_t thread;
};

/* Holds the robust mutex while it is saved, and dies with it. */
static void *owner_main(void *arg)
{
	struct team *team = arg;

	CHECK(pthread_mutex_lock(&team->robust) == 0);
	pthread_barrier_wait(&team->barrier);
	target_wait(&team->target);
	return NULL;
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct team *team = m->team;
	pid_t tid = gettid();
	pthread_t self = pthread_self();

	CHECK(local_zero == 0 && local_set == 0x1234567890abcdefull);
	local_zero = mix64(m->index);
	local_set = mix64(m->index + 1);
	CHECK(pthread_setspecific(team->key, &m->index) == 0);
	pthread_barrier_wait(&team->barrier);
	errno = 1000 + (int)m->index;
	while (access("/nonexistent/pawl", F_OK) == 0 || !target_told(&team->target))
		sleep_ms(5);
	CHECK(local_zero == mix64(m->index) && local_set == mix64(m->index + 1));
	CHECK(pthread_getspecific(team->key) == &m->index);
	CHECK(pthread_equal(self, pthread_self()));
	CHECK_EQ(tid, gettid());
	return (void *)m->index;
}

static void init_mutexes(struct team *team)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&team->robust, &attr);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&team->checked, &attr);
}

static void check_locks(struct team *team)
{
	CHECK_EQ(pthread_mutex_lock(&team->checked), EDEADLK);
	CHECK(pthread_mutex_unlock(&team->checked) == 0);
	CHECK_EQ(pthread_mutex_lock(&team->robust), EOWNERDEAD);
	CHECK(pthread_mutex_consistent(&team->robust) == 0);
	CHECK(pthread_mutex_unlock(&team->robust) == 0);
}

int main(int argc, char **argv)
{
	static struct team team;
	struct member members[N_THREADS];
	pthread_t owner;
	void *result;

	target_start(&team.target, argc, argv);
	init_mutexes(&team);
	pthread_key_create(&team.key, NULL);
	pthread_barrier_init(&team.barrier, NULL, N_THREADS + 2);
	CHECK(pthread_create(&owner, NULL, owner_main, &team) == 0);
	for (uint64_t i = 0; i < N_THREADS; i++) {
		members[i] = (struct member){.team = &team, .index = i};
		CHECK(pthread_create(&members[i].thread, NULL, member_main, &members[i]) == 0);
	}
	CHECK(pthread_mutex_lock(&team.checked) == 0);
	pthread_barrier_wait(&team.barrier);
	target_ready(&team.target);
	target_wait(&team.target);
	for (uint64_t i = 0; i < N_THREADS; i++) {
		CHECK(pthread_join(members[i].thread, &result) == 0);
		CHECK((uint64_t)result == i);
	}
	CHECK(pthread_join(owner, NULL) == 0);
	check_locks(&team);
	return target_pass(&team.target);
}
