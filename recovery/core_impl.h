/*
 * core_impl.h: the parts of a core file under construction. Private to core*.c.
 */
#ifndef PAWL_RECOVERY_CORE_IMPL_H
#define PAWL_RECOVERY_CORE_IMPL_H

#include <stdbool.h>

#include "recovery/core.h"

#define CORE_PIECE_PAGES 512u	  /* 2 MiB: a chunk of the page table */
#define CORE_HOLE	 (1ull << 30) /* zeroes of that size are not in the file */

/* A PT_LOAD. */
struct core_segment {
	uint64_t start, end; /* addresses */
	uint64_t filled;     /* up to here it is in the file */
	uint64_t at;	     /* where in the file, from the beginning of all segments */
	uint32_t prot;	     /* PROT_* */
};

/* Pages that go into the file. */
struct core_piece {
	uint64_t root;	/* of the page table that has them; 0: */
	int fd;		/* a file on disk; -1: */
	const void *bytes; /* the vdso's image, `len` of it */
	size_t len;
	uint64_t first; /* page in the table or the file */
	uint32_t n;
	uint64_t at; /* as in core_segment */
};

struct core {
	struct store *store;
	const Snap__Snapshot *model;
	const Snap__Process *process;
	const Snap__Process *memory; /* whose address space it has */
	struct core_segment *segments;
	size_t n_segments, segments_room;
	struct core_piece *pieces;
	size_t n_pieces, pieces_room;
	uint64_t length; /* of all segments */
	int *fds;	 /* opened for pieces */
	size_t n_fds;
	struct core_result result;
};

/* core_layout.c: fills segments and pieces. */
int core_lay_out(struct core *core, struct err *err);
void core_clear(struct core *core);

/* core_notes.c: all notes as the PT_NOTE segment has them. *ret malloc'ed. */
int core_notes(const struct core *core, uint8_t **ret, size_t *ret_len, struct err *err);

/* core_write.c: everything, into an empty file, synced. */
int core_write(struct core *core, int fd, const uint8_t *notes, size_t notes_len, struct err *err);

#endif
