#include <errno.h>
#include <string.h>

#include "unit.h"

static void test_set_returns_failure_and_fills(void **state)
{
	struct err err = {0};

	assert_int_equal(err_set(&err, ERR_BUSY, "job %s runs already", "sim"), -1);
	assert_int_equal(err.kind, ERR_BUSY);
	assert_int_equal(err.sys_errno, 0);
	assert_string_equal(err.msg, "job sim runs already");
}

static void test_errno_decides_the_kind(void **state)
{
	static const struct {
		int code;
		enum err_kind kind;
	} cases[] = {
		{ESRCH, ERR_GONE},   {ENOSPC, ERR_FULL},   {EDQUOT, ERR_FULL},
		{EPERM, ERR_DENIED}, {EACCES, ERR_DENIED}, {ENOENT, ERR_NOT_FOUND},
		{EIO, ERR_SYSTEM},   {ENOMEM, ERR_SYSTEM},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct err err = {0};

		errno = cases[i].code;
		assert_int_equal(err_sys(&err, "file %d", 7), -1);
		assert_int_equal(err.kind, cases[i].kind);
		assert_int_equal(err.sys_errno, cases[i].code);
		assert_ptr_equal(strstr(err.msg, "file 7: "), err.msg);
		assert_non_null(strstr(err.msg, strerror(cases[i].code)));
	}
}

static void test_code_ignores_errno(void **state)
{
	struct err err = {0};

	errno = EIO;
	err_code(&err, ENOSPC, "disk");
	assert_int_equal(err.kind, ERR_FULL);
	assert_int_equal(err.sys_errno, ENOSPC);
}

static void test_wrap_prepends_and_keeps_kind(void **state)
{
	struct err err = {0};

	errno = ENOENT;
	err_sys(&err, "open");
	assert_int_equal(err_wrap(&err, "job %d", 3), -1);
	assert_int_equal(err.kind, ERR_NOT_FOUND);
	assert_int_equal(err.sys_errno, ENOENT);
	assert_ptr_equal(strstr(err.msg, "job 3: open: "), err.msg);
}

static void test_long_messages_are_cut_not_overrun(void **state)
{
	char longer[2 * sizeof(((struct err *)0)->msg)];
	struct err err = {0};

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	err_set(&err, ERR_SYSTEM, "%s", longer);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	err_wrap(&err, "%s", longer);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	err_set(&err, ERR_SYSTEM, "tail");
	err_wrap(&err, "%s", longer);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_returns_failure_and_fills),
		cmocka_unit_test(test_errno_decides_the_kind),
		cmocka_unit_test(test_code_ignores_errno),
		cmocka_unit_test(test_wrap_prepends_and_keeps_kind),
		cmocka_unit_test(test_long_messages_are_cut_not_overrun),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
