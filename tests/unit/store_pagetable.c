#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_fixture.h"
#include "unit.h"

static struct err err;

static uint64_t publish(struct store_session *session, uint64_t root, uint64_t *ret_stored)
{
	struct snapshot_info info = {.time = 1};
	Snap__Snapshot *model = fixture_model(root);

	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	if (ret_stored)
		*ret_stored = info.bytes_stored;
	return info.seq;
}

static void test_save_and_read(void **state)
{
	struct image image = image_new(3000, 77);
	struct snapshot_info info;

	image.seed[5] = image.seed[1000] = 0;
	info = image_save(*state, "job", 0, &image, NULL, 0x7ffff7000);
	assert_int_equal(info.seq, 1);
	if (!image_equals(*state, "job", 1, &image, 0x7ffff7000, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(fixture_problems(*state), 0);
	image_free(&image);
}

/* The same image again, every page given: no page, no node, only the record. */
static void test_unchanged_costs_nothing(void **state)
{
	struct image image = image_new(20000, 3);
	struct snapshot_info first, second;
	Snap__Snapshot *a, *b;

	first = image_save(*state, "job", 0, &image, NULL, 512);
	second = image_save(*state, "job", 1, &image, NULL, 512);
	assert_true(first.bytes_stored > 20000 * 2048ull);
	assert_true(first.bytes_stored < 20000 * 2200ull);
	assert_true(second.bytes_stored < 1024);
	ok(store_snapshot_load(*state, "job", 1, NULL, &a, &err));
	ok(store_snapshot_load(*state, "job", 2, NULL, &b, &err));
	assert_int_equal(a->processes[0]->pages_root, b->processes[0]->pages_root);
	snap__snapshot__free_unpacked(a, NULL);
	snap__snapshot__free_unpacked(b, NULL);
	image_free(&image);
}

static void test_counts(void **state)
{
	struct session_counts counts;
	struct store_session *session;
	struct page_table *one, *two;
	uint64_t root_one, root_two, changed;
	char pages[4][PAGE];

	fixture_page(pages[0], 1);
	fixture_page(pages[1], 0);
	fixture_page(pages[2], 1);
	fixture_page(pages[3], 2);
	ok(session_begin(&session, *state, "job", 0, CODEC_ZSTD, &err));
	ok(page_table_edit(&one, session, 0, &err));
	ok(page_table_put(one, 100, pages, 4, &changed, &err));
	assert_int_equal(changed, 4);
	ok(page_table_put(one, 100, pages, 4, &changed, &err));
	assert_int_equal(changed, 0);
	ok(page_table_edit(&two, session, 0, &err));
	ok(page_table_put(two, 100, pages, 4, &changed, &err));
	ok(page_table_finish(one, &root_one, &err));
	ok(page_table_finish(two, &root_two, &err));
	assert_int_equal(root_one, root_two); /* the pages of a forked copy cost once */
	session_counts(session, &counts);
	assert_int_equal(counts.pages_in, 12);
	assert_int_equal(counts.pages_changed, 8);
	assert_int_equal(counts.pages_stored, 2);
	assert_int_equal(counts.pages_zero, 3);
	assert_int_equal(counts.pages_duplicate, 1 + 3);
	assert_int_equal(counts.bytes_raw, 2 * PAGE);
	publish(session, root_one, NULL);
	assert_int_equal(fixture_problems(*state), 0);
}

static void test_incompressible(void **state)
{
	struct store_session *session;
	struct page_reader *reader;
	struct page_table *table;
	uint64_t root, stored, random = 9;
	char page[PAGE], back[PAGE];
	size_t i;

	for (i = 0; i < PAGE; i++)
		page[i] = (char)fixture_random(&random);
	ok(session_begin(&session, *state, "job", 0, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, 0, &err));
	ok(page_table_put(table, UINT64_MAX, page, 1, NULL, &err));
	ok(page_table_finish(table, &root, &err));
	publish(session, root, &stored);
	assert_in_range(stored, PAGE, 3 * PAGE);
	ok(page_reader_open(&reader, *state, root, &err));
	ok(page_reader_read(reader, UINT64_MAX, 1, back, &err));
	assert_memory_equal(page, back, PAGE);
	page_reader_close(reader);
}

/* Model of a table: an array of seeds, 0 absent, 1 zero page. */
#define MODEL_PAGES 6000u

static void check_runs(struct page_reader *reader, const uint64_t *model, uint64_t base)
{
	struct page_run run;
	uint64_t at = 0, next = 0;
	int rc = 0;

	/* next is 0 again after the last index of all */
	while ((at == 0 || next != 0) &&
	       (rc = page_reader_next(reader, next, &run, &err)) == 1) {
		uint64_t i;

		assert_true(run.n > 0);
		for (; at < run.first - base; at++)
			assert_int_equal(model[at], 0);
		for (i = 0; i < run.n; i++, at++)
			assert_int_equal(model[at] == 1 ? PAGE_ZERO : PAGE_DATA, run.kind);
		next = run.first + run.n;
	}
	ok(rc);
	for (; at < MODEL_PAGES; at++)
		assert_int_equal(model[at], 0);
}

static void check_content(struct page_reader *reader, const uint64_t *model, uint64_t base)
{
	static char buf[MODEL_PAGES * PAGE];
	char expected[PAGE];
	uint64_t i;

	ok(page_reader_read(reader, base, MODEL_PAGES, buf, &err));
	for (i = 0; i < MODEL_PAGES; i++) {
		fixture_page(expected, model[i] == 1 ? 0 : model[i]);
		assert_memory_equal(buf + i * PAGE, expected, PAGE);
	}
}

static void check_next(struct page_table *table, const uint64_t *model, uint64_t base)
{
	uint64_t first, n, at = 0, i;
	int rc;

	while ((rc = page_table_next(table, base + at, base + MODEL_PAGES, &first, &n, &err)) == 1) {
		for (; at < first - base; at++)
			assert_int_equal(model[at], 0);
		for (i = 0; i < n; i++, at++)
			assert_int_not_equal(model[at], 0);
	}
	ok(rc);
	for (; at < MODEL_PAGES; at++)
		assert_int_equal(model[at], 0);
}

static void edit_at_random(struct page_table *table, uint64_t *model, uint64_t base,
			   uint64_t *random)
{
	unsigned step;

	for (step = 0; step < 60; step++) {
		uint64_t first = fixture_random(random) % MODEL_PAGES;
		uint64_t n = 1 + fixture_random(random) % (step % 4 ? 8 : 1500), i;

		if (n > MODEL_PAGES - first)
			n = MODEL_PAGES - first;
		if (fixture_random(random) % 3 == 0) {
			ok(page_table_clear(table, base + first, n, &err));
			memset(model + first, 0, n * sizeof(*model));
			continue;
		}
		for (i = first; i < first + n; i++) {
			char page[PAGE];

			model[i] = fixture_random(random) % 8;
			if (model[i] == 0)
				model[i] = 1;
			fixture_page(page, model[i] == 1 ? 0 : model[i]);
			ok(page_table_put(table, base + i, page, 1, NULL, &err));
			assert_int_equal(page_table_has(table, base + i, &err), 1);
		}
	}
}

/* Edits in any order, over several snapshots, at places where trees are shallow, deep and cut. */
static void test_random_edits(void **state)
{
	static const uint64_t bases[] = {0, 511, 512 * 512 - 3000, 0x7ffff0000, UINT64_MAX - 5999};
	uint64_t random = 4711;
	size_t b;

	for (b = 0; b < sizeof(bases) / sizeof(*bases); b++) {
		uint64_t *model = calloc(MODEL_PAGES, sizeof(*model));
		uint64_t root = 0, parent = 0;
		unsigned round;

		for (round = 0; round < 6; round++) {
			struct store_session *session;
			struct page_reader *reader;
			struct page_table *table;

			ok(session_begin(&session, *state, "job", parent, CODEC_LZ4, &err));
			ok(page_table_edit(&table, session, root, &err));
			edit_at_random(table, model, bases[b], &random);
			if (bases[b] + MODEL_PAGES > bases[b])
				check_next(table, model, bases[b]);
			ok(page_table_finish(table, &root, &err));
			parent = publish(session, root, NULL);
			ok(page_reader_open(&reader, *state, root, &err));
			check_runs(reader, model, bases[b]);
			check_content(reader, model, bases[b]);
			page_reader_close(reader);
		}
		free(model);
	}
	assert_int_equal(fixture_problems(*state), 0);
}

static void test_clear_all(void **state)
{
	struct image image = image_new(1500, 8);
	struct store_session *session;
	struct page_table *table;
	Snap__Snapshot *model;
	uint64_t root;

	image_save(*state, "job", 0, &image, NULL, 700);
	ok(store_snapshot_load(*state, "job", 1, NULL, &model, &err));
	ok(session_begin(&session, *state, "job", 1, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, model->processes[0]->pages_root, &err));
	ok(page_table_clear(table, 0, UINT64_MAX, &err));
	assert_int_equal(page_table_has(table, 700, &err), 0);
	ok(page_table_finish(table, &root, &err));
	assert_int_equal(root, 0);
	/* Untouched: the same root, not another one like it. */
	ok(page_table_edit(&table, session, model->processes[0]->pages_root, &err));
	assert_int_equal(page_table_has(table, 701, &err), 1);
	ok(page_table_finish(table, &root, &err));
	assert_int_equal(root, model->processes[0]->pages_root);
	session_abort(session);
	snap__snapshot__free_unpacked(model, NULL);
	image_free(&image);
}

/* A change far from the others costs nodes along its path only. */
static void test_unchanged_stretches(void **state)
{
	struct image image = image_new(50000, 5), old = image_new(50000, 5);
	struct snapshot_info info;

	image_save(*state, "job", 0, &image, NULL, 0);
	image.seed[25000] = 99;
	info = image_save(*state, "job", 1, &image, &old, 0);
	assert_true(info.bytes_stored < 3 * PAGE);
	if (!image_equals(*state, "job", 2, &image, 0, &err))
		fail_msg("%s", err.msg);
	image_free(&image);
	image_free(&old);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_save_and_read, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_unchanged_costs_nothing, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_counts, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_incompressible, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_random_edits, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_clear_all, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_unchanged_stretches, fixture_set_up, fixture_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
