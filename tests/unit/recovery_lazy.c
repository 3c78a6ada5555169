/* Where pages of a snapshot belong in a process that goes on while they are still to come. */
#include <sys/mman.h>

#include "recovery/lazy_impl.h"
#include "unit.h"

#define P 4096u

static struct lazy_span span(uint64_t start, uint64_t end, uint64_t source)
{
	return (struct lazy_span){start * P, end * P, source * P};
}

static void add(struct lazy_spans *spans, uint64_t start, uint64_t end)
{
	const struct lazy_span s = span(start, end, start);

	assert_int_equal(lazy_spans_add(spans, &s), 0);
}

/* Page number of what belongs at page `at`; 0: nothing. */
static uint64_t at(const struct lazy_spans *spans, uint64_t page)
{
	struct lazy_span found;

	if (!lazy_spans_find(spans, page * P, &found))
		return 0;
	return (found.source + (page * P - found.start)) / P;
}

/* Where page `source` belongs; 0: nowhere. */
static uint64_t place(const struct lazy_spans *spans, uint64_t source)
{
	struct lazy_span found;

	if (!lazy_spans_place(spans, source * P, &found))
		return 0;
	return (found.start + (source * P - found.source)) / P;
}

static void test_as_it_was(void **state)
{
	struct lazy_spans spans = {0};

	add(&spans, 100, 200);
	add(&spans, 300, 400);
	assert_int_equal(at(&spans, 99), 0);
	assert_int_equal(at(&spans, 100), 100);
	assert_int_equal(at(&spans, 199), 199);
	assert_int_equal(at(&spans, 200), 0);
	assert_int_equal(place(&spans, 350), 350);
	assert_int_equal(place(&spans, 250), 0);
	lazy_spans_clear(&spans);
}

static void test_dropped(void **state)
{
	struct lazy_spans spans = {0};

	add(&spans, 100, 200);
	assert_int_equal(lazy_spans_cut(&spans, 120 * P, 130 * P), 0);
	assert_int_equal(at(&spans, 119), 119);
	assert_int_equal(at(&spans, 120), 0);
	assert_int_equal(place(&spans, 129), 0);
	assert_int_equal(at(&spans, 130), 130);
	assert_int_equal(spans.n, 2);
	assert_int_equal(lazy_spans_cut(&spans, 110 * P, 140 * P), 0);
	assert_int_equal(at(&spans, 109), 109);
	assert_int_equal(at(&spans, 139), 0);
	assert_int_equal(at(&spans, 140), 140);
	assert_int_equal(lazy_spans_cut(&spans, 0, UINT64_MAX), 0);
	assert_int_equal(spans.n, 0);
	lazy_spans_clear(&spans);
}

static void test_moved(void **state)
{
	struct lazy_spans spans = {0};

	add(&spans, 100, 200);
	add(&spans, 500, 600);
	/* Over a part of the other one, which is gone then. */
	assert_int_equal(lazy_spans_move(&spans, 150 * P, 550 * P, 20 * P), 0);
	assert_int_equal(at(&spans, 149), 149);
	assert_int_equal(at(&spans, 150), 0);
	assert_int_equal(at(&spans, 170), 170);
	assert_int_equal(at(&spans, 549), 549);
	assert_int_equal(at(&spans, 550), 150);
	assert_int_equal(at(&spans, 569), 169);
	assert_int_equal(at(&spans, 570), 570);
	assert_int_equal(place(&spans, 160), 560);
	assert_int_equal(place(&spans, 560), 0);
	assert_int_equal(spans.moved, 1);
	/* And back. */
	assert_int_equal(lazy_spans_move(&spans, 550 * P, 150 * P, 20 * P), 0);
	assert_int_equal(spans.moved, 0);
	assert_int_equal(place(&spans, 160), 160);
	assert_int_equal(at(&spans, 550), 0);
	lazy_spans_clear(&spans);
}

/* Memory that is given back is the process's own, wherever it has moved since; a child's is another. */
static void test_child(void **state)
{
	struct lazy_spans parent = {0}, child;

	add(&parent, 100, 200);
	assert_int_equal(lazy_spans_move(&parent, 100 * P, 900 * P, 50 * P), 0);
	assert_int_equal(lazy_spans_copy(&child, &parent), 0);
	assert_int_equal(lazy_spans_cut(&parent, 900 * P, 950 * P), 0);
	assert_int_equal(place(&parent, 120), 0);
	assert_int_equal(place(&child, 120), 920);
	assert_int_equal(place(&child, 160), 160);
	lazy_spans_clear(&parent);
	lazy_spans_clear(&child);
}

/* ---- which regions ------------------------------------------------------------------------- */

static bool fits(Snap__Region__Kind kind, uint64_t pages, uint32_t prot, uint32_t map_flags, uint32_t advice)
{
	uint64_t guards[] = {1000 * P, 1001 * P};
	Snap__Process p = SNAP__PROCESS__INIT;
	Snap__Region r = SNAP__REGION__INIT;

	p.guards = guards;
	p.n_guards = 2;
	r.kind = kind;
	r.start = 2000 * P;
	r.end = r.start + pages * P;
	r.prot = prot;
	r.map_flags = map_flags;
	r.advice = advice;
	return lazy_region_fits(&p, &r);
}

static void test_regions(void **state)
{
	const Snap__Region__Kind own = SNAP__REGION__KIND__ANONYMOUS;
	const uint32_t rw = PROT_READ | PROT_WRITE;

	assert_true(fits(own, 1000, rw, 0, 0));
	assert_true(fits(own, 1000, PROT_READ, 0, ADVICE_HUGEPAGE | ADVICE_DONTDUMP));
	assert_false(fits(own, 10, rw, 0, 0));
	assert_false(fits(own, 1000, PROT_NONE, 0, 0));
	assert_false(fits(own, 1000, rw, MAP_GROWSDOWN, 0));
	/* Locking touches all of it; a child finds zeroes whatever its parent has. */
	assert_false(fits(own, 1000, rw, 0, ADVICE_LOCKED));
	assert_false(fits(own, 1000, rw, 0, ADVICE_WIPEONFORK));
	assert_false(fits(SNAP__REGION__KIND__FILE_PRIVATE, 1000, rw, 0, 0));
	assert_false(fits(SNAP__REGION__KIND__SHARED_MEMORY, 1000, rw, 0, 0));
	assert_false(fits(SNAP__REGION__KIND__HUGETLB, 1024, rw, 0, 0));
}

static void test_guarded(void **state)
{
	uint64_t guards[] = {1000 * P, 1001 * P};
	Snap__Process p = SNAP__PROCESS__INIT;
	Snap__Region r = SNAP__REGION__INIT;

	p.guards = guards;
	p.n_guards = 2;
	r.kind = SNAP__REGION__KIND__ANONYMOUS;
	r.prot = PROT_READ | PROT_WRITE;
	r.start = 900 * P;
	r.end = 1000 * P;
	assert_true(lazy_region_fits(&p, &r));
	r.end = 1001 * P;
	assert_false(lazy_region_fits(&p, &r));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_as_it_was),
		cmocka_unit_test(test_dropped),
		cmocka_unit_test(test_moved),
		cmocka_unit_test(test_child),
		cmocka_unit_test(test_regions),
		cmocka_unit_test(test_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
