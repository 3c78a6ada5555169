/*
 * Content that the store has already, elsewhere: found by the index, referred to, safe from collections; and the
 * index lost or wrong costs nothing but duplicates.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "store/pageindex.h"
#include "store/pins.h"
#include "store_fixture.h"
#include "unit.h"

#define PAGES 6000u

static struct err err;
static const struct store_secret secret = {{9, 8, 7}};

/* ---- a run --------------------------------------------------------------------------------- */

static void check_find(const struct index_run *run, uint32_t print)
{
	uint32_t expected = 0;

	while (expected < run->count && run_entry(run, expected).print < print)
		expected++;
	assert_int_equal(run_find(run, print), expected);
}

/* spread: prints below that. Sealed, opened, and every print found where it is. */
static void check_run(size_t n, uint32_t spread)
{
	struct index_entry *entries = calloc(n, sizeof(*entries));
	uint8_t *bytes = malloc(run_len(n));
	uint64_t random = n;
	struct index_run run;
	size_t i;

	for (i = 0; i < n; i++)
		entries[i] = (struct index_entry){(uint32_t)(fixture_random(&random) % spread),
						  fixture_random(&random) % RUN_ID_END};
	index_sort(entries, n);
	run_seal(bytes, entries, n, 17, &secret);
	ok(run_open(&run, bytes, run_len(n), 17, &secret, &err));
	assert_int_equal(run.count, n);
	for (i = 0; i < n; i++) {
		assert_int_equal(run_entry(&run, (uint32_t)i).id, entries[i].id);
		if (i % 7 == 0)
			check_find(&run, entries[i].print);
	}
	for (i = 0; i < 100; i++)
		check_find(&run, (uint32_t)fixture_random(&random));
	check_find(&run, 0);
	check_find(&run, UINT32_MAX);
	assert_fails(run_open(&run, bytes, run_len(n), 18, &secret, &err), ERR_CORRUPT, &err);
	assert_fails(run_open(&run, bytes, RUN_HEADER + 9, 17, &secret, &err), ERR_CORRUPT, &err);
	bytes[RUN_HEADER + n] ^= 4;
	assert_fails(run_open(&run, bytes, run_len(n), 17, &secret, &err), ERR_CORRUPT, &err);
	free(entries);
	free(bytes);
}

static void test_run(void **state)
{
	check_run(1, UINT32_MAX);
	check_run(2, UINT32_MAX);
	check_run(1000, UINT32_MAX);
	check_run(5000, 3); /* as no hashes are */
	check_run(5000, 100000);
	assert_true(run_len(RUN_MOST) <= PACK_SIZE);
}

/* Many additions make few runs, and all of them are found. */
static void test_runs_merge(void **state)
{
	struct store *store = *state;
	struct index_entry entries[64];
	uint64_t id = 1, ids[4], random = 1;
	size_t runs;
	MDB_txn *txn;
	unsigned i, j;

	for (i = 0; i < 500; i++) {
		for (j = 0; j < 64; j++)
			entries[j] = (struct index_entry){(uint32_t)(id * 2654435761u), id}, id++;
		index_sort(entries, 64);
		ok(txn_write(store, &txn, &err));
		ok(index_add(store, txn, entries, 1 + fixture_random(&random) % 64, &err));
		ok(txn_commit(store, txn, false, &err));
	}
	ok(txn_read(store, &txn, &err));
	for (i = 0; i < 64; i++) {
		size_t n = index_find(store, txn, entries[0].print, ids, 4, &runs);

		assert_int_equal(n, 1);
		assert_int_equal(ids[0], entries[0].id);
	}
	txn_end(store, txn);
	assert_true(runs <= 16);
	assert_int_equal(fixture_problems(store), 0);
}

/* ---- sessions ------------------------------------------------------------------------------ */

static void make_job(struct store *store, const char *name)
{
	int lock;

	ok(store_job_lock(store, name, &lock, &err));
	store_job_unlock(lock);
}

/* Puts pages of the image until `limit`; the session stays open. */
static struct store_session *begin_with(struct store *store, const char *job, const struct image *image,
					uint64_t limit, struct page_table **ret)
{
	struct store_session *session;
	char page[PAGE];
	uint64_t i;

	ok(session_begin(&session, store, job, 0, CODEC_LZ4, &err));
	ok(page_table_edit(ret, session, 0, &err));
	for (i = 0; i < limit; i++) {
		fixture_page(page, image->seed[i]);
		ok(page_table_put(*ret, i, page, 1, NULL, &err));
	}
	return session;
}

static uint64_t publish(struct store_session *session, struct page_table *table)
{
	struct snapshot_info info = {.time = 1};
	Snap__Snapshot *model;
	uint64_t root;

	ok(page_table_finish(table, &root, &err));
	model = fixture_model(root);
	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	return info.seq;
}

static uint64_t stored_by(const struct store_session *session)
{
	struct session_counts counts;

	session_counts(session, &counts);
	return counts.pages_stored;
}

/* How many of its pages another job had to store. */
static uint64_t save_and_count(struct store *store, const char *job, const struct image *image)
{
	struct page_table *table;
	struct store_session *session = begin_with(store, job, image, image->n, &table);
	uint64_t stored = stored_by(session);

	publish(session, table);
	return stored;
}

static void must_equal(struct store *store, const char *job, const struct image *image)
{
	if (!image_equals(store, job, 0, image, 0, &err))
		fail_msg("%s: %s", job, err.msg);
}

static void test_two_jobs(void **state)
{
	struct image image = image_new(PAGES, 5);

	make_job(*state, "other");
	image_save(*state, "job", 0, &image, NULL, 0);
	assert_true(save_and_count(*state, "other", &image) < PAGES / 50);
	must_equal(*state, "other", &image);
	/* The first one's end takes nothing from the second. */
	ok(store_job_drop(*state, "job", &err));
	ok(store_gc(*state, 0, NULL, &err));
	must_equal(*state, "other", &image);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
}

static void test_earlier_content(void **state)
{
	struct image a = image_new(PAGES, 5), b = image_new(PAGES, 900000000);
	struct snapshot_info info;
	unsigned i;

	image_save(*state, "job", 0, &a, NULL, 0);
	image_save(*state, "job", 1, &b, NULL, 0);
	for (i = 2; i < 6; i++) {
		info = image_save(*state, "job", i, i % 2 ? &b : &a, NULL, 0);
		assert_true(info.bytes_stored < PAGES * 2100 / 30);
		must_equal(*state, "job", i % 2 ? &b : &a);
	}
	image_free(&a);
	image_free(&b);
}

/* Nothing that a collection has freed is referred to, and what is found stays until it is published. */
static void test_freed_and_pinned(void **state)
{
	struct image image = image_new(PAGES, 5);
	struct page_table *table;
	struct store_session *session;
	struct gc_stats stats;

	make_job(*state, "other");
	image_save(*state, "job", 0, &image, NULL, 0);
	ok(store_snapshot_drop(*state, "job", 1, &err));
	session = begin_with(*state, "other", &image, PAGES, &table);
	assert_true(stored_by(session) < PAGES / 50);
	ok(store_gc(*state, 0, &stats, &err));
	assert_true(stats.packs_freed < 2);
	publish(session, table);
	ok(store_gc(*state, 0, NULL, &err));
	must_equal(*state, "other", &image);

	ok(store_snapshot_drop(*state, "other", 1, &err));
	ok(store_gc(*state, 0, &stats, &err));
	assert_true(stats.packs_freed > 10);
	assert_int_equal(save_and_count(*state, "other", &image), PAGES);
	must_equal(*state, "other", &image);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
}

/* Published while a collection goes on that had not marked it: the pins stay, and go with the collection. */
static void test_published_meanwhile(void **state)
{
	struct image image = image_new(PAGES, 5);
	struct store *store = *state;
	struct id_ranges pins = {0};
	struct store_session *session;
	struct page_table *table;
	MDB_txn *txn;

	make_job(store, "other");
	image_save(store, "job", 0, &image, NULL, 0);
	session = begin_with(store, "other", &image, PAGES, &table);
	ok(pins_collecting(store, &err));
	publish(session, table);
	ok(sessions_reclaim(store, &err)); /* as somebody does who opens the store */
	ok(txn_read(store, &txn, &err));
	ok(pins_read(store, txn, &pins, &err));
	txn_end(store, txn);
	assert_true(pins.n > 0);
	assert_true(id_ranges_meet(&pins, 100, 100));
	id_ranges_clear(&pins);
	ok(store_gc(store, 0, NULL, &err));
	ok(txn_read(store, &txn, &err));
	ok(pins_read(store, txn, &pins, &err));
	txn_end(store, txn);
	assert_int_equal(pins.n, 0);
	must_equal(store, "other", &image);
	image_free(&image);
}

/* Another session's pages may be taken back: they are not referred to before they are published. */
static void test_unpublished(void **state)
{
	struct image image = image_new(70000, 5), small = image_new(PAGES, 5);
	struct page_table *table;
	struct store_session *session = begin_with(*state, "job", &image, image.n, &table);

	make_job(*state, "other");
	assert_int_equal(save_and_count(*state, "other", &small), PAGES);
	page_table_free(table);
	session_abort(session);
	must_equal(*state, "other", &small);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
	image_free(&small);
}

/* ---- the index lost or damaged ------------------------------------------------------------- */

/* flip: one bit of every run; else all runs are deleted. Returns how many there were. */
static unsigned spoil(struct store *store, bool flip)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	unsigned n = 0;
	MDB_txn *txn;

	ok(txn_write(store, &txn, &err));
	assert_int_equal(mdb_cursor_open(txn, store->index, &cursor), 0);
	while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
		uint8_t *copy = malloc(value.mv_size);

		n++;
		memcpy(copy, value.mv_data, value.mv_size);
		copy[RUN_HEADER + 11] ^= 1;
		value.mv_data = copy;
		if (flip)
			assert_int_equal(mdb_cursor_put(cursor, &key, &value, MDB_CURRENT), 0);
		else
			assert_int_equal(mdb_cursor_del(cursor, 0), 0);
		free(copy);
	}
	mdb_cursor_close(cursor);
	ok(txn_commit(store, txn, false, &err));
	return n;
}

static void check_spoilt(struct store *store, bool flip)
{
	struct image image = image_new(PAGES, 5), more = image_new(PAGES, 3000000);

	make_job(store, "other");
	image_save(store, "job", 0, &image, NULL, 0);
	assert_int_equal(spoil(store, flip), 1);
	assert_int_equal(fixture_problems(store), flip);
	save_and_count(store, "other", &more);
	must_equal(store, "other", &more);
	if (!flip)
		spoil(store, false);
	ok(store_gc(store, 0, NULL, &err));
	assert_int_equal(fixture_problems(store), 0);
	assert_true(save_and_count(store, "other", &image) < PAGES / 50);
	must_equal(store, "other", &image);
	image_free(&image);
	image_free(&more);
}

static void test_damaged(void **state)
{
	check_spoilt(*state, true);
}

static void test_lost(void **state)
{
	check_spoilt(*state, false);
}

/* ---- all at once --------------------------------------------------------------------------- */

struct collector {
	struct store *store;
	atomic_bool stop;
	atomic_int rounds, failures;
};

static void *collect_on_and_on(void *arg)
{
	struct collector *c = arg;
	struct err why;

	while (!atomic_load(&c->stop)) {
		if (store_gc(c->store, 0, NULL, &why) < 0)
			atomic_fetch_add(&c->failures, 1);
		atomic_fetch_add(&c->rounds, 1);
	}
	return NULL;
}

/* Two jobs take contents from each other, drop what they had, and a thread collects all the time. */
static void test_with_collections(void **state)
{
	struct image images[3] = {image_new(1500, 1), image_new(1500, 500000000), image_new(1500, 9000000000)};
	static const char *const jobs[] = {"job", "other"};
	struct collector collector = {.store = *state};
	uint64_t random = 3, seq[2] = {0, 0};
	pthread_t thread;
	unsigned i;

	make_job(*state, "other");
	pthread_create(&thread, NULL, collect_on_and_on, &collector);
	for (i = 0; i < 60 || atomic_load(&collector.rounds) < 20; i++) {
		unsigned job = (unsigned)(fixture_random(&random) % 2);
		struct image *image = &images[fixture_random(&random) % 3];
		uint64_t before = seq[job];

		image_change(image, 20, &random);
		seq[job] = image_save(*state, jobs[job], before, image, NULL, 0).seq;
		if (before)
			ok(store_snapshot_drop(*state, jobs[job], before, &err));
		must_equal(*state, jobs[job], image);
	}
	atomic_store(&collector.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&collector.failures), 0);
	assert_int_equal(fixture_problems(*state), 0);
	for (i = 0; i < 3; i++)
		image_free(&images[i]);
}

#define STORE_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_set_up, fixture_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_run),
		STORE_TEST(test_runs_merge),
		STORE_TEST(test_two_jobs),
		STORE_TEST(test_earlier_content),
		STORE_TEST(test_freed_and_pinned),
		STORE_TEST(test_published_meanwhile),
		STORE_TEST(test_unpublished),
		STORE_TEST(test_damaged),
		STORE_TEST(test_lost),
		STORE_TEST(test_with_collections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
