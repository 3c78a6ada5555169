/*
 * parallel.h: the same work for many things, by several threads.
 *
 * The caller's thread works too, so that a helper that cannot be started costs only time. Helpers take no
 * signals: those are the process's own threads'.
 */
#ifndef PAWL_STORE_BASE_PARALLEL_H
#define PAWL_STORE_BASE_PARALLEL_H

#include <pthread.h>
#include <stddef.h>

#include "store/base/err.h"

/* pthread_create(3) of a thread of ours, which takes no signals: those are the process's own threads'. 0 or an error
 * number. */
int thread_start(pthread_t *ret, void *(*body)(void *), void *arg);

/* How many CPUs this thread may use, at least 1. */
size_t parallel_cpus(void);

/* One thread's share: takes items, by a counter in ctx, until there are none or another share has failed. */
typedef int parallel_share(void *ctx, struct err *err);

/* `share` in the caller's thread and up to n - 1 others. Returns when all have; -1 with the error of the first
 * of them that failed. */
int parallel_run(size_t n, parallel_share *share, void *ctx, struct err *err);

/* Does item i. Must not touch another item's. */
typedef void parallel_work(void *ctx, size_t i);

/* Does all of [0, n), in any order, for what waits for the kernel, such as reading thousands of small files of
 * /proc while a job stands still and leaves the CPUs idle. Helpers are started for `worth` items each. */
void parallel_do(size_t n, size_t worth, parallel_work *work, void *ctx);

#endif
