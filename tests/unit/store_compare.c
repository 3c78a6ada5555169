/*
 * Two page tables compared: exactly the pages that differ, in ascending runs, whatever the shapes.
 */
#include <stdlib.h>
#include <string.h>

#include "store_fixture.h"
#include "unit.h"

#define N 3000u

static struct err err;

struct tables {
	struct store *store;
	uint64_t a[N], b[N]; /* seeds; 0: zero page, UINT64_MAX: absent */
	uint64_t root_a, root_b;
	uint64_t base;
};

static void put_all(struct page_table *table, const uint64_t *seeds, uint64_t base)
{
	char page[PAGE];

	for (uint64_t i = 0; i < N; i++) {
		fixture_page(page, seeds[i] == UINT64_MAX ? 0 : seeds[i]);
		if (seeds[i] == UINT64_MAX)
			ok(page_table_clear(table, base + i, 1, &err));
		else
			ok(page_table_put(table, base + i, page, 1, NULL, &err));
	}
}

/* b is edited from a, as a snapshot from the one before, or made on its own. */
static void save(struct tables *t, bool related)
{
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	struct page_table *table;
	Snap__Snapshot *model;

	ok(session_begin(&session, t->store, "job", 0, CODEC_LZ4, &err));
	ok(page_table_edit(&table, session, 0, &err));
	put_all(table, t->a, t->base);
	ok(page_table_finish(table, &t->root_a, &err));
	ok(page_table_edit(&table, session, related ? t->root_a : 0, &err));
	put_all(table, t->b, t->base);
	ok(page_table_finish(table, &t->root_b, &err));
	model = fixture_model(t->root_a);
	ok(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
}

static enum page_kind kind_of_seed(uint64_t seed)
{
	return seed == UINT64_MAX ? PAGE_ABSENT : seed == 0 ? PAGE_ZERO : PAGE_DATA;
}

static void check(const struct tables *t, uint64_t from, uint64_t limit)
{
	struct page_reader *a, *b;
	struct page_difference run;
	uint64_t next = from < t->base ? t->base : from; /* below there is nothing in either */
	int found;

	ok(page_reader_open(&a, t->store, t->root_a, &err));
	ok(page_reader_open(&b, t->store, t->root_b, &err));
	for (uint64_t at = from; (found = page_readers_compare(a, b, at, limit, &run, &err)) == 1;
	     at = run.first + run.n) {
		assert_true(run.n > 0 && run.first >= at && run.first + run.n <= limit);
		assert_true(run.first >= t->base && run.first + run.n <= t->base + N);
		for (; next < run.first; next++)
			assert_int_equal(t->a[next - t->base], t->b[next - t->base]);
		for (; next < run.first + run.n; next++) {
			assert_int_not_equal(t->a[next - t->base], t->b[next - t->base]);
			assert_int_equal(run.a, kind_of_seed(t->a[next - t->base]));
			assert_int_equal(run.b, kind_of_seed(t->b[next - t->base]));
		}
	}
	assert_int_equal(found, 0);
	for (; next < limit && next < t->base + N; next++)
		assert_int_equal(t->a[next - t->base], t->b[next - t->base]);
	page_reader_close(a);
	page_reader_close(b);
}

static void run_case(void **state, bool related, unsigned one_in, uint64_t base)
{
	struct tables *t = calloc(1, sizeof(*t));
	uint64_t random = 5;

	t->store = *state;
	t->base = base;
	for (uint64_t i = 0; i < N; i++) {
		t->a[i] = i % 700 < 30 ? UINT64_MAX : i % 900 < 40 ? 0 : i + 1;
		t->b[i] = t->a[i];
		if (one_in && fixture_random(&random) % one_in == 0)
			t->b[i] =
				(uint64_t[]){0, UINT64_MAX, 90000 + i}[fixture_random(&random) % 3];
	}
	save(t, related);
	if (!one_in)
		assert_int_equal(t->root_a, t->root_b);
	check(t, 0, UINT64_MAX);
	check(t, base + 100, base + 1500);
	free(t);
}

static void test_few_changes(void **state)
{
	run_case(state, true, 400, 0x7ffff7000);
}

static void test_many_changes(void **state)
{
	run_case(state, true, 3, 0x400);
}

static void test_built_apart(void **state)
{
	run_case(state, false, 50, 0x5555500);
}

static void test_equal(void **state)
{
	run_case(state, false, 0, 0x5555500);
}

/* Everything is new against a table that is empty or does not reach so far. */
static void test_other_shapes(void **state)
{
	struct tables *t = calloc(1, sizeof(*t));

	t->store = *state;
	t->base = 0x7ffff7000;
	for (uint64_t i = 0; i < N; i++) {
		t->a[i] = i % 5 ? i + 1 : UINT64_MAX;
		t->b[i] = UINT64_MAX;
	}
	save(t, true);
	assert_int_equal(t->root_b, 0);
	check(t, 0, UINT64_MAX);
	for (uint64_t i = 0; i < N; i++)
		t->b[i] = i == 7 ? 1234 : UINT64_MAX;
	save(t, false);
	check(t, t->base, t->base + N);
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_few_changes, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_many_changes, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_built_apart, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_equal, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_other_shapes, fixture_set_up, fixture_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
