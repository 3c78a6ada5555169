#include "store/base/parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#define MAX_HELPERS 3

/* Items are taken in runs, lest the threads fight for the counter. */
#define RUN 8

struct parallel {
	size_t n;
	parallel_work *work;
	void *ctx;
	atomic_size_t next;
};

static void *help(void *arg)
{
	struct parallel *p = arg;
	size_t first;

	while ((first = atomic_fetch_add(&p->next, RUN)) < p->n)
		for (size_t i = first; i < first + RUN && i < p->n; i++)
			p->work(p->ctx, i);
	return NULL;
}

void parallel_do(size_t n, size_t worth, parallel_work *work, void *ctx)
{
	struct parallel p = {.n = n, .work = work, .ctx = ctx};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t helpers[MAX_HELPERS];
	sigset_t all, before;
	size_t started = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (started < MAX_HELPERS && (long)started + 1 < cpus && (started + 2) * worth <= n &&
	       pthread_create(&helpers[started], NULL, help, &p) == 0)
		started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	help(&p);
	while (started > 0)
		pthread_join(helpers[--started], NULL);
}
