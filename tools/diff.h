/*
 * diff.h: what differs between two snapshots of one store, as values.
 *
 * Processes are matched by pid, regions by what they map and where, threads by tid, descriptors by
 * number, files by path. Pages are compared by what their page tables refer to: stretches that are
 * the same in both cost nothing, and a page that was stored twice counts as changed.
 */
#ifndef PAWL_TOOLS_DIFF_H
#define PAWL_TOOLS_DIFF_H

#include <jansson.h>

#include "store/store.h"

enum diff_kind { DIFF_CHANGED, DIFF_NEW, DIFF_GONE };

/* Pages with content, in A only, in B only, or another one. */
struct diff_pages {
	uint64_t changed, came, went;
};

struct diff_region {
	enum diff_kind kind;
	const Snap__Region *a, *b; /* of the models; NULL: not there */
	const char *name;	   /* file, "[heap]" …; of a model or a constant */
	struct diff_pages pages;
	bool moved, protected; /* its bounds, its protection are others */
};

/* A thread, a descriptor. */
struct diff_item {
	enum diff_kind kind;
	int32_t number;
	const char *a, *b; /* descriptors: what they lead to; of the models or constants */
	uint64_t offset_a, offset_b;
};

struct diff_process {
	enum diff_kind kind;
	int32_t pid;
	const char *name;
	struct diff_region *regions; /* those that differ */
	size_t n_regions, regions_room, regions_compared;
	struct diff_item *threads; /* CHANGED: other registers */
	size_t n_threads, threads_room;
	struct diff_item *fds;
	size_t n_fds, fds_room;
	struct diff_pages pages; /* of all its regions */
};

struct diff_file {
	enum diff_kind kind;
	char *path; /* owned */
	uint64_t size_a, size_b;
	struct diff_pages pages;
};

struct diff {
	struct diff_process *processes; /* those that differ */
	size_t n_processes, processes_room, processes_compared;
	struct diff_file *files;
	size_t n_files, files_room;
};

/* The models must outlive the result. Their references are checked by plan_check (recovery/plan.h). */
int diff_make(struct diff *ret, struct store *store, const Snap__Snapshot *a, const Snap__Snapshot *b,
	      struct err *err);
void diff_clear(struct diff *diff);

void diff_print(const struct diff *diff);
json_t *diff_json(const struct diff *diff);

/* diff_files.c: the part about files, and that about a descriptor's. */
int diff_files(struct diff *diff, struct store *store, const Snap__Snapshot *a,
	       const Snap__Snapshot *b, struct err *err);
/* Pages first … first+n-1 of the tables. */
int diff_tables(struct store *store, uint64_t root_a, uint64_t root_b, uint64_t first, uint64_t n,
		struct diff_pages *ret, struct err *err);
/* Room for one more element, zeroed; NULL with err set. */
void *diff_grow(void *list, size_t *n, size_t *room, size_t size, struct err *err);

#endif
