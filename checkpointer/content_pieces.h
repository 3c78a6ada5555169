/*
 * content_pieces.h: which pages of shared memory exist, where no descriptor leads to it.
 *
 * Reading a page that does not exist through a mapping makes it (mm/shmem.c, shmem_fault), so a
 * great reserve of which little is used must not be read whole.
 */
#ifndef PAWL_CHECKPOINTER_CONTENT_PIECES_H
#define PAWL_CHECKPOINTER_CONTENT_PIECES_H

#include "checkpointer/collect.h"

struct piece_list {
	struct file_piece *list; /* ascending by offset, disjoint */
	size_t n;
};

void piece_list_free(struct piece_list *pieces);

/* While the processes run: pages that are in the page table of a process at least. */
int pieces_present(const struct file_source *s, struct piece_list *ret, struct err *err);
/* While they stand still: all pages that exist, asked of the processes through their executors. */
int pieces_resident(const struct collection *c, const struct file_source *s, struct piece_list *ret,
		    struct err *err);

#endif
