/* lazy_impl.h: the inside of lazy.h. Private to recovery/. */
#ifndef PAWL_RECOVERY_LAZY_IMPL_H
#define PAWL_RECOVERY_LAZY_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "recovery/fill.h"
#include "recovery/lazy.h"
#include "recovery/lazy_spans.h"

/* The memory of one process as the snapshot has it. */
struct lazy_memory {
	uint64_t root; /* of its page table */
	struct fill_pieces pieces; /* what is to come of it */
};

/* An address space that gets it: the process's own, or a descendant's. */
struct lazy_space {
	int uffd;
	size_t memory;
	struct lazy_spans spans;
	atomic_bool gone; /* the process has ended, or executed another program */
};

struct lazy {
	struct store *store;
	struct store_session *hold; /* keeps the snapshot in the store */
	struct lazy_memory *memories; /* fixed once filling has begun */
	size_t n_memories;

	/* Written by the server alone, who reads events under it too: a page is put in by who holds it for reading,
	 * and belongs where the spans say as long as he does (or the kernel refuses it, since an event waits). */
	pthread_rwlock_t lock;
	struct lazy_space **spaces;
	size_t n_spaces;

	pthread_t server, filler;
	bool serving, filling;
	int wake; /* the server */
	atomic_bool quit;
	atomic_bool filled; /* the filler is done */
	uint64_t begun; /* CLOCK_MONOTONIC */
	atomic_uint_least64_t faults, pages;

	pthread_mutex_t state_lock;
	pthread_cond_t changed;
	int told; /* eventfd: the state has changed */
	enum lazy_state state;
	bool released; /* the job runs, or may */
	uint64_t wall_us;
	struct err why;
};

/* ---- lazy.c -------------------------------------------------------------------------------- */

/* Whether a region of the process can come late. Others are small, not memory of its own, or something would touch
 * all of it at once. Pure. */
bool lazy_region_fits(const Snap__Process *p, const Snap__Region *r);

/* Takes *hold, which keeps the snapshot in the store. The server runs from here on: recovery itself may touch what is not there yet. */
int lazy_begin(struct lazy **ret, struct store *store, struct store_session **hold, struct err *err);
/* These ranges get their pages from the page table at root; takes their userfaultfd. Before lazy_release. */
int lazy_take(struct lazy *lazy, struct fill_ranges *ranges, uint64_t root, struct err *err);
/* -1: a page could not be read that the rebuilding itself touches, and it got zeroes, so that nobody waits for ever.
 * lazy may be NULL. */
int lazy_look_for_failure(struct lazy *lazy, struct err *err);
/* Before anything of the job runs: from here on whoever touches what cannot be read waits until he is killed. As
 * lazy_look_for_failure. */
int lazy_release(struct lazy *lazy, struct err *err);
/* The job runs: the rest comes, too. */
int lazy_go(struct lazy *lazy, struct err *err);

/* Only the first end counts. Whether the job runs. */
bool lazy_end(struct lazy *lazy, enum lazy_state state, const struct err *why);

/* ---- lazy_serve.c -------------------------------------------------------------------------- */

void *lazy_serve(void *lazy);
/* Puts n pages into all spaces that have a place for them. 1: an event must be read first, then all again.
 * ERR_GONE: all of them have ended. */
int lazy_put(struct lazy *lazy, size_t memory, const struct page_place *places, size_t n, const void *pages,
	     struct err *err);
/* Holding the lock for writing. Takes uffd and spans on success. */
int lazy_add_space(struct lazy *lazy, size_t memory, int uffd, struct lazy_spans *spans);
void lazy_space_free(struct lazy_space *space);

/* ---- lazy_fill.c --------------------------------------------------------------------------- */

void *lazy_fill(void *lazy);

#endif
