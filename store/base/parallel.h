/*
 * parallel.h: the same little piece of work for many things, by several threads.
 *
 * For what waits for the kernel, such as reading thousands of small files of /proc while a job stands still
 * and leaves the CPUs idle.
 */
#ifndef PAWL_STORE_BASE_PARALLEL_H
#define PAWL_STORE_BASE_PARALLEL_H

#include <stddef.h>

/* Does item i. Must not touch another item's. */
typedef void parallel_work(void *ctx, size_t i);

/* Does all of [0, n), in any order, and returns when all is done. Helpers are started for `worth` items
 * each, at most one a CPU, and take no signals; the caller's thread works too, so that a helper that
 * cannot be started costs only time. */
void parallel_do(size_t n, size_t worth, parallel_work *work, void *ctx);

#endif
