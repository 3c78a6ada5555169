/*
 * procfs_net.c: the multicast groups that /proc lists.
 */
#include "unit.h"

#include <string.h>

#include "checkpointer/tracee/procfs_net.h"

static void test_igmp(void **state)
{
	static const char text[] = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
				   "1\tlo        :     2      V3\n"
				   "\t\t\t\t030201EF     1 0:00000000\t\t0\n"
				   "\t\t\t\t010000E0     1 0:00000000\t\t0\n"
				   "4\teth0      :     1      V3\n"
				   "\t\t\t\t010000E0     1 0:00000000\t\t0\n";
	static const uint8_t group[] = {239, 1, 2, 3};
	struct multicast_groups list = {0};
	struct err err;

	assert_int_equal(proc_parse_igmp(text, &list, &err), 0);
	assert_int_equal(list.n, 3);
	assert_int_equal(list.list[0].len, 4);
	assert_memory_equal(list.list[0].address, group, 4);
	assert_int_equal(list.list[0].index, 1);
	assert_string_equal(list.list[0].name, "lo");
	assert_int_equal(list.list[2].index, 4);
	assert_string_equal(list.list[2].name, "eth0");
	multicast_groups_clear(&list);
}

static void test_igmp6(void **state)
{
	static const char text[] = "1    lo              ff020000000000000000000000001234     1 00000004 0\n"
				   "12   a-long-name0    ff0100000000000000000000000000aB     1 00000008 0\n";
	struct multicast_groups list = {0};
	struct err err;

	assert_int_equal(proc_parse_igmp6(text, &list, &err), 0);
	assert_int_equal(list.n, 2);
	assert_int_equal(list.list[0].len, 16);
	assert_int_equal(list.list[0].address[0], 0xff);
	assert_int_equal(list.list[0].address[14], 0x12);
	assert_int_equal(list.list[0].address[15], 0x34);
	assert_int_equal(list.list[1].index, 12);
	assert_string_equal(list.list[1].name, "a-long-name0");
	assert_int_equal(list.list[1].address[15], 0xab);
	multicast_groups_clear(&list);
}

static void test_nonsense(void **state)
{
	static const char *const igmp[] = {
		"head\n\t\t\t\t030201EF     1\n", /* of no interface */
		"head\n1\tlo\n\t\t\t\tzz\n",
		"head\nlo\n",
		"head\n1\tlo\n\t\t\t\t1030201EF 1\n",
	};
	static const char *const igmp6[] = {"1 lo ff02\n", "lo\n", "1 lo ff02000000000000000000000000123x 1\n", "1\n"};
	struct multicast_groups list = {0};
	struct err err;

	for (size_t i = 0; i < sizeof(igmp) / sizeof(igmp[0]); i++) {
		assert_int_equal(proc_parse_igmp(igmp[i], &list, &err), -1);
		assert_int_equal(err.kind, ERR_CORRUPT);
	}
	for (size_t i = 0; i < sizeof(igmp6) / sizeof(igmp6[0]); i++) {
		assert_int_equal(proc_parse_igmp6(igmp6[i], &list, &err), -1);
		assert_int_equal(err.kind, ERR_CORRUPT);
	}
	multicast_groups_clear(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_igmp),
		cmocka_unit_test(test_igmp6),
		cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
