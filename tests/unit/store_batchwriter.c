/*
 * Batches of a node each, given faster than they can be written: all are there, in order, or none after a failure.
 */
#include <stdlib.h>
#include <string.h>

#include "store/batchwriter.h"
#include "store/bytes.h"
#include "store/record.h"
#include "store_fixture.h"
#include "unit.h"

#define FIRST	5000u
#define BATCHES 40u

static struct err err;

struct lab {
	struct store *store;
	struct batch_writer *writer;
	struct batch batch;
	uint64_t taken_back; /* batches; ids follow each other */
};

static void take_back(void *ctx, struct batch *batch)
{
	struct lab *lab = ctx;

	assert_int_equal(batch->n_nodes, 1);
	assert_int_equal(batch->nodes[0].id, FIRST + lab->taken_back++);
	batch_free_nodes(batch);
}

static int start(void **state)
{
	static struct lab lab;
	void *store;

	if (fixture_set_up(&store) < 0)
		return -1;
	lab = (struct lab){.store = store};
	ok(batch_writer_new(&lab.writer, lab.store, take_back, &lab, &err));
	*state = &lab;
	return 0;
}

static int end(void **state)
{
	struct lab *lab = *state;
	void *store = lab->store;

	batch_writer_free(lab->writer);
	batch_clear(&lab->batch);
	return fixture_tear_down(&store);
}

static int give(struct lab *lab, uint64_t id)
{
	struct pending_node node = {id, malloc(8), 8};

	assert_non_null(node.record);
	put_le64(node.record, ~id);
	ok(batch_add_node(&lab->batch, node, &err));
	return batch_writer_give(lab->writer, &lab->batch, &err);
}

static bool is_stored(struct lab *lab, uint64_t id)
{
	struct id_key key = id_key(id);
	MDB_val value;
	MDB_txn *txn;
	int rc;

	ok(txn_read(lab->store, &txn, &err));
	rc = mdb_get(txn, lab->store->nodes, KEY_VAL(key), &value);
	assert_true(rc == 0 || rc == MDB_NOTFOUND);
	if (rc == 0)
		assert_int_equal(get_le64(value.mv_data), ~id);
	txn_end(lab->store, txn);
	return rc == 0;
}

static void test_writes_in_order(void **state)
{
	struct lab *lab = *state;

	for (uint64_t id = FIRST; id < FIRST + BATCHES; id++) {
		ok(give(lab, id));
		assert_int_equal(lab->batch.n_nodes, 0); /* it starts anew */
	}
	ok(batch_writer_wait(lab->writer, &err));
	assert_int_equal(lab->taken_back, BATCHES);
	for (uint64_t id = FIRST; id < FIRST + BATCHES; id++)
		assert_true(is_stored(lab, id));
	/* And once more after a rest. */
	ok(give(lab, FIRST + BATCHES));
	ok(batch_writer_wait(lab->writer, &err));
	assert_true(is_stored(lab, FIRST + BATCHES));
}

static void test_finds_what_is_on_its_way(void **state)
{
	struct lab *lab = *state;
	const struct pending_node *found;

	ok(give(lab, FIRST));
	ok(give(lab, FIRST + 1));
	found = batch_writer_find_node(lab->writer, FIRST + 1); /* written or not, it was not taken back */
	assert_non_null(found);
	assert_int_equal(get_le64(found->record), ~(uint64_t)(FIRST + 1));
	assert_null(batch_writer_find_node(lab->writer, FIRST + 2));
	ok(batch_writer_wait(lab->writer, &err));
	assert_null(batch_writer_find_node(lab->writer, FIRST + 1));
}

/* An id that is there already cannot be written again. */
static void test_nothing_after_a_failure(void **state)
{
	struct lab *lab = *state;

	ok(give(lab, FIRST));
	ok(give(lab, FIRST + 1));
	ok(batch_writer_wait(lab->writer, &err));
	give(lab, FIRST);
	for (uint64_t id = FIRST + 2; give(lab, id) == 0;)
		assert_true(++id < FIRST + 2 + BATCHES); /* told before all places are taken twice */
	assert_non_null(strstr(err.msg, "writing"));
	assert_int_equal(batch_writer_wait(lab->writer, &err), -1); /* … and again */
	assert_int_equal(lab->taken_back, 2);
	assert_false(is_stored(lab, FIRST + 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_writes_in_order, start, end),
		cmocka_unit_test_setup_teardown(test_finds_what_is_on_its_way, start, end),
		cmocka_unit_test_setup_teardown(test_nothing_after_a_failure, start, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
