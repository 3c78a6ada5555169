#include "store/gc.h"

#include <stdlib.h>
#include <time.h>

#include "store/base/io.h"
#include "store/lock.h"
#include "store/pageindex.h"
#include "store/pins.h"
#include "store/session.h"

#define GC_WAIT_MS 10000
#define PAUSE_LEAST 1000000u  /* ns */
#define PAUSE_MOST  20000000u

int gc_write(struct gc *gc, MDB_txn **ret, struct err *err)
{
	struct timespec pause = {0, (long)(gc->took / 4)};

	if (gc->took) {
		if (pause.tv_nsec < PAUSE_LEAST)
			pause.tv_nsec = PAUSE_LEAST;
		if (pause.tv_nsec > PAUSE_MOST)
			pause.tv_nsec = PAUSE_MOST;
		nanosleep(&pause, NULL);
	}
	if (txn_write(gc->store, ret, err) < 0)
		return -1;
	gc->began = clock_ns(CLOCK_MONOTONIC);
	return 0;
}

int gc_commit(struct gc *gc, MDB_txn *txn, struct err *err)
{
	int rc = txn_commit(gc->store, txn, false, err);

	gc->took = clock_ns(CLOCK_MONOTONIC) - gc->began;
	return rc;
}

static int collect(struct gc *gc, struct err *err)
{
	int dead;

	/* Readers that were killed would keep all that is freed now from being used again. */
	mdb_reader_check(gc->store->env, &dead);
	if (sessions_reclaim(gc->store, err) < 0 || pins_collecting(gc->store, err) < 0 ||
	    gc_mark(gc, err) < 0 || gc_sweep(gc, err) < 0 || index_collect(gc, err) < 0 ||
	    pins_collected(gc->store, &gc->published, err) < 0)
		return -1;
	if (store_sync(gc->store, err) < 0)
		return -1;
	store_leave_page_cache(gc->store);
	return 0;
}

static void gc_clear(struct gc *gc)
{
	id_ranges_clear(&gc->live_pages);
	id_ranges_clear(&gc->live_nodes);
	id_ranges_clear(&gc->published);
	idset_clear(&gc->pages);
	idset_clear(&gc->nodes);
	free(gc->roots);
	free(gc->forget);
}

/* Under gc_mutex, which LOCK_GC is not among the threads of one process. */
static int run(struct gc *gc, int flags, struct err *err)
{
	int rc = lock_byte_wait(gc->store->lock_fd, LOCK_GC, F_WRLCK, GC_WAIT_MS);

	if (rc < 0)
		return err_sys(err, "%s: cannot lock", gc->store->dir);
	if (rc == 0)
		return err_set(err, ERR_BUSY, "%s: another pawl is freeing space", gc->store->dir);
	map_read_sparsely(gc->store);
	rc = collect(gc, err);
	if (rc == 0 && flags & STORE_GC_COMPACT)
		rc = gc_give_back(gc, err);
	lock_byte(gc->store->lock_fd, LOCK_GC, F_UNLCK);
	return rc;
}

int store_gc(struct store *store, int flags, struct gc_stats *ret, struct err *err)
{
	struct gc gc = {.store = store, .thorough = flags & STORE_GC_THOROUGH};
	int rc;

	if (!(store->flags & STORE_WRITE))
		return err_set(err, ERR_INVALID, "%s: opened for reading only", store->dir);
	pthread_mutex_lock(&store->gc_mutex);
	rc = run(&gc, flags, err);
	pthread_mutex_unlock(&store->gc_mutex);
	gc_clear(&gc);
	if (rc == 0 && ret)
		*ret = gc.stats;
	return rc;
}
