/*
 * Stores whose data.mdb is damaged beyond opening: made anew, everything that is left in it is whole.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/bytes.h"
#include "store_fixture.h"
#include "unit.h"

#define PAGES     3000u
#define SNAPSHOTS 3u

enum { LMDB_BRANCH = 1, LMDB_LEAF = 2, LMDB_META = 8 }; /* kinds of pages, at offset 10 */

static struct err err;
static char dir[256];
static struct image images[SNAPSHOTS];
static uint8_t *whole; /* the file as it was */
static size_t size;

static const char *path_of(const char *name)
{
	static char path[400];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int setup_group(void **state)
{
	uint64_t random = 1;
	struct store *store;
	struct stat st;
	unsigned i;
	int fd, lock;

	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	store = fixture_open(dir, "job");
	ok(store_job_lock(store, "other", &lock, &err));
	store_job_unlock(lock);
	for (i = 0; i < SNAPSHOTS; i++) {
		images[i] = image_new(PAGES, 1);
		if (i > 0) {
			memcpy(images[i].seed, images[i - 1].seed, PAGES * sizeof(uint64_t));
			image_change(&images[i], 300, &random);
		}
		image_save(store, "job", i, &images[i], i ? &images[i - 1] : NULL, 64);
	}
	image_save(store, "other", 0, &images[1], NULL, 64);
	store_close(store);
	fd = open(path_of("data.mdb"), O_RDONLY);
	assert_int_equal(fstat(fd, &st), 0);
	size = (size_t)st.st_size;
	whole = malloc(size);
	assert_int_equal(pread(fd, whole, size, 0), size);
	close(fd);
	return 0;
}

static int teardown_group(void **state)
{
	for (unsigned i = 0; i < SNAPSHOTS; i++)
		image_free(&images[i]);
	free(whole);
	fixture_remove(dir);
	return 0;
}

static void write_file(const uint8_t *bytes, size_t len)
{
	int fd = open(path_of("data.mdb"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, bytes, len), len);
	close(fd);
	unlink(path_of("data.mdb.damaged"));
}

/* How many snapshots came through; all of them whole. */
static uint64_t salvage(void)
{
	struct salvage_stats stats;
	struct snapshot_info *list;
	struct job_info *jobs;
	struct store *store;
	uint64_t found = 0;
	size_t i, j, n, n_jobs;

	ok(store_salvage(dir, 0, &stats, &err));
	assert_int_equal(access(path_of("data.mdb.damaged"), F_OK), 0);
	ok(store_open(&store, dir, STORE_WRITE, &err));
	ok(store_job_list(store, &jobs, &n_jobs, &err));
	for (i = 0; i < n_jobs; i++) {
		ok(store_snapshot_list(store, jobs[i].name, &list, &n, &err));
		for (j = 0; j < n; j++) {
			const struct image *image = &images[strcmp(jobs[i].name, "other") ? list[j].seq - 1 : 1];

			/* salvaged-ID: whose it was, their sizes and numbers tell */
			if (strncmp(jobs[i].name, "salvaged-", 9) == 0 && n == 1)
				image = &images[1];
			if (!image_equals(store, jobs[i].name, list[j].seq, image, 64, &err))
				fail_msg("%s@%d: %s", jobs[i].name, (int)list[j].seq, err.msg);
			found++;
		}
		free(list);
		job_info_clear(&jobs[i]);
	}
	free(jobs);
	assert_int_equal(found, stats.snapshots);
	assert_int_equal(fixture_problems(store), 0);
	store_close(store);
	return found;
}

/* It goes on as any store. */
static void check_usable(void)
{
	struct store *store = fixture_open(dir, "job");

	image_save(store, "job", 3, &images[0], &images[2], 64);
	if (!image_equals(store, "job", 4, &images[0], 64, &err))
		fail_msg("%s", err.msg);
	ok(store_gc(store, 0, NULL, &err));
	assert_int_equal(fixture_problems(store), 0);
	store_close(store);
}

static void test_trees_are_lost(void **state)
{
	uint8_t *copy = malloc(size);
	struct store *store;
	size_t at;

	memcpy(copy, whole, size);
	memset(copy, 0xee, 2 * PAGE); /* both meta pages */
	for (at = 2 * PAGE; at < size; at += PAGE)
		if (get_le64(copy + at) == at / PAGE && get_le16(copy + at + 10) == LMDB_BRANCH)
			memset(copy + at, 0xee, PAGE);
	write_file(copy, size);
	assert_true(store_open(&store, dir, STORE_READ, &err) < 0);
	assert_int_equal(salvage(), SNAPSHOTS + 1);
	check_usable();
	free(copy);
}

static void test_undamaged(void **state)
{
	struct salvage_stats stats;

	write_file(whole, size);
	assert_int_equal(salvage(), SNAPSHOTS + 1);
	assert_fails(store_salvage(dir, 0, &stats, &err), ERR_INVALID, &err);
	assert_non_null(strstr(err.msg, "data.mdb.damaged"));
}

/* A bit flipped in LMDB's own pages, or in the catalogue: most of it comes through. */
static void test_flips(void **state)
{
	uint64_t random = 7, least = SNAPSHOTS + 1;
	uint8_t *copy = malloc(size);
	unsigned round = 0;

	memcpy(copy, whole, size);
	while (round < 12) {
		size_t page = (size_t)(fixture_random(&random) % (size / PAGE)) * PAGE;
		size_t at = page + fixture_random(&random) % PAGE;
		uint64_t found;

		if (get_le64(copy + page) != page / PAGE ||
		    !(get_le16(copy + page + 10) & (LMDB_BRANCH | LMDB_LEAF | LMDB_META)))
			continue;
		copy[at] ^= (uint8_t)(1u << (round % 8));
		write_file(copy, size);
		copy[at] = whole[at];
		found = salvage();
		if (found < least)
			least = found;
		round++;
	}
	print_message("at least %d of %u snapshots\n", (int)least, SNAPSHOTS + 1);
	free(copy);
}

static void test_cut_off(void **state)
{
	size_t i;

	for (i = 1; i < 8; i++) {
		struct salvage_stats stats;

		write_file(whole, size / 8 * i + 100 * i);
		if (i > 3) {
			salvage();
			continue;
		}
		/* The store's record may be cut off too. */
		if (store_salvage(dir, 0, &stats, &err) < 0)
			assert_int_equal(err.kind, ERR_CORRUPT);
	}
}

static void test_nothing_left(void **state)
{
	struct salvage_stats stats;
	struct stat st;
	uint8_t *noise = malloc(100000);
	uint64_t random = 1;

	for (size_t i = 0; i < 100000; i++)
		noise[i] = (uint8_t)fixture_random(&random);
	write_file(noise, 100000);
	assert_fails(store_salvage(dir, 0, &stats, &err), ERR_CORRUPT, &err);
	assert_int_equal(stat(path_of("data.mdb"), &st), 0);
	assert_int_equal(st.st_size, 100000);
	assert_int_not_equal(access(path_of("data.mdb.damaged"), F_OK), 0);
	write_file(noise, 0);
	assert_fails(store_salvage(dir, 0, &stats, &err), ERR_CORRUPT, &err);
	free(noise);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_undamaged), cmocka_unit_test(test_trees_are_lost),
		cmocka_unit_test(test_flips),     cmocka_unit_test(test_cut_off),
		cmocka_unit_test(test_nothing_left),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
