#include "checkpointer/brake.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "checkpointer/freeze.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/parallel.h"
#include "store/base/units.h"

#define RUN_NS 5000000ull /* how long the job runs at a time: long against what stopping it takes */

struct brake {
	const struct tree_root *root;
	struct sleeps *sleeps;
	pthread_t thread;
	/* ---- under the lock ---- */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* of CLOCK_MONOTONIC */
	unsigned percent;
	bool lifted, ending, holding;
	uint64_t held_ns;
};

static bool is_on(const struct brake *b)
{
	return b->percent > 0 && !b->lifted && !b->ending;
}

/* With the lock: so long, or until it is off. */
static void wait_while_on(struct brake *b, uint64_t ns)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + ns;
	const struct timespec until = {.tv_sec = (time_t)(end / NSEC_PER_SEC), .tv_nsec = (long)(end % NSEC_PER_SEC)};

	while (is_on(b) && pthread_cond_timedwait(&b->changed, &b->lock, &until) == 0)
		;
}

static uint64_t hold_ns(const struct brake *b)
{
	return b->percent < 100 ? RUN_NS * b->percent / (100 - b->percent) : 0;
}

/* With the lock, which is not held while the job is stopped and let go. */
static void hold(struct brake *b)
{
	struct frozen_tree tree;
	struct err err;
	int stopped;

	b->holding = true;
	pthread_mutex_unlock(&b->lock);
	stopped = freeze_tree(&tree, b->root, &err);
	pthread_mutex_lock(&b->lock);
	if (stopped == 0) {
		wait_while_on(b, hold_ns(b));
		b->held_ns += clock_ns(CLOCK_MONOTONIC) - tree.begin_ns;
		pthread_mutex_unlock(&b->lock);
		sleeps_note(b->sleeps, &tree);
		thaw_tree(&tree);
		pthread_mutex_lock(&b->lock);
	} else {
		log_debug("the job is not held: %s", err.msg);
	}
	b->holding = false;
	pthread_cond_broadcast(&b->changed);
}

static void *work(void *arg)
{
	struct brake *b = arg;

	pthread_mutex_lock(&b->lock);
	while (!b->ending) {
		if (!is_on(b)) {
			pthread_cond_wait(&b->changed, &b->lock);
			continue;
		}
		wait_while_on(b, RUN_NS);
		if (is_on(b))
			hold(b);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

int brake_new(struct brake **ret, const struct tree_root *root, struct sleeps *sleeps, struct err *err)
{
	struct brake *b = calloc(1, sizeof(*b));
	pthread_condattr_t attributes;
	int why;

	if (!b)
		return err_sys(err, "cannot slow down the job");
	b->root = root;
	b->sleeps = sleeps;
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&b->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	why = thread_start(&b->thread, work, b);
	if (why) {
		free(b);
		return err_code(err, why, "cannot slow down the job");
	}
	*ret = b;
	return 0;
}

void brake_free(struct brake *b)
{
	if (!b)
		return;
	pthread_mutex_lock(&b->lock);
	b->ending = true;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

void brake_set(struct brake *b, unsigned percent)
{
	pthread_mutex_lock(&b->lock);
	b->percent = percent < BRAKE_MOST ? percent : BRAKE_MOST;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}

static void set_lifted(struct brake *b, bool lifted)
{
	if (!b)
		return;
	pthread_mutex_lock(&b->lock);
	b->lifted = lifted;
	pthread_cond_broadcast(&b->changed);
	while (lifted && b->holding)
		pthread_cond_wait(&b->changed, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

void brake_lift(struct brake *b)
{
	set_lifted(b, true);
}

void brake_apply(struct brake *b)
{
	set_lifted(b, false);
}

uint64_t brake_held(struct brake *b)
{
	uint64_t held;

	pthread_mutex_lock(&b->lock);
	held = b->held_ns;
	pthread_mutex_unlock(&b->lock);
	return held;
}
