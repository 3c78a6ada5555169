/*
 * Who inherits which memory: images with what heirs share, and what of a region is there at birth.
 */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "recovery/inherit.h"

#define AT(page) (0x10000000ull + (page)*4096ull)

static Snap__Process *add_process(Snap__Snapshot *m)
{
	Snap__Process *p =
		snap_append(&m->processes, &m->n_processes, Snap__Process, SNAP__PROCESS__INIT);

	p->pid = (int32_t)m->n_processes + 1;
	return p;
}

static Snap__Region *add_region(Snap__Process *p, uint64_t first, uint64_t end)
{
	Snap__Region *r = snap_append(&p->regions, &p->n_regions, Snap__Region, SNAP__REGION__INIT);

	r->start = AT(first);
	r->end = AT(end);
	r->file = -1;
	r->prot = PROT_READ | PROT_WRITE;
	return r;
}

static Snap__Snapshot *new_model(void)
{
	Snap__Snapshot *m = malloc(sizeof(*m));

	snap__snapshot__init(m);
	return m;
}

static bool owns(const Snap__Process *p)
{
	return !p->zombie;
}

/* Everybody's maker is the first process, unless told otherwise. */
static struct inheritance make(const Snap__Snapshot *m, const size_t *by, size_t n)
{
	static const size_t first[8] = {INHERIT_NOBODY};
	struct inheritance in;
	struct err err;

	assert_int_equal(inheritance_make(&in, m, by ? by : first, n ? n : m->n_processes, owns,
					  false, &err),
			 0);
	return in;
}

static void check_piece(const struct region_image *image, size_t i, uint64_t first, uint64_t end,
			bool foster, size_t source)
{
	assert_true(i < image->n);
	assert_int_equal(image->pieces[i].region.start, AT(first));
	assert_int_equal(image->pieces[i].region.end, AT(end));
	assert_int_equal(image->pieces[i].foster, foster);
	assert_int_equal(image->pieces[i].source, source);
}

static void done(struct inheritance *in, Snap__Snapshot *m)
{
	inheritance_clear(in);
	snap__snapshot__free_unpacked(m, NULL);
}

static void test_child_waits_for_its_maker(void **state)
{
	Snap__Snapshot *m = new_model();
	Snap__Process *parent = add_process(m), *heir = add_process(m), *stranger = add_process(m);
	struct inheritance in;

	add_region(parent, 0, 10);
	add_region(heir, 2, 8);
	add_region(stranger, 20, 30);
	in = make(m, NULL, 0);
	assert_int_equal(in.sources[0], INHERIT_NOBODY);
	assert_int_equal(in.sources[1], 0);
	assert_int_equal(in.sources[2], INHERIT_NOBODY);
	assert_int_equal(in.images[0].n, 1);
	assert_int_equal(inherit_end(&in.images[0], heir->regions[0]), AT(8));
	assert_int_equal(inherit_end(&in.images[0], stranger->regions[0]), AT(20));
	assert_int_equal(inherit_end(NULL, heir->regions[0]), AT(2));
	done(&in, m);
}

/* A helper between the two is born after the maker was filled, too. */
static void test_helper_in_between(void **state)
{
	static const size_t by[] = {INHERIT_NOBODY, 2, 0};
	Snap__Snapshot *m = new_model();
	struct inheritance in;

	add_region(add_process(m), 0, 10);
	add_region(add_process(m), 0, 10);
	in = make(m, by, 3);
	assert_int_equal(in.sources[1], 0);
	assert_int_equal(in.sources[2], 0);
	done(&in, m);
}

/* What the parent has given up and two children share is kept for them; what one has alone is not.
 */
static void test_fosters(void **state)
{
	Snap__Snapshot *m = new_model();
	Snap__Process *parent = add_process(m), *a = add_process(m), *b = add_process(m);
	struct inheritance in;

	add_region(parent, 0, 10);
	add_region(a, 0, 10);
	add_region(a, 20, 30);
	add_region(a, 40, 50);
	add_region(b, 0, 10);
	add_region(b, 25, 35);
	in = make(m, NULL, 0);
	assert_int_equal(in.images[0].n, 4);
	check_piece(&in.images[0], 0, 0, 10, false, 0);
	check_piece(&in.images[0], 1, 20, 25, true, INHERIT_NOBODY);
	check_piece(&in.images[0], 2, 25, 30, true, 2);
	check_piece(&in.images[0], 3, 30, 35, true, INHERIT_NOBODY);
	assert_int_equal(inherit_end(&in.images[0], b->regions[1]), AT(35));
	done(&in, m);
}

/* A child's region that reaches beyond its parent's on either side is inherited whole. */
static void test_grown(void **state)
{
	Snap__Snapshot *m = new_model();
	Snap__Process *parent = add_process(m), *child = add_process(m);
	struct inheritance in;

	add_region(parent, 10, 20);
	add_region(parent, 26, 28)->kind = SNAP__REGION__KIND__HUGETLB;
	add_region(child, 5, 30);
	in = make(m, NULL, 0);
	assert_int_equal(in.images[0].n, 4);
	check_piece(&in.images[0], 0, 5, 10, true, INHERIT_NOBODY);
	check_piece(&in.images[0], 1, 10, 20, false, 0);
	check_piece(&in.images[0], 2, 20, 26, true, INHERIT_NOBODY);
	assert_int_equal(inherit_end(&in.images[0], child->regions[0]), AT(26));
	done(&in, m);
}

static void test_grandchildren(void **state)
{
	static const size_t by[] = {INHERIT_NOBODY, 0, 1, 1};
	Snap__Snapshot *m = new_model();
	struct inheritance in;

	add_region(add_process(m), 0, 10);
	add_region(add_process(m), 0, 8);
	for (int i = 0; i < 2; i++) {
		Snap__Process *p = add_process(m);

		add_region(p, 0, 10);
		add_region(p, 100, 110);
	}
	in = make(m, by, 0);
	check_piece(&in.images[1], 1, 8, 10, true, 3);
	check_piece(&in.images[1], 2, 100, 110, true, 3);
	/* The oldest has one heir only: what that keeps for its own heirs is not its business. */
	assert_int_equal(in.images[0].n, 1);
	done(&in, m);
}

static void unlike_kind(Snap__Region *r)
{
	r->kind = SNAP__REGION__KIND__SHARED_MEMORY;
	r->file = 0;
}

static void unlike_flags(Snap__Region *r)
{
	r->map_flags = MAP_NORESERVE;
}

static void unlike_pages(Snap__Region *r)
{
	r->advice = ADVICE_HUGEPAGE;
}

static void not_copied(Snap__Region *r)
{
	r->advice = ADVICE_DROPPABLE;
}

static void test_unlike(void **state)
{
	static void (*const changes[])(Snap__Region *) = {unlike_kind, unlike_flags, unlike_pages,
							  not_copied};
	Snap__Region a = SNAP__REGION__INIT;

	a.file = -1;
	a.start = AT(0);
	a.end = AT(5);
	assert_true(image_alike(&a, &a));
	for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
		Snap__Region b = a;

		changes[i](&b);
		assert_false(image_alike(&a, &b));
		assert_false(image_alike(&b, &a));
	}
	/* Kept for children, told at the end. */
	a.advice = ADVICE_DONTFORK | ADVICE_LOCKED | ADVICE_WIPEONFORK;
	assert_true(image_alike(&a, &a));
}

static void test_files_go_on(void **state)
{
	Snap__Region a = SNAP__REGION__INIT, b;

	a.kind = SNAP__REGION__KIND__FILE_PRIVATE;
	a.start = AT(0);
	a.end = AT(5);
	a.offset = 4096;
	b = a;
	b.start = AT(5);
	b.end = AT(8);
	b.offset = 6 * 4096;
	assert_true(image_alike(&a, &b));
	b.offset += 4096;
	assert_false(image_alike(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_child_waits_for_its_maker),
		cmocka_unit_test(test_helper_in_between),
		cmocka_unit_test(test_fosters),
		cmocka_unit_test(test_grown),
		cmocka_unit_test(test_grandchildren),
		cmocka_unit_test(test_unlike),
		cmocka_unit_test(test_files_go_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
