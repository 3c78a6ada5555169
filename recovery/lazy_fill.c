/* The rest of the memory, in the order in which it is stored. */
#include "recovery/lazy_impl.h"

#include <sys/eventfd.h>
#include <time.h>

#define EVENT_WAIT_NS 20000

struct destination {
	struct lazy *lazy;
	size_t memory;
};

/* The server reads the events; then the pages go where they belong now. */
static int put_pages(void *ctx, const struct page_place *places, size_t n, const void *pages, struct err *err)
{
	const struct timespec moment = {.tv_nsec = EVENT_WAIT_NS};
	struct destination *to = ctx;
	int result;

	while ((result = lazy_put(to->lazy, to->memory, places, n, pages, err)) > 0 && !to->lazy->quit)
		nanosleep(&moment, NULL);
	if (result == 0)
		atomic_fetch_add(&to->lazy->pages, n);
	return result == 0 && to->lazy->quit ? err_set(err, ERR_GONE, "filling was given up") : result;
}

static int fill_memories(struct lazy *lazy, struct err *err)
{
	for (size_t i = 0; i < lazy->n_memories; i++) {
		struct destination to = {lazy, i};

		if (fill_run(lazy->store, &lazy->memories[i].pieces, FILL_GENTLY, put_pages, &to, err) < 0 &&
		    (err->kind != ERR_GONE || lazy->quit))
			return -1;
	}
	return 0;
}

void *lazy_fill(void *arg)
{
	struct lazy *lazy = arg;
	struct err err;

	if (fill_memories(lazy, &err) == 0) {
		atomic_store(&lazy->filled, true);
		eventfd_write(lazy->wake, 1);
	} else if (!lazy->quit) {
		lazy_end(lazy, LAZY_FAILED, &err);
	}
	return NULL;
}
