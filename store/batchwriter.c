#include "store/batchwriter.h"

#include <pthread.h>
#include <stdlib.h>

#include "store/base/parallel.h"

#define ON_THE_WAY_MOST (SESSION_PACKS_BYTES / SESSION_BATCH_BYTES - 1) /* one more gathers */

struct batch_writer {
	struct store *store;
	batch_written *written_hook;
	void *ctx;
	struct batch ring[ON_THE_WAY_MOST]; /* batch number n is at n modulo that */
	uint64_t taken_back;                /* the giver's; from there to `given` they are read only for both */
	pthread_t thread;
	bool started; /* and not joined yet */
	/* ---- under the lock ---- */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t given; /* the giver reads it without */
	uint64_t written;
	bool running, failed, ending;
	struct err err;
};

static struct batch *place(struct batch_writer *w, uint64_t number)
{
	return &w->ring[number % ON_THE_WAY_MOST];
}

/* ---- writing: the thread ------------------------------------------------------------------- */

/* With the lock, which is not held meanwhile. */
static void write_next(struct batch_writer *w)
{
	const struct batch *batch = place(w, w->written);
	struct err err;
	int rc;

	pthread_mutex_unlock(&w->lock);
	rc = batch_commit(batch, w->store, &err);
	if (rc < 0)
		err_wrap(&err, "writing %zu MiB of pages", batch->n_packs);
	pthread_mutex_lock(&w->lock);
	if (rc < 0) {
		w->failed = true;
		w->err = err;
	} else {
		w->written++;
	}
	pthread_cond_signal(&w->changed);
}

/* Until there is nothing left: the next one to give something may have another priority. */
static void *write_all(void *arg)
{
	struct batch_writer *w = arg;

	pthread_mutex_lock(&w->lock);
	while (w->written < w->given && !w->failed && !w->ending)
		write_next(w);
	w->running = false;
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void join(struct batch_writer *w)
{
	if (w->started)
		pthread_join(w->thread, NULL);
	w->started = false;
}

/* ---- giving -------------------------------------------------------------------------------- */

/* Takes back what is written until no more than so many are on their way. */
static int take_back(struct batch_writer *w, uint64_t most, struct err *err)
{
	int result = 0;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		if (w->taken_back < w->written) {
			pthread_mutex_unlock(&w->lock);
			w->written_hook(w->ctx, place(w, w->taken_back));
			w->taken_back++;
			pthread_mutex_lock(&w->lock);
		} else if (w->failed) {
			*err = w->err;
			result = -1;
			break;
		} else if (w->given - w->taken_back <= most) {
			break;
		} else {
			pthread_cond_wait(&w->changed, &w->lock);
		}
	}
	pthread_mutex_unlock(&w->lock);
	return result;
}

/* There is one more. Where no thread can be had, it is written here. */
static void set_to_work(struct batch_writer *w)
{
	bool running;

	pthread_mutex_lock(&w->lock);
	w->given++;
	running = w->running;
	w->running = true;
	pthread_mutex_unlock(&w->lock);
	if (running)
		return;
	join(w);
	w->started = thread_start(&w->thread, write_all, w) == 0;
	if (!w->started)
		write_all(w);
}

int batch_writer_give(struct batch_writer *w, struct batch *batch, struct err *err)
{
	struct batch *free_place, empty;

	if (take_back(w, ON_THE_WAY_MOST - 1, err) < 0)
		return -1;
	free_place = place(w, w->given);
	empty = *free_place; /* but for the array of nodes, which serves again */
	*free_place = *batch;
	*batch = empty;
	set_to_work(w);
	return 0;
}

int batch_writer_wait(struct batch_writer *w, struct err *err)
{
	return take_back(w, 0, err);
}

/* ---- looking up ---------------------------------------------------------------------------- */

bool batch_writer_find_hash(const struct batch_writer *w, uint64_t id, struct page_hash *ret)
{
	for (uint64_t n = w->given; n-- > w->taken_back;)
		if (batch_find_hash(&w->ring[n % ON_THE_WAY_MOST], id, ret))
			return true;
	return false;
}

const struct pending_node *batch_writer_find_node(const struct batch_writer *w, uint64_t id)
{
	const struct pending_node *found = NULL;

	for (uint64_t n = w->given; !found && n-- > w->taken_back;)
		found = batch_find_node(&w->ring[n % ON_THE_WAY_MOST], id);
	return found;
}

/* ---- both ends ----------------------------------------------------------------------------- */

int batch_writer_new(struct batch_writer **ret, struct store *store, batch_written *written, void *ctx,
		     struct err *err)
{
	struct batch_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return err_sys(err, "session");
	w->store = store;
	w->written_hook = written;
	w->ctx = ctx;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	*ret = w;
	return 0;
}

void batch_writer_free(struct batch_writer *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	pthread_mutex_unlock(&w->lock);
	join(w);
	for (size_t i = 0; i < ON_THE_WAY_MOST; i++)
		batch_clear(&w->ring[i]);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
