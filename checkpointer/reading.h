/*
 * reading.h: the bytes of a process's pages.
 *
 * process_vm_readv(2) is the fastest way, but it pins what it reads, and since Linux 5.19 pinning a page that
 * processes share since a fork gives the process a copy of its own first (mm/gup.c, gup_must_unshare): reading
 * a pool of workers would multiply its memory. What is shared is read through /proc/PID/mem, which does not pin.
 */
#ifndef PAWL_CHECKPOINTER_READING_H
#define PAWL_CHECKPOINTER_READING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/chunk.h"

#define PAGE_READING_WINDOW 512u
#define SLICE_PAGES	    32u

/* Pages that are read in one go: they fit in a CPU's cache. */
struct page_slice {
	size_t n_runs, n_pages;
	struct index_run runs[SLICE_PAGES];
};

struct page_reading { /* starts as {.pid = …, .alone = …, .pagemap = -1, .mem = -1} */
	pid_t pid;
	bool alone; /* so little can be shared that it is not asked for: that takes a fifth of the time of reading */
	int pagemap, mem;
	bool failed; /* they cannot be opened: everything is read the fast way */
	/* Words of pagemap for the pages [first, first + n), of the slice that is being read. */
	struct {
		uint64_t first, n;
		uint64_t words[PAGE_READING_WINDOW];
	} window;
};

void page_reading_end(struct page_reading *reading);
/* Reads the pages of the slice to `data`, one behind the other. False: some could not be read, or only partly. errno
 * says why. */
bool page_reading_slice(struct page_reading *reading, const struct page_slice *slice, char *data);

#endif
