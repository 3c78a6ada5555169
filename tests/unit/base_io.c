#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "unit.h"

struct dir {
	char path[64];
};

static int make_dir(void **state)
{
	struct dir *dir = malloc(sizeof(*dir));

	strcpy(dir->path, "/tmp/pawl-unit-io-XXXXXX");
	*state = dir;
	return mkdtemp(dir->path) ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct dir *dir = *state;
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir->path);
	if (system(command) != 0)
		return -1;
	free(dir);
	return 0;
}

static void path_in(void **state, const char *name, char *buf, size_t len)
{
	snprintf(buf, len, "%s/%s", ((struct dir *)*state)->path, name);
}

static void test_read_full_reports_a_short_file(void **state)
{
	char buf[8];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write_full(fds[1], "12345", 5), 0);
	assert_int_equal(read_full(fds[0], buf, 3), 0);
	assert_memory_equal(buf, "123", 3);
	close(fds[1]);
	errno = 0;
	assert_int_equal(read_full(fds[0], buf, 3), -1);
	assert_int_equal(errno, EIO);
	close(fds[0]);
}

static void test_write_full_reports_the_reason(void **state)
{
	cleanup_fd int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	errno = 0;
	assert_int_equal(write_full(fd, "x", 1), -1);
	assert_int_equal(errno, ENOSPC);
}

static void test_pread_upto_stops_at_the_end(void **state)
{
	cleanup_fd int fd = -1;
	char path[128], buf[16];

	path_in(state, "short", path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(pwrite_full(fd, "abc", 3, 2), 0);
	assert_int_equal(pread_upto(fd, buf, sizeof(buf), 1), 4);
	assert_memory_equal(buf, "\0abc", 4);
	assert_int_equal(pread_upto(fd, buf, sizeof(buf), 100), 0);
	assert_int_equal(pread_upto(-1, buf, sizeof(buf), 0), -1);
}

static void test_read_text_of_any_size(void **state)
{
	static const size_t sizes[] = {0, 1, 4094, 4095, 4096, 4097, 70000};
	char path[128];

	path_in(state, "text", path, sizeof(path));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		cleanup_free char *content = malloc(sizes[i] + 1), *text = NULL;
		struct err err = {0};
		size_t len = 0;

		memset(content, 'a' + (int)i, sizes[i]);
		content[sizes[i]] = '\0';
		assert_int_equal(write_file_atomic(path, content, sizes[i], 0600, &err), 0);
		assert_int_equal(read_text(AT_FDCWD, path, &text, &len, &err), 0);
		assert_int_equal(len, sizes[i]);
		assert_string_equal(text, content);
	}
}

static void test_read_text_names_a_missing_file(void **state)
{
	struct err err = {0};
	char *text = NULL;

	assert_fails(read_text(AT_FDCWD, "/nowhere/at/all", &text, NULL, &err), ERR_NOT_FOUND,
		     &err);
	assert_non_null(strstr(err.msg, "/nowhere/at/all"));
	assert_null(text);
}

static void test_atomic_write_sets_mode_and_leaves_no_temporary(void **state)
{
	char path[128], command[192];
	struct err err = {0};
	struct stat st;

	path_in(state, "atomic", path, sizeof(path));
	assert_int_equal(write_file_atomic(path, "one", 3, 0640, &err), 0);
	assert_int_equal(write_file_atomic(path, "two!", 4, 0600, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, 4);
	snprintf(command, sizeof(command), "! ls %s | grep -q tmp", ((struct dir *)*state)->path);
	assert_int_equal(system(command), 0);
}

static void test_atomic_write_fails_clean(void **state)
{
	char path[128];
	struct err err = {0};

	path_in(state, "missing/file", path, sizeof(path));
	assert_fails(write_file_atomic(path, "x", 1, 0600, &err), ERR_NOT_FOUND, &err);
}

static void test_make_dirs(void **state)
{
	char path[128], file[160];
	struct err err = {0};
	struct stat st;

	path_in(state, "a/b/c", path, sizeof(path));
	assert_int_equal(make_dirs(path, 0700, &err), 0);
	assert_int_equal(make_dirs(path, 0700, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	snprintf(file, sizeof(file), "%s/f", path);
	assert_int_equal(write_file_atomic(file, "", 0, 0600, &err), 0);
	snprintf(file, sizeof(file), "%s/f/g", path);
	assert_fails(make_dirs(file, 0700, &err), ERR_SYSTEM, &err);
}

#define with_dir(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_full_reports_a_short_file),
		cmocka_unit_test(test_write_full_reports_the_reason),
		with_dir(test_pread_upto_stops_at_the_end),
		with_dir(test_read_text_of_any_size),
		cmocka_unit_test(test_read_text_names_a_missing_file),
		with_dir(test_atomic_write_sets_mode_and_leaves_no_temporary),
		with_dir(test_atomic_write_fails_clean),
		with_dir(test_make_dirs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
