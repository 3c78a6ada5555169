/*
 * inherit.h: what processes can take over from their makers' memory at their creation. Pure.
 *
 * Pages are shared (copy-on-write) between processes only where one was cloned from the other with
 * the pages in place. So a process is mapped and filled before those are created that have regions
 * in common with it; in these, what is common stays, and only pages that differ are written.
 *
 * A process that others inherit from is filled with an *image*: its own regions, and those that its
 * heirs have in common though it has given them up itself (fosters). They are taken away when all
 * heirs exist.
 */
#ifndef PAWL_RECOVERY_INHERIT_H
#define PAWL_RECOVERY_INHERIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/snapshot.h"

#define INHERIT_NOBODY SIZE_MAX
#define INHERIT_AHEAD  (SIZE_MAX - 1) /* of an earlier snapshot: ahead.h */

struct image_piece {
	Snap__Region region; /* or part of one; its pointers are the model's */
	size_t source; /* process whose page table has its pages; INHERIT_NOBODY: none are there */
	uint64_t root; /* with INHERIT_AHEAD: of that page table */
	bool foster;   /* not a region of the process itself */
	bool shared;   /* of a foster: more than one heir has it */
};

/* The early regions (plan_region_is_late) of one process, and its fosters; ascending. Others of its
 * regions are not in it. */
struct region_image {
	struct image_piece *pieces;
	size_t n, room;
};

struct inheritance {
	size_t n_members;
	size_t *sources; /* of each member: the process that must be filled before it is created,
			  * or INHERIT_NOBODY */
	size_t n_processes;
	struct region_image *images; /* of each process of the model */
};

/* by[i]: the member that forks member i (INHERIT_NOBODY: one without memory of the job's); members
 * are the processes of the model, then any number of helpers. owns: whether a process has an
 * address space that is filled for it. */
int inheritance_make(struct inheritance *ret, const Snap__Snapshot *model, const size_t *by,
		     size_t n_members, bool (*owns)(const Snap__Process *p), bool leave_files,
		     struct err *err);
void inheritance_clear(struct inheritance *inheritance);

/* How much of a region, from its start on, is there in a process that was created with this image
 * (NULL: with none): the end of that part, region->start where there is nothing. Memory whose end
 * is missing can be grown; of files all is there or nothing. */
uint64_t inherit_end(const struct region_image *image, const Snap__Region *region);
/* First piece that ends behind `at`; image->n: none. */
size_t image_find(const struct region_image *image, uint64_t at);

/* Whether both have the vdso at the same place. */
bool inherit_vdso(const Snap__Process *maker, const Snap__Process *child);

/* image.c: appends; and pieces of heir's image that are not in image become fosters of it. */
int image_add(struct region_image *image, const struct image_piece *piece, struct err *err);
int image_adopt(struct region_image *image, const Snap__Process *p, const struct region_image *heir,
		struct err *err);
/* When all heirs have been adopted: drops fosters that no two heirs share and that continue
 * nothing. */
void image_prune(struct region_image *image);
/* Whether the two are mapped alike, so that one can be the other's continuation or part. Not for
 * regions that a fork does not copy (MAP_DROPPABLE) or whose pages may run out (hugetlb). */
bool image_alike(const Snap__Region *a, const Snap__Region *b);

#endif
