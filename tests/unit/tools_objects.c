#include <string.h>

#include "tools/objects.h"
#include "unit.h"

static void expect(const char *text, int pid, int fd, const char *rest)
{
	const char *got_rest;
	int got_pid, got_fd;

	objects_parse_refusal(text, &got_pid, &got_fd, &got_rest);
	assert_int_equal(got_pid, pid);
	assert_int_equal(got_fd, fd);
	assert_string_equal(got_rest, rest);
}

static void test_refusals_are_taken_apart(void **state)
{
	expect("process 12 (a): fd 3: a FIFO", 12, 3, "a FIFO");
	expect("process 12 (a b) c): an io_uring at 0x1000", 12, -1, "an io_uring at 0x1000");
	expect("process 12, thread 13: odd", 12, -1, "odd");
	expect("/x is larger than the limit", 0, -1, "/x is larger than the limit");
	expect("process x: y", 0, -1, "process x: y");
	expect("process 5", 0, -1, "process 5");
}

static void test_all_refusals_once(void **state)
{
	struct refusals r = {0};
	struct err err;

	assert_int_equal(refusals_result(&r, &err), 0);
	for (int i = 0; i < 2; i++) {
		err_set(&err, ERR_UNSUPPORTED, "one");
		assert_int_equal(refusals_go_on(&r, -1, &err), 0);
		err_set(&err, ERR_UNSUPPORTED, "two");
		assert_int_equal(refusals_go_on(&r, -1, &err), 0);
		assert_int_equal(refusals_go_on(&r, 0, &err), 0);
	}
	assert_int_equal(r.n, 2);
	assert_int_equal(refusals_result(&r, &err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_string_equal(err.msg, "one (and 1 more)");
	err_set(&err, ERR_GONE, "gone");
	assert_int_equal(refusals_go_on(&r, -1, &err), -1);
	assert_int_equal(err.kind, ERR_GONE);
	refusals_clear(&r);
}

/* What a hostile file refers to beyond its end is not followed. */
static void test_list_of_a_broken_model(void **state)
{
	Snap__Fd fds[2] = {SNAP__FD__INIT, SNAP__FD__INIT}, *fd_list[2] = {&fds[0], &fds[1]};
	Snap__OpenFile open = SNAP__OPEN_FILE__INIT, *open_list[1] = {&open};
	Snap__Process p = SNAP__PROCESS__INIT, *p_list[1] = {&p};
	Snap__Snapshot model = SNAP__SNAPSHOT__INIT;
	struct object_list list;
	struct err err;

	fds[0].open_file = 7;
	open.file = 9;
	p.pid = 5;
	p.fds = fd_list;
	p.n_fds = 2;
	model.processes = p_list;
	model.n_processes = 1;
	model.open_files = open_list;
	model.n_open_files = 1;
	assert_int_equal(objects_list(&list, &model, NULL, &err), 0);
	assert_int_equal(list.n, 1);
	assert_int_equal(list.list[0].pid, 5);
	assert_int_equal(objects_refused(&list), 0);
	objects_clear(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals_are_taken_apart),
		cmocka_unit_test(test_all_refusals_once),
		cmocka_unit_test(test_list_of_a_broken_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
