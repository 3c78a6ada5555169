/*
 * threads64.c: 64 threads that hand work around through a mutex, a condition variable and a
 * barrier. Deterministic whatever the scheduling: a line of digest a round. Usage: threads64 ROUNDS
 * [STEP_MS]
 */
#include "target.h"

#include <pthread.h>
#include <unistd.h>

#define N_THREADS 64
#define N_WORDS	  4096

struct team {
	pthread_barrier_t barrier;
	pthread_mutex_t lock;
	pthread_cond_t turn_changed;
	int turn; /* whose turn it is to fold its result in: order matters */
	uint64_t digest;
	long rounds;
	long step_ms;
};

struct member {
	struct team *team;
	int index;
	pthread_t thread;
	pid_t tid;
	uint64_t words[N_WORDS];
};

static void fold_in_turn(struct member *m, uint64_t value)
{
	struct team *team = m->team;

	pthread_mutex_lock(&team->lock);
	while (team->turn != m->index)
		pthread_cond_wait(&team->turn_changed, &team->lock);
	team->digest = mix64(team->digest ^ value);
	team->turn = (team->turn + 1) % N_THREADS;
	pthread_cond_broadcast(&team->turn_changed);
	pthread_mutex_unlock(&team->lock);
}

static uint64_t work(struct member *m, long round)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < N_WORDS; i++) {
		m->words[i] = mix64(m->words[i] ^ (uint64_t)round);
		sum += m->words[i];
	}
	return sum;
}

static void *member_main(void *arg)
{
	struct member *m = arg;

	m->tid = gettid();
	for (long round = 1; round <= m->team->rounds; round++) {
		fold_in_turn(m, work(m, round));
		pthread_barrier_wait(&m->team->barrier);
		if (m->index == 0) {
			printf("round %ld %016llx\n", round, (unsigned long long)m->team->digest);
			sleep_ms(m->team->step_ms);
		}
		CHECK_EQ(m->tid, gettid());
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	struct team team = {.rounds = atol(argv[1]), .step_ms = argc > 2 ? atol(argv[2]) : 0};
	struct member *members = calloc(N_THREADS, sizeof(*members));

	setvbuf(stdout, NULL, _IOLBF, 0);
	pthread_barrier_init(&team.barrier, NULL, N_THREADS);
	pthread_mutex_init(&team.lock, NULL);
	pthread_cond_init(&team.turn_changed, NULL);
	for (int i = 0; i < N_THREADS; i++) {
		members[i].team = &team;
		members[i].index = i;
		CHECK(pthread_create(&members[i].thread, NULL, member_main, &members[i]) == 0);
	}
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_join(members[i].thread, NULL) == 0);
	free(members);
	puts("PASS");
	return 0;
}
