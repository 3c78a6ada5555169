/*
 * stack.c: a main stack grown to megabytes and a thread's stack, saved at full depth, unwound and
 * grown again afterwards.
 */
#include "target.h"

#include <pthread.h>

#define FRAME_WORDS 512
#define DEPTH	    1200 /* times 4 KiB */

static void descend(const struct target *t, unsigned depth,
		    void (*at_bottom)(const struct target *))
{
	uint64_t frame[FRAME_WORDS];

	pattern_fill(frame, sizeof(frame), depth);
	if (depth == 0)
		at_bottom(t);
	else
		descend(t, depth - 1, at_bottom);
	CHECK(pattern_holds(frame, sizeof(frame), depth));
}

static void nothing(const struct target *t)
{
	(void)t;
}

static void *thread_main(void *arg)
{
	descend(arg, DEPTH, target_wait);
	return NULL;
}

static void ready_and_wait(const struct target *t)
{
	sleep_ms(50);
	target_ready(t);
	target_wait(t);
}

int main(int argc, char **argv)
{
	struct target target;
	pthread_t thread;

	target_start(&target, argc, argv);
	CHECK(pthread_create(&thread, NULL, thread_main, &target) == 0);
	descend(&target, DEPTH, ready_and_wait);
	CHECK(pthread_join(thread, NULL) == 0);
	descend(&target, DEPTH + 400, nothing); /* the stack still grows */
	return target_pass(&target);
}
