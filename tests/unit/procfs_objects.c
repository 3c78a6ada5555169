/*
 * What fdinfo says of epoll instances, timers and watches: captured on Linux 6.18, and made hostile.
 */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"

static void epoll_entries_are_read(void **state)
{
	const char *text = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n"
			   "tfd:        4 events: 80000019 data:                4  pos:0 ino:8b2bf sdev:f\n"
			   "tfd:       12 events:       19 data: ffffffffffffffff  pos:70 ino:1 sdev:10\n";
	struct proc_epoll_entry *list;
	struct err err;
	size_t n;

	assert_int_equal(proc_parse_epoll(text, &list, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(list[0].fd, 4);
	assert_int_equal(list[0].events, 0x80000019);
	assert_int_equal(list[0].data, 4);
	assert_int_equal(list[0].inode, 0x8b2bf);
	assert_int_equal(list[1].fd, 12);
	assert_true(list[1].data == UINT64_MAX);
	free(list);
}

static void kernels_before_4_12_print_less(void **state)
{
	struct proc_epoll_entry *list;
	struct err err;
	size_t n;

	assert_int_equal(proc_parse_epoll("tfd: 5 events: 1 data: a\n", &list, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_int_equal(list[0].data, 10);
	assert_int_equal(list[0].inode, 0);
	free(list);
	assert_int_equal(proc_parse_epoll("", &list, &n, &err), 0);
	assert_int_equal(n, 0);
	free(list);
}

static void garbage_of_epoll_is_named(void **state)
{
	static const char *const hostile[] = {
		"tfd:\n", "tfd: x events: 1 data: 1\n", "tfd: 99999999999 events: 1 data: 1\n",
		"tfd: 1 events: fffffffff data: 1\n", "tfd: 1 events: 1\n",
		"tfd: 1 events: 1 data: 1 pos:0 ino:\n",
	};
	struct proc_epoll_entry *list;
	struct err err;
	size_t n;

	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++)
		assert_fails(proc_parse_epoll(hostile[i], &list, &n, &err), ERR_CORRUPT, &err);
}

static void timers_are_read(void **state)
{
	struct proc_timerfd timer;
	struct err err;

	assert_int_equal(proc_parse_timerfd("pos:\t0\nclockid: 1\nticks: 3\nsettime flags: 01\n"
					    "it_value: (99, 999900670)\nit_interval: (1, 5)\n",
					    &timer, &err),
			 0);
	assert_int_equal(timer.clock, 1);
	assert_int_equal(timer.ticks, 3);
	assert_int_equal(timer.settime_flags, 1);
	assert_int_equal(timer.value, 99999900670ull);
	assert_int_equal(timer.interval, 1000000005);
}

static void garbage_of_timers_is_named(void **state)
{
	static const char *const hostile[] = {
		"", "clockid: 1\n", "clockid: 1\nit_value: (1, 2)\n",
		"clockid: 1\nit_value: (1 2)\nit_interval: (0, 0)\n",
		"clockid: 1\nit_value: (99999999999999999999, 2)\nit_interval: (0, 0)\n",
		"clockid: 1\nit_value: (1, 1000000000)\nit_interval: (0, 0)\n",
		"clockid: -1\nit_value: (1, 1)\nit_interval: (0, 0)\n",
	};
	struct proc_timerfd timer;
	struct err err;

	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++)
		assert_fails(proc_parse_timerfd(hostile[i], &timer, &err), ERR_CORRUPT, &err);
}

static void clock_offsets_are_read(void **state)
{
	static const char text[] = "monotonic         -3 999999999\nboottime           7         1\n";

	assert_int_equal(proc_parse_clock_offset(text, "monotonic"), -2000000001ll);
	assert_int_equal(proc_parse_clock_offset(text, "boottime"), 7000000001ll);
	assert_int_equal(proc_parse_clock_offset(text, "tai"), 0);
	assert_int_equal(proc_parse_clock_offset("monotonic x 1\n", "monotonic"), 0);
	assert_int_equal(proc_clock_lead(getpid()), 0);
}

static void watches_are_read(void **state)
{
	const char *text = "pos:\t0\nflags:\t00\n"
			   "inotify wd:1f ino:3ec9f sdev:fe00001 mask:4000fce ignored_mask:0 fhandle-bytes:8 "
			   "fhandle-type:1 f_handle:9fec0300A1b20c0d\n"
			   "inotify wd:2 ino:2 sdev:5 mask:100 ignored_mask:0\n";
	struct proc_watch *list;
	struct err err;
	size_t n;

	assert_int_equal(proc_parse_inotify(text, &list, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(list[0].wd, 31);
	assert_int_equal(list[0].inode, 0x3ec9f);
	assert_int_equal(list[0].major, 254);
	assert_int_equal(list[0].minor, 1);
	assert_int_equal(list[0].mask, 0x4000fce);
	assert_int_equal(list[0].handle_type, 1);
	assert_int_equal(list[0].handle_bytes, 8);
	assert_memory_equal(list[0].handle, "\x9f\xec\x03\x00\xa1\xb2\x0c\x0d", 8);
	assert_int_equal(list[1].handle_bytes, 0);
	free(list);
}

static void garbage_of_inotify_is_named(void **state)
{
	static const char *const bad[] = {
		"inotify wd:x\n",
		"inotify wd:1 ino:2 sdev:5\n",
		"inotify wd:80000000 ino:2 sdev:5 mask:1\n",
		"inotify wd:1 ino:2 sdev:5 mask:1 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:00\n",
		"inotify wd:1 ino:2 sdev:5 mask:1 ignored_mask:0 fhandle-bytes:81 fhandle-type:1 f_handle:\n",
	};
	struct proc_watch *list;
	struct err err = {0};
	size_t n;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_fails(proc_parse_inotify(bad[i], &list, &n, &err), ERR_CORRUPT, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(epoll_entries_are_read),
		cmocka_unit_test(kernels_before_4_12_print_less),
		cmocka_unit_test(garbage_of_epoll_is_named),
		cmocka_unit_test(timers_are_read),
		cmocka_unit_test(garbage_of_timers_is_named),
		cmocka_unit_test(watches_are_read),
		cmocka_unit_test(garbage_of_inotify_is_named),
		cmocka_unit_test(clock_offsets_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
