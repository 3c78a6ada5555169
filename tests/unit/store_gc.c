#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_fixture.h"
#include "unit.h"

static struct err err;
static char dir[256];

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s", fixture_dir());
	*state = fixture_open(dir, "job");
	return 0;
}

static int teardown(void **state)
{
	store_close(*state);
	fixture_remove(dir);
	return 0;
}

/* 50 snapshots of an image of which a quarter is rewritten at random each time, three are kept. */
static void test_bounded(void **state)
{
	struct image image = image_new(16384, 1), old = image_new(16384, 1);
	uint64_t random = 5, most = 0, settled = 0;
	struct store_usage usage;
	struct gc_stats stats;
	unsigned i;

	image_save(*state, "job", 0, &image, NULL, 4096);
	for (i = 2; i <= 50; i++) {
		memcpy(old.seed, image.seed, image.n * sizeof(*image.seed));
		image_change(&image, image.n / 4, &random);
		image_save(*state, "job", i - 1, &image, &old, 4096);
		if (i > 3)
			ok(store_snapshot_drop(*state, "job", i - 3, &err));
		ok(store_gc(*state, 0, &stats, &err));
		ok(store_usage(*state, &usage, &err));
		if (usage.file_bytes > most)
			most = usage.file_bytes;
		if (i == 15)
			settled = most;
	}
	/* Live: the image and two quarters, about 2.2 KB a page. Twice that in packs at most, and what
	 * LMDB needs to turn over: the file does not grow beyond what the first rounds took. */
	print_message("live %.1f MB, packs %.1f MB, file %.1f MB (after 15: %.1f MB)\n",
		      16384 * 1.45 * 2.1e-3, (double)usage.pack_bytes / 1e6, (double)most / 1e6,
		      (double)settled / 1e6);
	assert_true(usage.pack_bytes < 16384 * 1.5 * 2200 * 2);
	assert_true(most < settled * 1.25);
	assert_true(most < 16384 * 1.5 * 2200 * 4);
	for (i = 48; i <= 50; i++)
		if (i == 50 && !image_equals(*state, "job", i, &image, 4096, &err))
			fail_msg("%s", err.msg);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
	image_free(&old);
}

/* What collections of every day leave, since it does not pay to move yet, comes free where somebody asks for it. */
static void test_thorough(void **state)
{
	const uint64_t live = 16384 * 2200; /* as they are stored */
	struct image image = image_new(16384, 1), old = image_new(16384, 1);
	struct store_usage everyday, after;
	uint64_t random = 7, seq;
	struct gc_stats stats;

	seq = image_save(*state, "job", 0, &image, NULL, 4096).seq;
	for (unsigned i = 0; i < 6; i++) {
		uint64_t before = seq;

		memcpy(old.seed, image.seed, image.n * sizeof(*image.seed));
		image_change(&image, image.n / 4, &random);
		seq = image_save(*state, "job", before, &image, &old, 4096).seq;
		ok(store_snapshot_drop(*state, "job", before, &err));
	}
	ok(store_gc(*state, 0, &stats, &err));
	ok(store_usage(*state, &everyday, &err));
	ok(store_gc(*state, STORE_GC_THOROUGH, &stats, &err));
	ok(store_usage(*state, &after, &err));
	print_message("everyday %.1f MB, then %.1f MB\n", (double)everyday.pack_bytes / 1e6, (double)after.pack_bytes / 1e6);
	assert_true(after.pack_bytes < everyday.pack_bytes);
	assert_true(after.pack_bytes < live + live / 4);
	assert_true(stats.packs_compacted > 0 && stats.bytes_freed >= everyday.pack_bytes - after.pack_bytes);
	if (!image_equals(*state, "job", seq, &image, 4096, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
	image_free(&old);
}

/* Every snapshot that is left is whole after any mixture of saving, dropping and collecting. */
static void test_any_order(void **state)
{
	enum { KEEP = 6 };
	struct image kept[KEEP] = {0};
	uint64_t seq[KEEP] = {0}, random = 11, last = 0;
	struct image image = image_new(3000, 2);
	unsigned round, i;

	for (round = 0; round < 60; round++) {
		unsigned slot = (unsigned)(fixture_random(&random) % KEEP);
		struct image old = image_new(image.n, 1);

		memcpy(old.seed, image.seed, image.n * sizeof(*image.seed));
		image_change(&image, fixture_random(&random) % 2000, &random);
		if (seq[slot] && seq[slot] != last) {
			ok(store_snapshot_drop(*state, "job", seq[slot], &err));
			image_free(&kept[slot]);
		} else if (seq[slot]) {
			image_free(&old);
			memcpy(image.seed, kept[slot].seed, image.n * sizeof(*image.seed));
			continue; /* the parent of the next one stays */
		}
		last = image_save(*state, "job", last, &image, last ? &old : NULL, 100).seq;
		image_free(&old);
		seq[slot] = last;
		kept[slot] = image_new(image.n, 1);
		memcpy(kept[slot].seed, image.seed, image.n * sizeof(*image.seed));
		if (fixture_random(&random) % 2)
			ok(store_gc(*state, 0, NULL, &err));
		for (i = 0; i < KEEP; i++)
			if (seq[i] && !image_equals(*state, "job", seq[i], &kept[i], 100, &err))
				fail_msg("round %u, snapshot %d: %s", round, (int)seq[i], err.msg);
	}
	assert_int_equal(fixture_problems(*state), 0);
	for (i = 0; i < KEEP; i++)
		image_free(&kept[i]);
	image_free(&image);
}

static void test_drop_all_frees_all(void **state)
{
	struct image image = image_new(5000, 9);
	struct store_usage usage;
	struct gc_stats stats;
	struct stat before, after;
	char path[300];

	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	image_save(*state, "job", 0, &image, NULL, 0);
	ok(store_job_drop(*state, "job", &err));
	ok(store_gc(*state, 0, &stats, &err));
	assert_true(stats.bytes_freed > 5000 * 2048);
	assert_true(stats.packs_freed >= 10);
	ok(store_usage(*state, &usage, &err));
	assert_int_equal(usage.packs, 0);
	assert_int_equal(usage.nodes, 0);
	assert_int_equal(usage.snapshots, 0);
	assert_int_equal(stat(path, &before), 0);
	ok(store_gc(*state, STORE_GC_COMPACT, &stats, &err));
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_size < 200000);
	assert_int_equal(stats.bytes_returned, before.st_size - after.st_size);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
}

static void test_compact_keeps_all(void **state)
{
	struct image image = image_new(5000, 9), old = image_new(5000, 9);
	uint64_t random = 3, before;
	struct store_usage usage;
	unsigned i;

	image_save(*state, "job", 0, &image, NULL, 0);
	for (i = 1; i < 8; i++) {
		memcpy(old.seed, image.seed, image.n * sizeof(*image.seed));
		image_change(&image, 2000, &random);
		image_save(*state, "job", i, &image, &old, 0);
		ok(store_snapshot_drop(*state, "job", i, &err));
	}
	ok(store_usage(*state, &usage, &err));
	before = usage.file_bytes;
	ok(store_gc(*state, STORE_GC_COMPACT, NULL, &err));
	ok(store_usage(*state, &usage, &err));
	assert_true(usage.file_bytes < before / 2);
	if (!image_equals(*state, "job", 0, &image, 0, &err))
		fail_msg("%s", err.msg);
	/* The store goes on working in the new file. */
	image_save(*state, "job", 8, &image, &old, 0);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
	image_free(&old);
}

static void test_compact_refused_while_open(void **state)
{
	struct page_reader *reader;
	struct store_session *session;
	int to_child[2], to_parent[2], status;
	char byte = 0;
	pid_t child;

	ok(page_reader_open(&reader, *state, 0, &err));
	assert_fails(store_gc(*state, STORE_GC_COMPACT, NULL, &err), ERR_BUSY, &err);
	page_reader_close(reader);
	ok(session_begin(&session, *state, "job", 0, CODEC_LZ4, &err));
	assert_fails(store_gc(*state, STORE_GC_COMPACT, NULL, &err), ERR_BUSY, &err);
	session_abort(session);

	/* Another process has it open. It must not inherit ours: so it is started while ours is closed. */
	store_close(*state);
	assert_int_equal(pipe(to_child), 0);
	assert_int_equal(pipe(to_parent), 0);
	child = fork();
	if (child == 0) {
		struct store *other = fixture_open(dir, NULL);

		if (write(to_parent[1], &byte, 1) != 1 || read(to_child[0], &byte, 1) != 1)
			_exit(1);
		store_close(other);
		_exit(0);
	}
	assert_int_equal(read(to_parent[0], &byte, 1), 1);
	*state = fixture_open(dir, "job");
	assert_fails(store_gc(*state, STORE_GC_COMPACT, NULL, &err), ERR_BUSY, &err);
	assert_int_equal(write(to_child[1], &byte, 1), 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	ok(store_gc(*state, STORE_GC_COMPACT, NULL, &err));
}

/* A session's parent may be dropped while it works: what it reuses stays. */
static void test_parent_is_pinned(void **state)
{
	struct image image = image_new(4000, 6), later = image_new(4000, 6);
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	struct page_table *table;
	struct store_usage usage;
	Snap__Snapshot *model;
	struct gc_stats stats;
	char page[PAGE];
	uint64_t root;

	image_save(*state, "job", 0, &image, NULL, 0);
	ok(store_snapshot_load(*state, "job", 1, NULL, &model, &err));
	root = model->processes[0]->pages_root;
	snap__snapshot__free_unpacked(model, NULL);
	ok(session_begin(&session, *state, "job", 1, CODEC_LZ4, &err));
	ok(store_snapshot_drop(*state, "job", 1, &err));
	ok(store_gc(*state, 0, &stats, &err));
	assert_int_equal(stats.packs_freed, 0);
	ok(page_table_edit(&table, session, root, &err));
	later.seed[10] = 123456;
	fixture_page(page, 123456);
	ok(page_table_put(table, 10, page, 1, NULL, &err));
	ok(store_gc(*state, 0, &stats, &err));
	ok(page_table_finish(table, &root, &err));
	ok(store_gc(*state, 0, &stats, &err));
	model = fixture_model(root);
	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	ok(store_gc(*state, 0, &stats, &err));
	assert_int_equal(stats.snapshots_freed, 1);
	if (!image_equals(*state, "job", 2, &later, 0, &err))
		fail_msg("%s", err.msg);
	ok(store_snapshot_drop(*state, "job", 2, &err));
	ok(store_gc(*state, 0, NULL, &err));
	ok(store_usage(*state, &usage, &err));
	assert_int_equal(usage.packs, 0);
	image_free(&image);
	image_free(&later);
}

/* A session has reserved ids and written nothing yet, others have published on both sides of them: what
 * they published must not be merged across, or the session's first pack would hide it. */
static void test_no_merge_across_a_session(void **state)
{
	struct image one = image_new(300, 50), two = image_new(300, 90000), late = image_new(300, 7);
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	struct page_table *table;
	Snap__Snapshot *model;
	char page[PAGE];
	uint64_t root, i, random = 4;
	int lock;

	ok(store_job_lock(*state, "other", &lock, &err));
	store_job_unlock(lock);
	image_save(*state, "job", 0, &one, NULL, 0);
	ok(session_begin(&session, *state, "other", 0, CODEC_LZ4, &err));
	image_save(*state, "job", 1, &two, NULL, 1000);
	/* Only few pages of each pack stay in use, so that merging would pay. */
	for (i = 2; i < 4; i++) {
		struct image old = image_new(300, 90000);

		memcpy(old.seed, two.seed, sizeof(uint64_t) * two.n);
		image_change(&two, 400, &random);
		image_save(*state, "job", i, &two, &old, 1000);
		image_free(&old);
	}
	for (i = 1; i < 4; i++)
		ok(store_snapshot_drop(*state, "job", i, &err));
	ok(store_gc(*state, 0, NULL, &err));
	if (!image_equals(*state, "job", 4, &two, 1000, &err))
		fail_msg("before: %s", err.msg);

	ok(page_table_edit(&table, session, 0, &err));
	for (i = 0; i < late.n; i++) {
		fixture_page(page, late.seed[i]);
		ok(page_table_put(table, i, page, 1, NULL, &err));
	}
	ok(page_table_finish(table, &root, &err));
	model = fixture_model(root);
	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	if (!image_equals(*state, "job", 4, &two, 1000, &err) ||
	    !image_equals(*state, "job", 4, &one, 0, &err) ||
	    !image_equals(*state, "other", 1, &late, 0, &err))
		fail_msg("after: %s", err.msg);
	ok(store_gc(*state, 0, NULL, &err));
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&one);
	image_free(&two);
	image_free(&late);
}

/* What a live session has written is nobody's to free; what an aborted one wrote is gone. */
static void test_session_is_safe(void **state)
{
	struct snapshot_info info = {.time = 1};
	struct image image = image_new(40000, 21);
	struct store_session *session;
	struct page_table *table;
	struct store_usage usage;
	Snap__Snapshot *model;
	char page[PAGE];
	uint64_t root, i;

	ok(session_begin(&session, *state, "job", 0, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, 0, &err));
	for (i = 0; i < image.n; i++) {
		fixture_page(page, image.seed[i]);
		ok(page_table_put(table, i, page, 1, NULL, &err));
		if (i % 10000 == 9999)
			ok(store_gc(*state, 0, NULL, &err));
	}
	ok(store_usage(*state, &usage, &err));
	assert_true(usage.packs >= 32);
	ok(page_table_finish(table, &root, &err));
	model = fixture_model(root);
	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	ok(store_gc(*state, 0, NULL, &err));
	if (!image_equals(*state, "job", 1, &image, 0, &err))
		fail_msg("%s", err.msg);

	ok(store_usage(*state, &usage, &err));
	i = usage.packs;
	ok(session_begin(&session, *state, "job", 0, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, 0, &err));
	for (root = 0; root < 40000; root++) {
		fixture_page(page, root + 5000000);
		ok(page_table_put(table, root, page, 1, NULL, &err));
	}
	ok(store_usage(*state, &usage, &err));
	assert_true(usage.packs > i);
	page_table_free(table);
	session_abort(session);
	ok(store_usage(*state, &usage, &err));
	assert_int_equal(usage.packs, i);
	image_free(&image);
}

/* One store, several threads: two read and verify the newest snapshots over and over, one collects. */
struct shared {
	struct store *store;
	const struct image *image; /* of snapshot 1, which stays */
	atomic_bool stop;
	atomic_int rounds, failures;
};

static void *read_thread(void *arg)
{
	struct shared *shared = arg;
	struct err why;
	uint64_t problems;

	while (!atomic_load(&shared->stop)) {
		if (!image_equals(shared->store, "job", 1, shared->image, 64, &why) ||
		    store_verify(shared->store, NULL, 0, NULL, NULL, &problems, &why) < 0 ||
		    problems != 0)
			atomic_fetch_add(&shared->failures, 1);
		atomic_fetch_add(&shared->rounds, 1);
	}
	return NULL;
}

static void *gc_thread(void *arg)
{
	struct shared *shared = arg;
	struct err why;

	while (!atomic_load(&shared->stop))
		if (store_gc(shared->store, 0, NULL, &why) < 0)
			atomic_fetch_add(&shared->failures, 1);
	return NULL;
}

static void test_threads(void **state)
{
	struct image image = image_new(2000, 4), first = image_new(2000, 4),
		     old = image_new(2000, 4);
	struct shared shared = {.store = *state, .image = &first};
	uint64_t random = 3, i;
	pthread_t threads[3];

	image_save(*state, "job", 0, &image, NULL, 64);
	pthread_create(&threads[0], NULL, read_thread, &shared);
	pthread_create(&threads[1], NULL, read_thread, &shared);
	pthread_create(&threads[2], NULL, gc_thread, &shared);
	for (i = 1; i < 40 || atomic_load(&shared.rounds) < 4; i++) {
		memcpy(old.seed, image.seed, image.n * sizeof(*image.seed));
		image_change(&image, 500, &random);
		image_save(*state, "job", i, &image, &old, 64);
		if (i > 2)
			ok(store_snapshot_drop(*state, "job", i - 1, &err));
	}
	atomic_store(&shared.stop, true);
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&shared.failures), 0);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
	image_free(&first);
	image_free(&old);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_thorough, setup, teardown),
		cmocka_unit_test_setup_teardown(test_any_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drop_all_frees_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_compact_keeps_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_compact_refused_while_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_parent_is_pinned, setup, teardown),
		cmocka_unit_test_setup_teardown(test_session_is_safe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_merge_across_a_session, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
