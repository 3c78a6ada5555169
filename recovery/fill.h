/*
 * fill.h: which stored pages go where in a process. Private to recovery/.
 */
#ifndef PAWL_RECOVERY_FILL_H
#define PAWL_RECOVERY_FILL_H

#include "recovery/readers.h"
#include "recovery/rebuild.h"
#include "store/fetch.h"

struct fill_piece {
	uint64_t root;	   /* of the page table that has it */
	uint64_t first, n; /* pages */
	bool zero;
};

struct fill_pieces { /* starts as {0} */
	struct fill_piece *list; /* owned */
	size_t n, room;
};

void fill_pieces_clear(struct fill_pieces *pieces);
int fill_pieces_add(struct fill_pieces *pieces, uint64_t root, uint64_t first, uint64_t end, bool zero,
		    struct err *err);

/* Which pages of a region make it what the snapshot has. */
struct page_list { /* starts as {.readers.store = …, .pieces = …} */
	struct readers readers;	      /* the caller closes them */
	struct fill_pieces *pieces;   /* what must be written is added */
	/* Told of ranges (bytes) that are filled and must not be any more; NULL: nobody is. */
	int (*drop)(void *ctx, uint64_t start, uint64_t size, struct err *err);
	void *ctx;
};

/* From `start` on the region is fresh. root: of the page table that has its pages. */
int page_list_fresh(struct page_list *list, const Snap__Region *region, uint64_t root, uint64_t start, struct err *err);
/* From `start` to `end` it has the pages of root `was`. */
int page_list_changed(struct page_list *list, const Snap__Region *region, uint64_t root, uint64_t was, uint64_t start,
		      uint64_t end, struct err *err);

struct fill_ranges;
/* All that must be written into the stub's early or late regions, but for those in `but`. Drops from the process
 * what it has inherited and the model has not, unless only_read. */
int fill_list(struct recovery *rec, struct stub *stub, bool late, bool only_read, const struct fill_ranges *but,
	      struct fill_pieces *ret, struct err *err);
/* Fetches all stored pages of pieces, by several threads, and gives them to the sink, which is called by all of
 * them. What is zero or absent is not told. flags: enum fill_flags. */
enum fill_flags {
	FILL_GENTLY = 1 << 0, /* the job runs already */
	FILL_AGAIN = 1 << 1,  /* much of it is filled into other processes too */
};
int fill_run(struct store *store, const struct fill_pieces *pieces, int flags, page_sink *sink, void *ctx,
	     struct err *err);
/* Writes them into a process. */
int fill_process(struct store *store, pid_t pid, const struct fill_pieces *pieces, struct err *err);

/*
 * Memory that is filled through a userfaultfd: UFFDIO_COPY takes a page, fills it and puts it into the
 * page table in one go, where writing first has it cleared by a fault (measured: 0.37 against 0.58
 * core-seconds per GiB, and 0.8 for the process's own writing). An ordinary user may: no fault is ever
 * waited for.
 */
struct fill_ranges { /* starts as {.uffd = -1} */
	int uffd;
	struct range *list; /* ascending; owned */
	size_t n, room;
};

/* Whether another process is created with what is filled here. */
bool fill_has_heirs(const struct recovery *rec, const struct stub *stub);
/* Prepares the stub's fresh early regions of some size where huge pages would not be used. Best effort: what
 * is not among ret's ranges is written the ordinary way. */
int fill_ranges_open(struct recovery *rec, struct stub *stub, struct fill_ranges *ret, struct err *err);
/* Prepares those that can be filled while the process runs already (lazy.h): none where another process
 * inherits from it, or where that is not permitted, which is said. */
int fill_ranges_open_lazy(struct recovery *rec, struct stub *stub, struct fill_ranges *ret, struct err *err);
/* Must come before anybody else touches that memory. */
void fill_ranges_close(struct fill_ranges *ranges);
/* Whether addr is in one of them; *ret_end is where that ends. */
bool fill_ranges_find(const struct fill_ranges *ranges, uint64_t addr, uint64_t *ret_end);

/* A userfaultfd of the stub's address space, with these features. flags: of userfaultfd(2). */
int stub_userfaultfd(struct stub *stub, int flags, uint64_t features, int *ret, struct err *err);

#endif
