/*
 * store_fixture.h: a store in a fresh directory, pages with known content, small snapshots.
 */
#ifndef PAWL_TESTS_UNIT_STORE_FIXTURE_H
#define PAWL_TESTS_UNIT_STORE_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "store/store.h"

#define PAGE STORE_PAGE_SIZE

/* Prints err and fails the test when rc is negative. */
#define ok(rc)                                                                          \
	do {                                                                            \
		if ((rc) < 0)                                                           \
			fail_msg("%s: %s", #rc, err.msg);                               \
	} while (0)

/* A fresh directory under $TMPDIR or /tmp, in a static buffer; fixture_remove deletes it. */
const char *fixture_dir(void);
void fixture_remove(const char *dir);

/* Opens (making it) and makes sure the job is there. */
struct store *fixture_open(const char *dir, const char *job);

/* cmocka's: *state is a store in a fresh directory, with the job "job"; and its end. */
int fixture_set_up(void **state);
int fixture_tear_down(void **state);

/* Page content that is a function of seed; about half of it compresses. seed 0: zeroes. */
void fixture_page(void *page, uint64_t seed);

/* A memory image: n pages, seeds of each. */
struct image {
	uint64_t n;
	uint64_t *seed;
};
struct image image_new(uint64_t n, uint64_t seed);
void image_free(struct image *image);
/* Gives `changes` random pages new contents. */
void image_change(struct image *image, uint64_t changes, uint64_t *random);

/* One process whose table is the image at page index `base`, against snapshot `parent`. Only pages
 * whose seed differs from old's (NULL: all) are put. Returns the published info; aborts on error. */
struct snapshot_info image_save(struct store *store, const char *job, uint64_t parent,
				const struct image *image, const struct image *old, uint64_t base);
/* Whether what the snapshot holds is exactly the image; says what is not. */
bool image_equals(struct store *store, const char *job, uint64_t seq, const struct image *image,
		  uint64_t base, struct err *err);

/* A model of one process with that page table. */
Snap__Snapshot *fixture_model(uint64_t root);

uint64_t fixture_random(uint64_t *state);

/* store_verify on everything; prints what it finds. */
uint64_t fixture_problems(struct store *store);

#endif
