/*
 * Differences between two snapshots: every page and object that changed, and none that did not.
 */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "store_fixture.h"
#include "tools/diff.h"

#define BASE 0x400000ull

static Snap__Region *add_region(Snap__Process *p, uint64_t first, uint64_t pages)
{
	Snap__Region *r = snap_append(&p->regions, &p->n_regions, Snap__Region, SNAP__REGION__INIT);

	r->start = BASE + first * PAGE;
	r->end = r->start + pages * PAGE;
	r->file = -1;
	r->prot = PROT_READ | PROT_WRITE;
	return r;
}

static Snap__Snapshot *load(struct store *store, uint64_t seq)
{
	Snap__Snapshot *model;
	struct err err;

	ok(store_snapshot_load(store, "job", seq, NULL, &model, &err));
	return model;
}

static void add_thread(Snap__Process *p, int32_t tid, const char *registers)
{
	Snap__Thread *t = snap_append(&p->threads, &p->n_threads, Snap__Thread, SNAP__THREAD__INIT);

	t->tid = tid;
	assert_int_equal(snap_set_bytes(&t->registers, registers, strlen(registers)), 0);
}

/* Two snapshots of one image: pages 5, 900 and 1500 differ. */
struct fixture {
	struct store *store;
	Snap__Snapshot *a, *b;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct image old = image_new(2000, 3), new = image_new(2000, 3);
	struct snapshot_info info;
	void *store;

	fixture_set_up(&store);
	f->store = store;
	new.seed[5] += 100000;
	new.seed[900] += 100000;
	new.seed[1500] += 100000;
	info = image_save(f->store, "job", 0, &old, NULL, BASE / PAGE);
	f->a = load(f->store, info.seq);
	info = image_save(f->store, "job", info.seq, &new, &old, BASE / PAGE);
	f->b = load(f->store, info.seq);
	image_free(&old);
	image_free(&new);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	void *store = f->store;

	snap__snapshot__free_unpacked(f->a, NULL);
	snap__snapshot__free_unpacked(f->b, NULL);
	fixture_tear_down(&store);
	free(f);
	return 0;
}

static void test_pages_by_mapping(void **state)
{
	struct fixture *f = *state;
	Snap__Process *a = f->a->processes[0], *b = f->b->processes[0];
	struct diff diff;
	struct err err;

	for (int i = 0; i < 2; i++) {
		add_region(i ? b : a, 0, 100);
		add_region(i ? b : a, 100, 100);
		add_region(i ? b : a, 800, i ? 1200 : 1000);
	}
	ok(diff_make(&diff, f->store, f->a, f->b, &err));
	assert_int_equal(diff.n_processes, 1);
	assert_int_equal(diff.processes[0].regions_compared, 3);
	assert_int_equal(diff.processes[0].n_regions, 2);
	assert_int_equal(diff.processes[0].regions[0].pages.changed, 1);
	assert_false(diff.processes[0].regions[0].moved);
	assert_int_equal(diff.processes[0].regions[1].pages.changed, 2);
	assert_true(diff.processes[0].regions[1].moved);
	assert_int_equal(diff.processes[0].pages.changed, 3);
	diff_clear(&diff);
}

static void test_the_same(void **state)
{
	struct fixture *f = *state;
	struct diff diff;
	struct err err;

	add_region(f->a->processes[0], 0, 2000);
	ok(diff_make(&diff, f->store, f->a, f->a, &err));
	assert_int_equal(diff.processes_compared, 1);
	assert_int_equal(diff.n_processes, 0);
	assert_int_equal(diff.n_files, 0);
	diff_clear(&diff);
}

static void test_came_and_went(void **state)
{
	struct fixture *f = *state;
	Snap__Process *a = f->a->processes[0], *b = f->b->processes[0];
	struct diff_process *p;
	struct diff diff;
	struct err err;

	add_region(a, 0, 4);
	add_region(b, 10, 4)->prot = PROT_READ;
	add_thread(a, 2, "same");
	add_thread(a, 3, "one");
	add_thread(a, 4, "gone");
	add_thread(b, 2, "same");
	add_thread(b, 3, "two");
	add_thread(b, 5, "new");
	ok(diff_make(&diff, f->store, f->a, f->b, &err));
	p = &diff.processes[0];
	assert_int_equal(p->n_regions, 2);
	assert_int_equal(p->regions[0].kind, DIFF_GONE);
	assert_int_equal(p->regions[1].kind, DIFF_NEW);
	assert_int_equal(p->n_threads, 3);
	assert_int_equal(p->threads[0].number, 3);
	assert_int_equal(p->threads[0].kind, DIFF_CHANGED);
	assert_int_equal(p->threads[1].number, 4);
	assert_int_equal(p->threads[1].kind, DIFF_GONE);
	assert_int_equal(p->threads[2].number, 5);
	assert_int_equal(p->threads[2].kind, DIFF_NEW);
	b->pid = 9;
	diff_clear(&diff);
	ok(diff_make(&diff, f->store, f->a, f->b, &err));
	assert_int_equal(diff.n_processes, 2);
	assert_int_equal(diff.processes[0].kind, DIFF_GONE);
	assert_int_equal(diff.processes[1].kind, DIFF_NEW);
	diff_clear(&diff);
}

static Snap__File *add_file(Snap__Snapshot *model, const char *path, uint64_t size, uint64_t root)
{
	Snap__File *f = snap_append(&model->files, &model->n_files, Snap__File, SNAP__FILE__INIT);

	assert_int_equal(snap_set_string(&f->path, path), 0);
	f->size = size;
	f->content = true;
	f->content_root = root;
	return f;
}

static void test_files(void **state)
{
	struct fixture *f = *state;
	uint64_t size = (BASE / PAGE + 2000) * PAGE;
	struct diff diff;
	struct err err;

	add_file(f->a, "/gone", 1, 0);
	add_file(f->a, "/same", size, f->a->processes[0]->pages_root);
	add_file(f->a, "/pages", size, f->a->processes[0]->pages_root);
	add_file(f->b, "/pages", size, f->b->processes[0]->pages_root);
	add_file(f->b, "/new", 1, 0);
	add_file(f->b, "/same", size, f->a->processes[0]->pages_root);
	ok(diff_make(&diff, f->store, f->a, f->b, &err));
	assert_int_equal(diff.n_files, 3);
	assert_string_equal(diff.files[0].path, "/gone");
	assert_int_equal(diff.files[0].kind, DIFF_GONE);
	assert_string_equal(diff.files[1].path, "/new");
	assert_int_equal(diff.files[1].kind, DIFF_NEW);
	assert_string_equal(diff.files[2].path, "/pages");
	assert_int_equal(diff.files[2].kind, DIFF_CHANGED);
	assert_int_equal(diff.files[2].pages.changed, 3);
	diff_clear(&diff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pages_by_mapping, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_the_same, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_came_and_went, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_files, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("differences", tests, NULL, NULL);
}
