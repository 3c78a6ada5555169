#include "checkpointer/putting.h"

#include <pthread.h>
#include <stdlib.h>

#include "store/base/parallel.h"
#include "store/press.h"

#define CHUNK_PAGES  (CHUNK_BYTES / STORE_PAGE_SIZE)
#define HELPERS_MOST 7u

enum slot_state { SLOT_WAITING, SLOT_TAKEN, SLOT_PRESSED };

struct slot {
	enum slot_state state;
	bool compress;
	struct page_chunk *chunk;
	struct page_chunk *room; /* for the compressed pages; kept from one chunk to the next */
	uint64_t skip[CHUNK_PAGES / 64];
	struct pressed_page pressed[CHUNK_PAGES];
};

struct putting {
	struct page_copies *copies;
	struct page_set *later;
	bool gently;
	struct store_session *session; /* once there is a chunk */
	struct page_press *press;      /* of the caller's thread */
	struct slot *slots;       /* a ring; a chunk's place is its number modulo n_slots */
	size_t n_slots, helpers_wanted, n_helpers;
	pthread_t helpers[HELPERS_MOST];
	uint64_t put, added; /* chunks; the caller's */
	bool pays;           /* most pages are new, so that compressing them ahead is not in vain */
	bool failed;
	/* ---- under the lock, as the states of the slots ---- */
	pthread_mutex_t lock;
	pthread_cond_t work, pressed;
	uint64_t given, taken; /* chunks to be pressed */
	bool ending;
};

static bool is_skipped(const struct slot *slot, size_t i)
{
	return slot->skip[i / 64] >> i % 64 & 1;
}

/* ---- pressing: any thread ------------------------------------------------------------------ */

static void press_slot(struct slot *slot, struct page_press *press)
{
	const char *page = slot->chunk->data;
	char *room = slot->room->data;

	for (size_t i = 0; i < slot->chunk->n_pages; i++) {
		if (!is_skipped(slot, i))
			slot->pressed[i] = page_press_page(press, page, room, slot->compress);
		page += STORE_PAGE_SIZE;
		room += STORE_PAGE_SIZE;
	}
}

/* With the lock, which is not held meanwhile. There is one to take. */
static void press_next(struct putting *p, struct page_press *press)
{
	struct slot *slot = &p->slots[p->taken++ % p->n_slots];

	slot->state = SLOT_TAKEN;
	pthread_mutex_unlock(&p->lock);
	press_slot(slot, press);
	pthread_mutex_lock(&p->lock);
	slot->state = SLOT_PRESSED;
	pthread_cond_signal(&p->pressed);
}

static void *help(void *arg)
{
	struct putting *p = arg;
	struct page_press *press = NULL;
	struct err ignored;

	pthread_mutex_lock(&p->lock);
	while (!p->ending) {
		if (p->taken == p->given) {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		/* Without one of its own, the caller's thread does it all. */
		if (!press && page_press_new(&press, p->session, &ignored) < 0)
			break;
		press_next(p, press);
	}
	pthread_mutex_unlock(&p->lock);
	page_press_free(press);
	return NULL;
}

/* ---- putting: the caller's thread ---------------------------------------------------------- */

/* Until the oldest chunk is pressed: does its part. */
static void wait_for(struct putting *p, const struct slot *slot)
{
	pthread_mutex_lock(&p->lock);
	while (slot->state != SLOT_PRESSED) {
		if (p->taken < p->given)
			press_next(p, p->press);
		else
			pthread_cond_wait(&p->pressed, &p->lock);
	}
	pthread_mutex_unlock(&p->lock);
}

static int put_run(const struct slot *slot, uint64_t first, size_t at, size_t n, uint64_t *stored, struct err *err)
{
	for (size_t i = 0, end; i < n; i = end + 1) {
		for (end = i; end < n && !is_skipped(slot, at + end);)
			end++;
		if (end > i && page_table_put_pressed(slot->chunk->table, first + i,
						      slot->chunk->data + (at + i) * STORE_PAGE_SIZE,
						      slot->pressed + at + i, end - i, stored, err) < 0)
			return -1;
	}
	return 0;
}

static int put_slot(struct putting *p, const struct slot *slot, struct err *err)
{
	const struct page_chunk *chunk = slot->chunk;
	uint64_t stored = 0;
	size_t at = 0;

	for (size_t i = 0; i < chunk->n_runs; at += chunk->runs[i++].n)
		if (put_run(slot, chunk->runs[i].first, at, chunk->runs[i].n, &stored, err) < 0)
			return -1;
	p->pays = stored * 2 >= chunk->n_pages;
	return 0;
}

static int put_oldest(struct putting *p, struct err *err)
{
	struct slot *slot = &p->slots[p->put % p->n_slots];
	int result = 0;

	wait_for(p, slot);
	if (!p->failed)
		result = put_slot(p, slot, err);
	p->failed |= result < 0;
	page_copies_return(p->copies, slot->chunk);
	p->put++;
	return result;
}

/* ---- both ends ----------------------------------------------------------------------------- */

/* As little as one chunk needs no thread. */
static void start_helpers(struct putting *p)
{
	if (p->added < 1 || p->n_helpers)
		return;
	while (p->n_helpers < p->helpers_wanted && thread_start(&p->helpers[p->n_helpers], help, p) == 0)
		p->n_helpers++;
	p->helpers_wanted = p->n_helpers;
}

static int mark_superseded(struct putting *p, struct slot *slot, struct err *err)
{
	const struct page_chunk *chunk = slot->chunk;
	size_t at = 0;

	for (size_t i = 0; i < CHUNK_PAGES / 64; i++)
		slot->skip[i] = 0;
	for (size_t i = 0; p->later && i < chunk->n_runs; i++)
		for (uint64_t j = 0; j < chunk->runs[i].n; j++, at++) {
			int added = page_set_add(p->later, chunk->table, chunk->runs[i].first + j);

			if (added < 0)
				return err_sys(err, "copies of changed pages");
			if (added == 0)
				slot->skip[at / 64] |= 1ull << at % 64;
		}
	return 0;
}

static int begin_with(struct putting *p, const struct page_chunk *chunk, struct err *err)
{
	if (p->press)
		return 0;
	p->session = page_table_session(chunk->table);
	return page_press_new(&p->press, p->session, err);
}

int putting_add(struct putting *p, struct page_chunk *chunk, struct err *err)
{
	struct slot *slot = &p->slots[p->added % p->n_slots];

	if (p->gently)
		yield_pace(&p->copies->yielding, chunk->n_pages * STORE_PAGE_SIZE);
	slot->chunk = chunk;
	if (begin_with(p, chunk, err) < 0 || mark_superseded(p, slot, err) < 0 ||
	    (!slot->room && page_copies_chunk(p->copies, chunk->table, &slot->room, err) < 0)) {
		page_copies_return(p->copies, chunk);
		p->failed = true;
		return -1;
	}
	page_chunk_populate(slot->room, chunk->n_pages);
	slot->compress = p->pays;
	start_helpers(p);
	pthread_mutex_lock(&p->lock);
	slot->state = SLOT_WAITING;
	p->given++;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
	/* The next one's place must be free. */
	return ++p->added - p->put == p->n_slots ? put_oldest(p, err) : 0;
}

static void putting_free(struct putting *p)
{
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (size_t i = 0; i < p->n_helpers; i++)
		pthread_join(p->helpers[i], NULL);
	for (size_t i = 0; i < p->n_slots; i++)
		page_copies_return(p->copies, p->slots[i].room);
	page_press_free(p->press);
	free(p->slots);
	free(p);
}

int putting_begin(struct putting **ret, struct page_copies *copies, struct page_set *later, bool gently,
		  struct err *err)
{
	struct putting *p = calloc(1, sizeof(*p));
	size_t cpus = parallel_cpus();

	if (!p)
		return err_sys(err, "copies of changed pages");
	p->copies = copies;
	p->later = later;
	p->gently = gently;
	p->pays = true;
	p->helpers_wanted = cpus - 1 < HELPERS_MOST ? cpus - 1 : HELPERS_MOST;
	p->n_slots = 2 * (p->helpers_wanted + 1) + 2;
	p->slots = calloc(p->n_slots, sizeof(*p->slots));
	if (!p->slots) {
		free(p);
		return err_sys(err, "copies of changed pages");
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->pressed, NULL);
	*ret = p;
	return 0;
}

int putting_end(struct putting *p, struct err *err)
{
	int result = 0;

	if (!p)
		return 0;
	while (p->put < p->added) {
		struct err later_err;

		if (put_oldest(p, result < 0 ? &later_err : err) < 0)
			result = -1;
	}
	putting_free(p);
	return result;
}
