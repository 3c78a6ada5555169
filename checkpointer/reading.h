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
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/copies.h"

#define PAGE_READING_WINDOW 512u

struct page_reading { /* starts as {.pid = …, .pagemap = -1, .mem = -1} */
	pid_t pid;
	int pagemap, mem;
	bool failed; /* they cannot be opened: everything is read the fast way */
	/* Words of pagemap for the pages [first, first + n), of the chunk that is being read. */
	struct {
		uint64_t first, n;
		uint64_t words[PAGE_READING_WINDOW];
	} window;
};

void page_reading_end(struct page_reading *reading);
/* Reads the runs of the chunk into its data. False: some could not be read, or only partly. errno says why. */
bool page_reading_chunk(struct page_reading *reading, const struct page_chunk *chunk);

#endif
