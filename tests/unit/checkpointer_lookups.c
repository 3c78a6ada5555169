/* What is looked for among very many: numbers in an index, descriptions by their descriptors. */
#include "unit.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpointer/numbers.h"
#include "checkpointer/shared.h"

#define MANY 3000

static void equal_numbers_come_in_order(void **state)
{
	struct numbers n = {0};
	struct err err;

	assert_int_equal(numbers_next(&n, 7, -1), -1);
	for (int32_t i = 0; i < MANY; i++)
		assert_int_equal(numbers_add(&n, (uint64_t)i % 1000 << 40, i, &err), 0);
	for (int32_t i = 0; i < 1000; i++) {
		uint64_t number = (uint64_t)i << 40;

		assert_int_equal(numbers_next(&n, number, -1), i);
		assert_int_equal(numbers_next(&n, number, i), i + 1000);
		assert_int_equal(numbers_next(&n, number, i + 1000), i + 2000);
		assert_int_equal(numbers_next(&n, number, i + 2000), -1);
		assert_int_equal(numbers_next(&n, number + 1, -1), -1);
	}
	numbers_clear(&n);
}

static struct shared_entry entry_of(int fd, int32_t open_file)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (struct shared_entry){st.st_dev, st.st_ino, getpid(), fd, open_file};
}

/* All eventfds have one inode, both ends of a pipe too. */
static void descriptions_are_told_apart(void **state)
{
	struct shared_list s = {0};
	int fds[64], copies[64];
	struct err err;

	for (int i = 0; i < 64; i += 2) {
		if (i % 4)
			assert_int_equal(pipe(&fds[i]), 0);
		else
			fds[i] = eventfd(0, 0), fds[i + 1] = eventfd(0, 0);
	}
	for (int i = 0; i < 64; i++) {
		struct shared_entry e = entry_of(fds[i], i);

		assert_int_equal(shared_find(&s, &e), -1);
		assert_int_equal(shared_add(&s, &e, &err), 0);
	}
	for (int i = 0; i < 64; i++) {
		struct shared_entry e;

		copies[i] = dup(fds[i]);
		e = entry_of(copies[i], -1);
		assert_int_equal(shared_find(&s, &e), i);
		assert_int_equal(s.list[i]->open_file, i);
		assert_true(shared_is_same(getpid(), fds[i], getpid(), copies[i]));
		assert_false(shared_is_same(getpid(), fds[i], getpid(), fds[63 - i]));
	}
	for (int i = 0; i < 64; i++) {
		close(fds[i]);
		close(copies[i]);
	}
	shared_clear(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_numbers_come_in_order),
		cmocka_unit_test(descriptions_are_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
