/* Which directories may belong to a job. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "watchdog/savedir.h"

static void test_refused(void **state)
{
	static const char *const no[] = {"/",	 "/usr",  "/usr/local/x", "/etc/x", "/proc/self",
					 "/tmp", "/home", "/home/me",	  "/var",   "/dev/shm/x"};
	static const char *const yes[] = {"/home/me/work", "/home/mean", "/home/other", "/tmp/x",
					  "/usrlocal",	   "/srv/data",	 "/var/lib/x"};

	for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
		if (!savedir_refusal(no[i], "/home/me"))
			fail_msg("%s is not refused", no[i]);
	for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++)
		if (savedir_refusal(yes[i], "/home/me"))
			fail_msg("%s: %s", yes[i], savedir_refusal(yes[i], "/home/me"));
	assert_null(savedir_refusal("/home/me", NULL));
	assert_null(savedir_refusal("/home/me/work", "/"));
}

static void test_resolved(void **state)
{
	char dir[] = "/tmp/pawl-savedir-XXXXXX", text[128], expected[128];
	struct err err;
	char *path;

	assert_non_null(mkdtemp(dir));
	snprintf(text, sizeof(text), "%s/./later//", dir);
	snprintf(expected, sizeof(expected), "%s/later", dir);
	assert_int_equal(savedir_resolve(text, &path, &err), 0);
	assert_string_equal(path, expected);
	free(path);
	assert_int_equal(savedir_check_store(expected, dir, &err), -1);
	assert_int_equal(savedir_check_store(dir, expected, &err), 0);
	assert_int_equal(chmod(dir, 01777), 0);
	assert_int_equal(savedir_resolve(dir, &path, &err), -1);
	assert_non_null(strstr(err.msg, "everybody"));
	assert_int_equal(savedir_resolve("/nowhere/at/all", &path, &err), -1);
	assert_int_equal(savedir_resolve("", &path, &err), -1);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_resolved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
