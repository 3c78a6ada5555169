/* Directory trees: from disk, into the store, through a garbage collection, and back. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/treewalk.h"
#include "store_fixture.h"
#include "unit.h"

static struct err err;

struct fixture {
	char store_dir[64], dir[64];
	struct store *store;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->store_dir, sizeof(f->store_dir), "%s", fixture_dir());
	snprintf(f->dir, sizeof(f->dir), "%s", fixture_dir());
	f->store = fixture_open(f->store_dir, "job");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	store_close(f->store);
	fixture_remove(f->store_dir);
	fixture_remove(f->dir);
	free(f);
	return 0;
}

static void make_files(const char *dir)
{
	char path[256];

	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof(path), "%s/d%d", dir, i);
		assert_int_equal(mkdir(path, 0700), 0);
		for (int j = 0; j < 10; j++) {
			snprintf(path, sizeof(path), "%s/d%d/file-%d", dir, i, j);
			assert_true(close(open(path, O_CREAT | O_WRONLY, 0640)) == 0);
		}
	}
	snprintf(path, sizeof(path), "%s/d7/link", dir);
	assert_int_equal(symlink("nowhere at all", path), 0);
	snprintf(path, sizeof(path), "%s/d7/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
}

static void read_disk(struct tree *tree, struct tree_walk *walk, const char *dir)
{
	*tree = (struct tree){0};
	*walk = (struct tree_walk){.tree = tree, .root = -1, .still = true};
	ok(tree_walk_begin(walk, dir, &err));
	ok(tree_walk_all(walk, &err));
	ok(tree_link_up(tree, &err));
	for (uint32_t i = 0; i < tree->n; i++)
		ok(tree_walk_details(walk, i, &err));
}

/* As a snapshot against `parent`, with `model` to start from. */
static struct snapshot_info save(struct fixture *f, struct tree *tree, uint64_t parent,
				 Snap__Tree *model)
{
	Snap__Snapshot *m = fixture_model(0);
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	struct page_table *contents;
	Snap__Tree *t;

	for (uint32_t i = 0; i < tree->n; i++)
		tree->objects[i].slot = i;
	ok(session_begin(&session, f->store, "job", parent, CODEC_LZ4, &err));
	ok(page_table_edit(&contents, session, model->contents_root, &err));
	ok(tree_store(tree, tree->n, session, contents, model->objects_root, &model->objects_root,
		      &err));
	ok(page_table_finish(contents, &model->contents_root, &err));
	model->objects = tree->n;
	model->next_page = tree->next_page;
	t = snap_append(&m->trees, &m->n_trees, Snap__Tree, SNAP__TREE__INIT);
	*t = *model;
	t->path = strdup(f->dir);
	ok(session_publish(session, m, &info, &err));
	snap__snapshot__free_unpacked(m, NULL);
	return info;
}

static void assert_same(const struct tree *a, const struct tree *b)
{
	char path[512];

	assert_int_equal(a->n, b->n);
	for (uint32_t i = 0; i < a->n; i++) {
		const struct tree_object *x = &a->objects[i], *y;
		uint32_t other;

		if (tree_path(a, i, path, sizeof(path)) < 0)
			fail_msg("object %u has no path (kind %d, %u names)", i, x->kind, x->names);
		other = i ? tree_lookup(b, path) : 0;
		assert_true(other != TREE_NOWHERE);
		y = &b->objects[other];
		assert_int_equal(x->kind, y->kind);
		assert_int_equal(x->mode, y->mode);
		assert_true(x->inode == y->inode && x->mtime == y->mtime && x->ctime == y->ctime);
		assert_int_equal(x->n_entries, y->n_entries);
		if (x->kind == TREE_SYMLINK)
			assert_string_equal(x->target, y->target);
	}
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	Snap__Tree model = SNAP__TREE__INIT;
	struct snapshot_info first, second;
	struct gc_stats stats;
	struct tree tree, back;
	struct tree_walk walk;

	make_files(f->dir);
	read_disk(&tree, &walk, f->dir);
	first = save(f, &tree, 0, &model);
	second = save(f, &tree, first.seq, &model);
	assert_true(second.bytes_stored < first.bytes_stored / 10); /* nothing has changed */
	ok(store_snapshot_drop(f->store, "job", first.seq, &err));
	ok(store_gc(f->store, 0, &stats, &err));
	assert_int_equal(fixture_problems(f->store), 0);
	model.path = f->dir;
	ok(tree_load(&back, f->store, &model, &err));
	assert_same(&tree, &back);
	tree_clear(&back);
	/* Free places do not matter; names of objects that are not there do. */
	model.objects += 5;
	ok(tree_load(&back, f->store, &model, &err));
	tree_clear(&back);
	model.objects -= 10;
	assert_fails(tree_load(&back, f->store, &model, &err), ERR_CORRUPT, &err);
	ok(store_snapshot_drop(f->store, "job", second.seq, &err));
	ok(store_gc(f->store, 0, &stats, &err));
	assert_true(stats.packs_freed > 0 && stats.nodes_freed > 0);
	tree_walk_end(&walk);
	tree_clear(&tree);
}

static void test_names_again(void **state)
{
	struct fixture *f = *state;
	char path[256], other[256];
	struct tree tree;
	struct tree_walk walk;
	uint32_t dir, file;

	make_files(f->dir);
	read_disk(&tree, &walk, f->dir);
	dir = tree_lookup(&tree, "d3");
	file = tree_lookup(&tree, "d3/file-5");
	snprintf(path, sizeof(path), "%s/d3/file-5", f->dir);
	snprintf(other, sizeof(other), "%s/d3/moved", f->dir);
	assert_int_equal(rename(path, other), 0);
	snprintf(path, sizeof(path), "%s/d3/new", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	ok(tree_walk_again(&walk, dir, &err));
	ok(tree_link_up(&tree, &err));
	assert_int_equal(tree_lookup(&tree, "d3/file-5"), TREE_NOWHERE);
	assert_int_equal(tree_lookup(&tree, "d3/moved"), file); /* the same object */
	assert_true(tree_lookup(&tree, "d3/new") != TREE_NOWHERE);
	tree_walk_end(&walk);
	tree_clear(&tree);
}

static void test_stretches(void **state)
{
	struct tree tree = {0};
	struct tree_stretch a = {0}, b = {0}, old;

	assert_false(tree_place(&tree, &a, 0));
	assert_true(tree_place(&tree, &a, 1));
	assert_true(tree_place(&tree, &b, 5 * PAGE));
	assert_true(b.room >= 5 && b.first >= a.first + a.room);
	old = b;
	assert_false(tree_place(&tree, &b, 3 * PAGE));
	assert_true(b.first == old.first && b.room == old.room);
	/* A large file that grows gets room to grow, and does not move each time. */
	assert_true(tree_place(&tree, &b, 1000 * PAGE));
	assert_false(tree_place(&tree, &b, 4000 * PAGE));
	assert_true(tree.next_page >= b.first + b.room);
}

static void test_two_places(void **state)
{
	struct tree tree = {0};

	for (int i = 0; i < 3; i++) {
		uint32_t id = tree_add(&tree);

		tree.objects[id].kind = TREE_DIRECTORY;
	}
	assert_int_equal(tree_append(&tree, 0, strdup("a"), 1), 0);
	assert_int_equal(tree_append(&tree, 1, strdup("b"), 2), 0);
	ok(tree_check(&tree, &err));
	assert_int_equal(tree_append(&tree, 2, strdup("c"), 1), 0); /* a circle */
	assert_fails(tree_check(&tree, &err), ERR_CORRUPT, &err);
	tree_clear(&tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_names_again, setup, teardown),
		cmocka_unit_test(test_stretches),
		cmocka_unit_test(test_two_places),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
