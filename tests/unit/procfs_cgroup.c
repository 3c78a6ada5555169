/*
 * procfs_cgroup.c: which control groups a process is in.
 */
#include "unit.h"

#include <string.h>

#include "checkpointer/tracee/procfs_cgroup.h"

static void groups_are_read(void **state)
{
	struct proc_cgroups list;
	struct err err;

	assert_int_equal(proc_parse_cgroups("9:name=systemd:/\n3:cpu,cpuacct:/a/b:c\n0::/user.slice/x\n", &list, &err), 0);
	assert_int_equal(list.n, 3);
	assert_string_equal(proc_cgroup_find(&list, "")->path, "/user.slice/x");
	assert_string_equal(proc_cgroup_find(&list, "cpu,cpuacct")->path, "/a/b:c");
	assert_string_equal(proc_cgroup_find(&list, "name=systemd")->path, "/");
	assert_null(proc_cgroup_find(&list, "memory"));
	proc_cgroups_clear(&list);
}

static void garbage_is_named(void **state)
{
	static const char *const hostile[] = {"x\n", "0:\n", "0::\n", "0::relative\n", "3:cpu\n"};
	struct proc_cgroups list;
	struct err err;

	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++)
		assert_fails(proc_parse_cgroups(hostile[i], &list, &err), ERR_CORRUPT, &err);
}

static void only_what_is_below_counts(void **state)
{
	assert_string_equal(proc_cgroup_below("/a", "/a/b/c"), "/b/c");
	assert_string_equal(proc_cgroup_below("/", "/b"), "/b");
	assert_null(proc_cgroup_below("/a", "/a"));
	assert_null(proc_cgroup_below("/", "/"));
	assert_null(proc_cgroup_below("/a", "/ab/c"));
	assert_null(proc_cgroup_below("/a/b", "/a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(groups_are_read),
		cmocka_unit_test(garbage_is_named),
		cmocka_unit_test(only_what_is_below_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
