/*
 * sweep.h: what a sweep knows of the packs. Private to a garbage collection.
 */
#ifndef PAWL_STORE_SWEEP_H
#define PAWL_STORE_SWEEP_H

#include "store/gc.h"

/* A pack that is left alone also keeps its neighbours apart: merging them across it would hide it. */
enum pack_fate { PACK_BARRIER, PACK_DEAD, PACK_LIVE };

struct pack_use {
	uint64_t key, last; /* last id */
	enum pack_fate fate;
	uint32_t value_len;
	uint32_t live_len; /* live pages' bytes and entries */
	uint32_t live;     /* pages */
};

struct pack_list {
	struct pack_use *use;
	size_t n, room;
};

/* Moves the live pages of packs next to each other that have few into new packs, where that pays; dead packs among them
 * are gone already. Where the disk is full that is not done, and no failure. */
int merge_sparse(struct gc *gc, const struct pack_list *packs, struct err *err);

#endif
