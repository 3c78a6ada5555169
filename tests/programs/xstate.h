/*
 * xstate.h: targets whose state is in vector registers. A thread loads them and spins on a flag
 * without ever leaving user code by itself; another sets the flag when the target is told.
 */
#ifndef PAWL_TESTS_PROGRAMS_XSTATE_H
#define PAWL_TESTS_PROGRAMS_XSTATE_H

#include <pthread.h>

#include "target.h"

struct xstate_watch {
	struct target target;
	volatile int told;
	pthread_t thread;
};

static inline void *xstate_watch_main(void *arg)
{
	struct xstate_watch *w = arg;

	target_ready(&w->target);
	target_wait(&w->target);
	w->told = 1;
	return NULL;
}

static inline void xstate_watch_start(struct xstate_watch *w, int argc, char **argv)
{
	target_start(&w->target, argc, argv);
	CHECK(pthread_create(&w->thread, NULL, xstate_watch_main, w) == 0);
}

static inline int xstate_watch_pass(struct xstate_watch *w)
{
	CHECK(pthread_join(w->thread, NULL) == 0);
	return target_pass(&w->target);
}

#endif
