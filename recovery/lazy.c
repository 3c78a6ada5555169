#include "recovery/lazy_impl.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "recovery/userfault.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/parallel.h"

#define LEAST (256u << 10) /* bytes of a region: less is filled as fast as it is registered */

/* What changes neither where pages are nor what a child gets, and touches none. */
#define HARMLESS                                                                                       \
	(ADVICE_HUGEPAGE | ADVICE_NOHUGEPAGE | ADVICE_DONTDUMP | ADVICE_SEQUENTIAL | ADVICE_RANDOM |   \
	 ADVICE_MERGEABLE | ADVICE_DONTFORK)

bool lazy_is_possible(const char **ret_why)
{
	return userfault_probe(ret_why);
}

static bool has_guard(const Snap__Process *p, const Snap__Region *r)
{
	for (size_t i = 0; i + 1 < p->n_guards; i += 2)
		if (p->guards[i] < r->end && p->guards[i + 1] > r->start)
			return true;
	return false;
}

bool lazy_region_fits(const Snap__Process *p, const Snap__Region *r)
{
	return r->kind == SNAP__REGION__KIND__ANONYMOUS && r->end - r->start >= LEAST && r->prot != PROT_NONE &&
	       !(r->map_flags & MAP_GROWSDOWN) && !(r->advice & ~(uint32_t)HARMLESS) && !has_guard(p, r);
}

/* ---- state --------------------------------------------------------------------------------- */

int lazy_fd(const struct lazy *lazy)
{
	return lazy->told;
}

static uint64_t passed_us(const struct lazy *lazy)
{
	return lazy->begun ? (clock_ns(CLOCK_MONOTONIC) - lazy->begun) / 1000 : 0;
}

void lazy_look(struct lazy *lazy, struct lazy_progress *ret, struct err *ret_why)
{
	eventfd_t ignored;

	eventfd_read(lazy->told, &ignored);
	pthread_mutex_lock(&lazy->state_lock);
	*ret = (struct lazy_progress){
		.state = lazy->state,
		.faults = atomic_load(&lazy->faults),
		.pages = atomic_load(&lazy->pages),
		.wall_us = lazy->state == LAZY_FILLING ? passed_us(lazy) : lazy->wall_us,
	};
	if (ret_why)
		*ret_why = lazy->why;
	pthread_mutex_unlock(&lazy->state_lock);
}

int lazy_wait(struct lazy *lazy, struct err *err)
{
	int result;

	pthread_mutex_lock(&lazy->state_lock);
	while (lazy->state == LAZY_FILLING)
		pthread_cond_wait(&lazy->changed, &lazy->state_lock);
	result = lazy->state == LAZY_FAILED ? -1 : 0;
	if (result < 0)
		*err = lazy->why;
	pthread_mutex_unlock(&lazy->state_lock);
	return result;
}

bool lazy_end(struct lazy *lazy, enum lazy_state state, const struct err *why)
{
	bool released;

	pthread_mutex_lock(&lazy->state_lock);
	if (lazy->state == LAZY_FILLING) {
		lazy->state = state;
		lazy->wall_us = passed_us(lazy);
		if (why)
			lazy->why = *why;
		pthread_cond_broadcast(&lazy->changed);
		eventfd_write(lazy->told, 1);
	}
	released = lazy->released;
	pthread_mutex_unlock(&lazy->state_lock);
	return released;
}

static int look_for_failure(struct lazy *lazy, bool release, struct err *err)
{
	int result;

	if (!lazy)
		return 0;
	pthread_mutex_lock(&lazy->state_lock);
	result = lazy->state == LAZY_FAILED ? -1 : 0;
	if (result < 0)
		*err = lazy->why;
	else
		lazy->released |= release;
	pthread_mutex_unlock(&lazy->state_lock);
	return result;
}

int lazy_look_for_failure(struct lazy *lazy, struct err *err)
{
	return look_for_failure(lazy, false, err);
}

int lazy_release(struct lazy *lazy, struct err *err)
{
	return look_for_failure(lazy, true, err);
}

/* ---- begin and end ------------------------------------------------------------------------- */

static int start_thread(pthread_t *ret, bool *ret_runs, void *(*body)(void *), struct lazy *lazy, struct err *err)
{
	int code = thread_start(ret, body, lazy);

	*ret_runs = code == 0;
	return code == 0 ? 0 : err_code(err, code, "cannot start a thread that fills memory");
}

/* Whoever waits to read events comes before those who put in page after page. */
static int make_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;
	int code;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	code = pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return code;
}

static int begin(struct lazy *lazy, struct err *err)
{
	if (lazy->wake < 0 || lazy->told < 0)
		return err_sys(err, "lazy recovery");
	return start_thread(&lazy->server, &lazy->serving, lazy_serve, lazy, err);
}

int lazy_begin(struct lazy **ret, struct store *store, struct store_session **hold, struct err *err)
{
	struct lazy *lazy = calloc(1, sizeof(*lazy));

	if (!lazy)
		return err_sys(err, "lazy recovery");
	lazy->store = store;
	lazy->hold = steal_ptr(hold);
	make_lock(&lazy->lock);
	pthread_mutex_init(&lazy->state_lock, NULL);
	pthread_cond_init(&lazy->changed, NULL);
	lazy->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	lazy->told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (begin(lazy, err) < 0) {
		lazy_free(lazy);
		return -1;
	}
	*ret = lazy;
	return 0;
}

static int add_memory(struct lazy *lazy, const struct fill_ranges *ranges, uint64_t root, struct err *err)
{
	struct lazy_memory *more = reallocarray(lazy->memories, lazy->n_memories + 1, sizeof(*more));
	struct lazy_memory memory = {.root = root};

	if (!more)
		return err_sys(err, "lazy recovery");
	lazy->memories = more;
	for (size_t i = 0; i < ranges->n; i++)
		if (fill_pieces_add(&memory.pieces, root, ranges->list[i].start / STORE_PAGE_SIZE,
				    ranges->list[i].end / STORE_PAGE_SIZE, false, err) < 0) {
			fill_pieces_clear(&memory.pieces);
			return -1;
		}
	more[lazy->n_memories++] = memory;
	return 0;
}

static int add_space(struct lazy *lazy, const struct fill_ranges *ranges, struct err *err)
{
	struct lazy_spans spans = {0};
	int result = 0;

	for (size_t i = 0; i < ranges->n && result == 0; i++) {
		const struct range *r = &ranges->list[i];
		const struct lazy_span span = {r->start, r->end, r->start};

		result = lazy_spans_add(&spans, &span);
	}
	if (result == 0)
		result = lazy_add_space(lazy, lazy->n_memories - 1, ranges->uffd, &spans);
	lazy_spans_clear(&spans);
	return result == 0 ? 0 : err_set(err, ERR_SYSTEM, "out of memory");
}

int lazy_take(struct lazy *lazy, struct fill_ranges *ranges, uint64_t root, struct err *err)
{
	int result;

	pthread_rwlock_wrlock(&lazy->lock);
	/* Whoever has failed lets go under this lock of what he has by then. */
	result = lazy_look_for_failure(lazy, err);
	if (result == 0)
		result = add_memory(lazy, ranges, root, err);
	if (result == 0)
		result = add_space(lazy, ranges, err);
	pthread_rwlock_unlock(&lazy->lock);
	if (result < 0)
		return -1;
	ranges->uffd = -1;
	eventfd_write(lazy->wake, 1);
	return 0;
}

int lazy_go(struct lazy *lazy, struct err *err)
{
	lazy->begun = clock_ns(CLOCK_MONOTONIC);
	return start_thread(&lazy->filler, &lazy->filling, lazy_fill, lazy, err);
}

void lazy_free(struct lazy *lazy)
{
	if (!lazy)
		return;
	atomic_store(&lazy->quit, true);
	if (lazy->filling)
		pthread_join(lazy->filler, NULL);
	eventfd_write(lazy->wake, 1);
	if (lazy->serving)
		pthread_join(lazy->server, NULL);
	for (size_t i = 0; i < lazy->n_spaces; i++)
		lazy_space_free(lazy->spaces[i]);
	free(lazy->spaces);
	for (size_t i = 0; i < lazy->n_memories; i++)
		fill_pieces_clear(&lazy->memories[i].pieces);
	free(lazy->memories);
	session_abort(lazy->hold);
	cleanup_fd_p(&lazy->wake);
	cleanup_fd_p(&lazy->told);
	pthread_rwlock_destroy(&lazy->lock);
	pthread_mutex_destroy(&lazy->state_lock);
	pthread_cond_destroy(&lazy->changed);
	free(lazy);
}
