/*
 * Waiting copies on their way into their tables, by all CPUs that we may use: each thread takes the newest chunk, and
 * hashes and compresses what of it was copied as it is. The session is one thread's at a time.
 */
#include <pthread.h>

#include "checkpointer/copies.h"
#include "store/base/parallel.h"

#define THREADS_MOST 8u

struct putting {
	struct page_copies *copies;
	bool gently;
	/* ---- one thread's at a time, with the session and the tables ---- */
	pthread_mutex_t lock;
	struct page_set later; /* what was taken: older copies of it are passed over */
	bool failed;
};

/* One thread's own. */
struct putter {
	struct page_chunk *chunk; /* that it has taken */
	struct page_chunk *room;  /* for what is compressed; from one chunk to the next */
	struct page_press *press;
	bool compress;
};

static int equip(struct putting *p, struct putter *own, struct err *err)
{
	struct page_table *table = own->chunk->table;

	if (!own->press && page_press_new(&own->press, page_table_session(table), err) < 0)
		return -1;
	if (!own->room)
		return page_copies_chunk(p->copies, table, &own->room, err);
	page_chunk_begin(own->room, table);
	return 0;
}

/* With the lock. 1; 0: there is none left. */
static int take_newest(struct putting *p, struct putter *own, struct err *err)
{
	struct page_copies *copies = p->copies;

	if (p->failed || copies->n == 0)
		return 0;
	own->chunk = copies->chunks[--copies->n];
	copies->used -= own->chunk->there;
	own->compress = !copies->in_vain;
	if (page_chunk_drop_superseded(own->chunk, &p->later) < 0)
		return err_sys(err, "copies of changed pages");
	if (equip(p, own, err) < 0)
		return -1;
	if (p->gently) /* all threads wait: it is their rate together */
		yield_pace(&copies->yielding, own->chunk->n_pages * STORE_PAGE_SIZE);
	return 1;
}

/* With the lock, but for the pressing. */
static int put_newest(struct putting *p, struct putter *own, struct err *err)
{
	int result = take_newest(p, own, err);

	if (result > 0) {
		pthread_mutex_unlock(&p->lock);
		page_chunk_press(own->chunk, own->press, own->room, own->compress);
		pthread_mutex_lock(&p->lock);
		if (!p->failed && page_copies_put_chunk(p->copies, own->chunk, err) < 0)
			result = -1;
	}
	p->failed |= result < 0;
	page_copies_return(p->copies, own->chunk);
	own->chunk = NULL;
	return result;
}

static int put_share(void *arg, struct err *err)
{
	struct putting *p = arg;
	struct putter own = {0};
	int result;

	pthread_mutex_lock(&p->lock);
	while ((result = put_newest(p, &own, err)) > 0)
		;
	page_copies_return(p->copies, own.room);
	pthread_mutex_unlock(&p->lock);
	page_press_free(own.press);
	return result;
}

static int put_all(struct page_copies *copies, bool gently, struct err *err)
{
	struct putting p = {.copies = copies, .gently = gently, .lock = PTHREAD_MUTEX_INITIALIZER};
	size_t threads = parallel_cpus();
	int result;

	threads = threads < THREADS_MOST ? threads : THREADS_MOST;
	result = parallel_run(copies->n < threads ? copies->n : threads, put_share, &p, err);
	page_set_clear(&p.later);
	return result;
}

int page_copies_put(struct page_copies *copies, struct err *err)
{
	return put_all(copies, false, err);
}

int page_copies_put_gently(struct page_copies *copies, struct err *err)
{
	return put_all(copies, true, err);
}
