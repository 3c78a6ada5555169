#include "store/base/parallel.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define MAX_WORKERS    64
#define MAX_OF_A_PIECE 4 /* workers of parallel_do */

/* Items are taken in runs, lest the threads fight for the counter. */
#define RUN 8

int thread_start(pthread_t *ret, void *(*body)(void *), void *arg)
{
	sigset_t all, before;
	int code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	code = pthread_create(ret, NULL, body, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return code;
}

size_t parallel_cpus(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return n < 1 ? 1 : (size_t)n;
}

/* ---- shares -------------------------------------------------------------------------------- */

struct worker {
	parallel_share *share;
	void *ctx;
	pthread_t thread;
	bool started;
	int result;
	struct err err;
};

static void *do_share(void *arg)
{
	struct worker *w = arg;

	w->result = w->share(w->ctx, &w->err);
	return NULL;
}

int parallel_run(size_t n, parallel_share *share, void *ctx, struct err *err)
{
	struct worker workers[MAX_WORKERS];
	int result = 0;

	n = n > MAX_WORKERS ? MAX_WORKERS : n < 1 ? 1 : n;
	for (size_t i = 0; i < n; i++)
		workers[i] = (struct worker){.share = share, .ctx = ctx};
	for (size_t i = 1; i < n; i++)
		workers[i].started = thread_start(&workers[i].thread, do_share, &workers[i]) == 0;
	do_share(&workers[0]);
	for (size_t i = 0; i < n; i++) {
		if (workers[i].started)
			pthread_join(workers[i].thread, NULL);
		if (workers[i].result < 0 && result == 0) {
			*err = workers[i].err;
			result = -1;
		}
	}
	return result;
}

/* ---- items --------------------------------------------------------------------------------- */

struct items {
	size_t n;
	parallel_work *work;
	void *ctx;
	atomic_size_t next;
};

static int do_items(void *ctx, struct err *err)
{
	struct items *p = ctx;
	size_t first;

	while ((first = atomic_fetch_add(&p->next, RUN)) < p->n)
		for (size_t i = first; i < first + RUN && i < p->n; i++)
			p->work(p->ctx, i);
	return 0;
}

void parallel_do(size_t n, size_t worth, parallel_work *work, void *ctx)
{
	struct items items = {.n = n, .work = work, .ctx = ctx};
	size_t workers = n / worth, cpus = parallel_cpus();
	struct err never;

	workers = workers > MAX_OF_A_PIECE ? MAX_OF_A_PIECE : workers;
	parallel_run(workers > cpus ? cpus : workers, do_items, &items, &never);
}
