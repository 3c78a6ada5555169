/*
 * One thread that reads what the processes' userfaultfds tell: of pages that are touched, and of what becomes of
 * the address spaces.
 *
 * While an event has not been read the kernel puts no page in (EAGAIN), so that between reading it and heeding it
 * nobody may: both happen under the lock. A fault may be told before an event that came first; then the page is
 * refused, and the fault served after that.
 */
#include "recovery/lazy_impl.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "recovery/readers.h"
#include "recovery/userfault.h"
#include "store/base/cleanup.h"

#define CLUSTER	 16u /* pages brought at once, aligned: what is near is needed next */
#define MESSAGES 64u
#define RETRY_NS 50000
#define HASTE	 5 /* nicer to itself than the others by that: a thread of the job waits for us */

struct fault {
	struct lazy_space *space;
	uint64_t address;
};

struct server {
	struct lazy *lazy;
	struct page_fetcher *fetcher;
	struct readers readers;
	struct page_places places;
	struct fault *faults; /* to be served */
	size_t n_faults, room;
	struct pollfd *fds;
	size_t fds_room;
};

/* ---- spaces -------------------------------------------------------------------------------- */

void lazy_space_free(struct lazy_space *space)
{
	cleanup_fd_p(&space->uffd);
	lazy_spans_clear(&space->spans);
	free(space);
}

int lazy_add_space(struct lazy *lazy, size_t memory, int uffd, struct lazy_spans *spans)
{
	struct lazy_space **more = reallocarray(lazy->spaces, lazy->n_spaces + 1, sizeof(struct lazy_space *));
	struct lazy_space *space = calloc(1, sizeof(*space));

	if (more)
		lazy->spaces = more;
	if (!more || !space) {
		free(space);
		return -1;
	}
	space->uffd = uffd;
	space->memory = memory;
	space->spans = *spans;
	*spans = (struct lazy_spans){0};
	more[lazy->n_spaces++] = space;
	return 0;
}

/* ---- putting pages in ---------------------------------------------------------------------- */

/* Pages that go side by side. *done as of userfault_step. */
static int put_run(struct lazy_space *space, uint64_t address, const char *pages, size_t n,
		   struct err *err)
{
	size_t done = 0;
	int why;

	/* What is not there any more needs no page. */
	while ((why = userfault_step(space->uffd, address, pages, n, &done)) == ENOENT)
		done++;
	if (why == ESRCH)
		space->gone = true;
	if (why == EAGAIN)
		return 1;
	return why == 0 || why == ESRCH ? 0
					: err_code(err, why, "cannot fill memory at %#llx", (unsigned long long)address);
}

static int put_into(struct lazy_space *space, const struct page_place *places, size_t n,
		    const char *pages, struct err *err)
{
	size_t run;

	for (size_t i = 0; i < n && !space->gone; i += run) {
		uint64_t source = places[i].page * STORE_PAGE_SIZE;
		struct lazy_span span;
		int result;

		run = 1;
		if (!lazy_spans_place(&space->spans, source, &span))
			continue;
		while (i + run < n && places[i + run].page == places[i].page + run &&
		       source + run * STORE_PAGE_SIZE - span.source < span.end - span.start)
			run++;
		result = put_run(space, span.start + (source - span.source), pages + i * STORE_PAGE_SIZE, run,
				 err);
		if (result != 0)
			return result;
	}
	return 0;
}

int lazy_put(struct lazy *lazy, size_t memory, const struct page_place *places, size_t n, const void *pages,
	     struct err *err)
{
	bool wanted = false;
	int result = 0;

	pthread_rwlock_rdlock(&lazy->lock);
	for (size_t i = 0; i < lazy->n_spaces && result == 0; i++) {
		struct lazy_space *space = lazy->spaces[i];

		if (space->memory == memory)
			result = put_into(space, places, n, pages, err);
		wanted |= space->memory == memory && !space->gone;
	}
	pthread_rwlock_unlock(&lazy->lock);
	return result || wanted ? result : err_set(err, ERR_GONE, "nobody is left who needs it");
}

/* ---- events -------------------------------------------------------------------------------- */

static int note_fault(struct server *s, struct lazy_space *space, uint64_t address)
{
	if (s->n_faults == s->room) {
		size_t room = s->room ? s->room * 2 : MESSAGES;
		struct fault *more = reallocarray(s->faults, room, sizeof(*more));

		if (!more)
			return -1;
		s->faults = more;
		s->room = room;
	}
	s->faults[s->n_faults++] = (struct fault){space, address & ~(uint64_t)(STORE_PAGE_SIZE - 1)};
	atomic_fetch_add(&s->lazy->faults, 1);
	return 0;
}

static int follow_fork(struct lazy *lazy, const struct lazy_space *parent, int uffd)
{
	struct lazy_spans spans;

	if (lazy_spans_copy(&spans, &parent->spans) == 0) {
		if (lazy_add_space(lazy, parent->memory, uffd, &spans) == 0)
			return 0;
		lazy_spans_clear(&spans);
	}
	/* Not closed: the child would find zeroes. It ends with the job. */
	return -1;
}

static int heed(struct server *s, struct lazy_space *space, const struct uffd_msg *msg)
{
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		return note_fault(s, space, msg->arg.pagefault.address);
	case UFFD_EVENT_FORK:
		return follow_fork(s->lazy, space, (int)msg->arg.fork.ufd);
	case UFFD_EVENT_REMAP:
		return lazy_spans_move(&space->spans, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		return lazy_spans_cut(&space->spans, msg->arg.remove.start, msg->arg.remove.end);
	default:
		return 0;
	}
}

/* All that is told now. */
static int read_events(struct server *s, struct lazy_space *space)
{
	struct uffd_msg msgs[MESSAGES];
	ssize_t n;

	while ((n = read(space->uffd, msgs, sizeof(msgs))) > 0)
		for (size_t i = 0; i < (size_t)n / sizeof(*msgs); i++)
			if (heed(s, space, &msgs[i]) < 0)
				return -1;
	return 0;
}

/* Spaces of processes that are gone; no fault is waiting to be served. */
static void drop_gone(struct lazy *lazy)
{
	size_t kept = 0;

	for (size_t i = 0; i < lazy->n_spaces; i++) {
		if (lazy->spaces[i]->gone)
			lazy_space_free(lazy->spaces[i]);
		else
			lazy->spaces[kept++] = lazy->spaces[i];
	}
	lazy->n_spaces = kept;
}

static int read_all_events(struct server *s, struct err *err)
{
	struct lazy *lazy = s->lazy;
	int result = 0;

	pthread_rwlock_wrlock(&lazy->lock);
	if (s->n_faults == 0)
		drop_gone(lazy);
	for (size_t i = 0; i < lazy->n_spaces && result == 0; i++)
		result = read_events(s, lazy->spaces[i]);
	pthread_rwlock_unlock(&lazy->lock);
	return result < 0 ? err_set(err, ERR_SYSTEM, "out of memory") : 0;
}

/* ---- faults -------------------------------------------------------------------------------- */

struct wanted {
	size_t memory;
	uint64_t page;	   /* of the snapshot */
	uint64_t first, n; /* and those around it that it has beside it */
};

/* What belongs there. false: nothing of the snapshot's. Who alone changes the spans reads them without the lock. */
static bool find_wanted(const struct lazy_space *space, uint64_t address, struct wanted *ret)
{
	struct lazy_span span;
	uint64_t start, end;

	if (!lazy_spans_find(&space->spans, address, &span))
		return false;
	start = span.source / STORE_PAGE_SIZE;
	end = start + (span.end - span.start) / STORE_PAGE_SIZE;
	*ret = (struct wanted){.memory = space->memory,
			       .page = start + (address - span.start) / STORE_PAGE_SIZE};
	ret->first = ret->page & ~(uint64_t)(CLUSTER - 1);
	if (ret->first < start)
		ret->first = start;
	ret->n = (ret->page | (CLUSTER - 1)) + 1;
	ret->n = (ret->n < end ? ret->n : end) - ret->first;
	return true;
}

struct delivery {
	struct lazy *lazy;
	size_t memory;
	bool again;
};

static int deliver(void *ctx, const struct page_place *places, size_t n, const void *pages, struct err *err)
{
	struct delivery *d = ctx;
	int result = lazy_put(d->lazy, d->memory, places, n, pages, err);

	d->again |= result > 0;
	return result < 0 && err->kind != ERR_GONE ? -1 : 0;
}

/* Whether the wanted page is among them; then they are put in. */
static int bring(struct server *s, const struct wanted *w, bool *ret_found, bool *ret_again, struct err *err)
{
	struct delivery d = {s->lazy, w->memory, false};
	struct page_reader *reader;

	s->places.n = 0;
	*ret_found = false;
	if (readers_get(&s->readers, s->lazy->memories[w->memory].root, &reader, err) < 0 ||
	    page_reader_places(reader, w->first, w->n, &s->places, err) < 0)
		return -1;
	for (size_t i = 0; i < s->places.n; i++)
		*ret_found |= s->places.list[i].page == w->page;
	if (!*ret_found)
		return 0;
	page_places_sort(&s->places);
	if (page_fetch(s->fetcher, s->places.list, s->places.n, deliver, &d, err) < 0)
		return -1;
	*ret_again = d.again;
	return 0;
}

static int put_zero(struct lazy_space *space, uint64_t address, bool *ret_again, struct err *err)
{
	int why = userfault_zero(space->uffd, address);

	if (why == ESRCH)
		space->gone = true;
	*ret_again = why == EAGAIN;
	if (why == 0 || why == EAGAIN || why == ESRCH || why == ENOENT)
		return 0;
	return err_code(err, why, "cannot fill memory at %#llx", (unsigned long long)address);
}

static int serve_fault(struct server *s, const struct fault *fault, bool *ret_again, struct err *err)
{
	struct wanted wanted;
	bool found = false;

	*ret_again = false;
	if (fault->space->gone)
		return 0;
	if (find_wanted(fault->space, fault->address, &wanted) && bring(s, &wanted, &found, ret_again, err) < 0)
		return -1;
	if (!found && put_zero(fault->space, fault->address, ret_again, err) < 0)
		return -1;
	if (!*ret_again)
		userfault_wake(fault->space->uffd, fault->address);
	return 0;
}

/* Those that an event is in the way of stay for the next time. */
static int serve_faults(struct server *s, struct err *err)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->n_faults; i++) {
		bool again;

		if (serve_fault(s, &s->faults[i], &again, err) < 0)
			return -1;
		if (again)
			s->faults[kept++] = s->faults[i];
	}
	s->n_faults = kept;
	return 0;
}

/* ---- the thread ---------------------------------------------------------------------------- */

static int wait_for_news(struct server *s, struct err *err)
{
	const struct timespec moment = {.tv_nsec = RETRY_NS};
	struct lazy *lazy = s->lazy;
	eventfd_t ignored;
	size_t n = lazy->n_spaces + 1;

	if (n > s->fds_room) {
		struct pollfd *more = reallocarray(s->fds, n * 2, sizeof(*more));

		if (!more)
			return err_set(err, ERR_SYSTEM, "out of memory");
		s->fds = more;
		s->fds_room = n * 2;
	}
	s->fds[0] = (struct pollfd){.fd = lazy->wake, .events = POLLIN};
	pthread_rwlock_rdlock(&lazy->lock);
	n = lazy->n_spaces + 1 < s->fds_room ? lazy->n_spaces + 1 : s->fds_room;
	for (size_t i = 1; i < n; i++)
		s->fds[i] = (struct pollfd){.fd = lazy->spaces[i - 1]->uffd, .events = POLLIN};
	pthread_rwlock_unlock(&lazy->lock);
	ppoll(s->fds, n, s->n_faults ? &moment : NULL, NULL);
	eventfd_read(lazy->wake, &ignored);
	return 0;
}

static int serve(struct server *s, struct err *err)
{
	struct lazy *lazy = s->lazy;

	while (!lazy->quit && !lazy->filled) {
		if (wait_for_news(s, err) < 0 || read_all_events(s, err) < 0 || serve_faults(s, err) < 0)
			return -1;
	}
	return 0;
}

/* Closing a userfaultfd makes of what it had ordinary memory, and lets go of whoever waits for it. */
static void let_go(struct lazy *lazy)
{
	pthread_rwlock_wrlock(&lazy->lock);
	for (size_t i = 0; i < lazy->n_spaces; i++)
		lazy_space_free(lazy->spaces[i]);
	lazy->n_spaces = 0;
	pthread_rwlock_unlock(&lazy->lock);
}

/* All that is not zero is there, in children too: a page is put into all that live, and who is born later is born
 * with it. */
static void complete(struct lazy *lazy)
{
	let_go(lazy);
	session_abort(lazy->hold);
	lazy->hold = NULL;
	lazy_end(lazy, LAZY_COMPLETE, NULL);
}

/* Whoever rebuilds waits for what he has touched. He gets zeroes, and finds at his next look why: nothing of the job
 * has run, or will. A job that runs sees none of them. */
static void fail(struct lazy *lazy, const struct err *why)
{
	if (!lazy_end(lazy, LAZY_FAILED, why))
		let_go(lazy);
	atomic_store(&lazy->quit, true);
}

void *lazy_serve(void *arg)
{
	struct server s = {.lazy = arg};
	struct err err;
	int result;

	s.readers.store = s.lazy->store;
	setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) - HASTE);
	result = page_fetcher_open(&s.fetcher, s.lazy->store, false, &err);
	if (result == 0) {
		result = serve(&s, &err);
		page_fetcher_close(s.fetcher);
	}
	if (result == 0 && s.lazy->filled)
		complete(s.lazy);
	if (result < 0)
		fail(s.lazy, &err);
	readers_close(&s.readers);
	page_places_clear(&s.places);
	free(s.faults);
	free(s.fds);
	return NULL;
}
