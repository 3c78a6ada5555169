/*
 * Many pages fetched in the order in which they are stored: all of them, checked, whether the file is in the page
 * cache or has to be read from the disk.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/fetch.h"
#include "store_fixture.h"
#include "unit.h"

#define PAGES 6000u /* some twelve packs */
#define BASE  0x7ff123u
#define LEAST 300u

static struct err err;
static char dir[256];
static struct image first, second;

static int setup_group(void **state)
{
	uint64_t random = 1;
	struct store *store;

	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	store = fixture_open(dir, "job");
	first = image_new(PAGES, 1);
	second = image_new(PAGES, 1);
	memcpy(second.seed, first.seed, PAGES * sizeof(uint64_t));
	image_change(&second, PAGES / 4, &random);
	image_save(store, "job", 0, &first, NULL, BASE);
	image_save(store, "job", 1, &second, &first, BASE);
	store_close(store);
	return 0;
}

static int teardown_group(void **state)
{
	image_free(&first);
	image_free(&second);
	fixture_remove(dir);
	return 0;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int open_file(void)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Of the file in the page cache, in percent. */
static size_t cached(int fd)
{
	struct stat st;
	size_t n, count = 0;
	unsigned char *there;
	void *map;

	assert_int_equal(fstat(fd, &st), 0);
	n = (size_t)st.st_size / PAGE;
	there = malloc(n);
	map = mmap(NULL, n * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(there && map != MAP_FAILED);
	assert_int_equal(mincore(map, n * PAGE, there), 0);
	for (size_t i = 0; i < n; i++)
		count += there[i] & 1;
	munmap(map, n * PAGE);
	free(there);
	return count * 100 / n;
}

static void read_all(int fd)
{
	char buf[65536];

	for (off_t at = 0; pread(fd, buf, sizeof(buf), at) > 0; at += (off_t)sizeof(buf))
		;
}

static void forget(int fd)
{
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* ---- fetching ------------------------------------------------------------------------------ */

struct fetched {
	size_t n;
	bool there[PAGES];
};

static int note_pages(void *ctx, const struct page_place *places, size_t n, const void *pages, struct err *e)
{
	struct fetched *fetched = ctx;
	char expected[PAGE];

	assert_true(n > 0 && n <= FETCH_PAGES);
	for (size_t i = 0; i < n; i++) {
		uint64_t index = places[i].page - BASE;

		assert_true(index < PAGES && !fetched->there[index]);
		fixture_page(expected, second.seed[index]);
		assert_memory_equal((const char *)pages + i * PAGE, expected, PAGE);
		fetched->there[index] = true;
		fetched->n++;
	}
	return 0;
}

/* In parts of whole packs. */
static int fetch_parts(struct page_fetcher *fetcher, const struct page_places *places, struct fetched *ret)
{
	size_t n;

	for (size_t at = 0; at < places->n; at += n) {
		ok(page_fetch_reach(fetcher, places->list + at, places->n - at, LEAST, &n, &err));
		assert_true(n >= LEAST || at + n == places->n);
		if (page_fetch(fetcher, places->list + at, n, note_pages, ret, &err) < 0)
			return -1;
	}
	ok(page_fetch_reach(fetcher, places->list, 0, LEAST, &n, &err));
	assert_int_equal(n, 0);
	return 0;
}

static int fetch_second(struct fetched *ret, unsigned times)
{
	struct store *store = fixture_open(dir, NULL);
	struct page_places places = {0};
	struct page_fetcher *fetcher;
	struct page_reader *reader;
	Snap__Snapshot *model;
	int rc;

	ok(store_snapshot_load(store, "job", 2, NULL, &model, &err));
	ok(page_reader_open(&reader, store, model->processes[0]->pages_root, &err));
	ok(page_reader_places(reader, BASE, PAGES, &places, &err));
	ok(page_places_sort(&places));
	for (size_t i = 1; i < places.n; i++)
		assert_true(places.list[i - 1].id <= places.list[i].id);
	ok(page_fetcher_open(&fetcher, store, true, &err));
	do {
		*ret = (struct fetched){0};
		rc = fetch_parts(fetcher, &places, ret);
		assert_true(rc < 0 || ret->n == places.n);
	} while (rc == 0 && --times);
	page_fetcher_close(fetcher);
	page_reader_close(reader);
	page_places_clear(&places);
	snap__snapshot__free_unpacked(model, NULL);
	store_close(store);
	return rc;
}

static void test_from_the_page_cache(void **state)
{
	struct fetched fetched;
	int fd = open_file();

	read_all(fd);
	ok(fetch_second(&fetched, 1));
	assert_true(fetched.n > PAGES * 9 / 10); /* some may be zero */
	close(fd);
}

static void test_past_the_page_cache(void **state)
{
	struct fetched fetched;
	int fd = open_file(), direct;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	forget(fd);
	ok(fetch_second(&fetched, 1));
	assert_true(fetched.n > PAGES * 9 / 10);
	forget(fd);
	if (direct < 0 || cached(fd) > 10)
		skip(); /* such a file system */
	ok(fetch_second(&fetched, 1));
	assert_true(cached(fd) < 50);
	forget(fd);
	ok(fetch_second(&fetched, 2));
	assert_true(cached(fd) > 50); /* of use again: it stays */
	close(direct);
	close(fd);
}

/* ---- damage -------------------------------------------------------------------------------- */

/* Where the first pack's pages begin. */
static off_t find_pack(int fd)
{
	char magic[4];

	for (off_t at = 16; pread(fd, magic, sizeof(magic), at) == sizeof(magic); at += PAGE)
		if (memcmp(magic, "PACK", sizeof(magic)) == 0)
			return at;
	fail_msg("there is no pack");
	return 0;
}

static void flip(int fd, off_t at)
{
	unsigned char byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void test_damage_is_seen(void **state)
{
	struct fetched fetched;
	int fd = open_file();
	off_t pack = find_pack(fd);

	for (int from_disk = 0; from_disk < 2; from_disk++) {
		for (int part = 0; part < 2; part++) {
			/* Of its header, then of one page after the other. */
			off_t at = pack + (part ? 40 : 9), step = part ? 4096 : 1;

			for (int i = 0; i < (part ? 64 : 1); i++)
				flip(fd, at + i * step);
			if (from_disk)
				forget(fd);
			assert_fails(fetch_second(&fetched, 1), ERR_CORRUPT, &err);
			for (int i = 0; i < (part ? 64 : 1); i++)
				flip(fd, at + i * step);
			ok(fetch_second(&fetched, 1));
		}
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_from_the_page_cache),
		cmocka_unit_test(test_past_the_page_cache),
		cmocka_unit_test(test_damage_is_seen),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
