#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "unit.h"

static struct proc_fdinfo read_own(int fd)
{
	struct proc_fdinfo info;
	struct err err = {0};

	assert_int_equal(proc_read_fdinfo(getpid(), fd, &info, &err), 0);
	return info;
}

static void test_regular_file(void **state)
{
	cleanup_fd int fd = open("/bin/sh", O_RDONLY | O_CLOEXEC | O_APPEND);
	struct proc_fdinfo info;

	assert_int_equal(lseek(fd, 77, SEEK_SET), 77);
	info = read_own(fd);
	assert_int_equal(info.pos, 77);
	assert_int_equal(info.flags & (O_ACCMODE | O_CLOEXEC | O_APPEND), O_CLOEXEC | O_APPEND);
	assert_true(info.mnt_id > 0);
	assert_false(info.has_eventfd || info.has_signalfd || info.has_lock);
}

static void test_special_files(void **state)
{
	cleanup_fd int event = eventfd(0x1234, EFD_CLOEXEC);
	cleanup_fd int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	cleanup_fd int epoll = epoll_create1(EPOLL_CLOEXEC);
	cleanup_fd int signal_fd = -1;
	struct epoll_event wanted = {.events = EPOLLIN};
	struct proc_fdinfo info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted), 0);
	info = read_own(event);
	assert_true(info.has_eventfd);
	assert_int_equal(info.eventfd_count, 0x1234);
	info = read_own(signal_fd);
	assert_true(info.has_signalfd);
	assert_int_equal(info.signalfd_mask, 1ull << (SIGUSR1 - 1));
	assert_true(read_own(timer).has_timerfd);
	assert_true(read_own(epoll).has_epoll);
}

static void test_locks_and_pidfds(void **state)
{
	struct proc_fdinfo info;
	struct err err = {0};

	assert_int_equal(
		proc_parse_fdinfo("pos:\t-1\nflags:\t02000002\nmnt_id:\t15\nino:\t9\n"
				  "lock:\t1: FLOCK  ADVISORY  WRITE 812 fe:00:1234 0 EOF\n"
				  "inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0\n"
				  "Pid:\t-1\nNSpid:\t4\nnew-field:\tx\n",
				  &info, &err),
		0);
	assert_int_equal(info.pos, UINT64_MAX);
	assert_int_equal(info.flags, 02000002);
	assert_int_equal(info.ino, 9);
	assert_true(info.has_lock && info.has_inotify && info.has_pidfd);
	assert_int_equal(info.pidfd_pid, -1);
	assert_int_equal(info.locks[0].kind, PROC_LOCK_FLOCK);
	assert_int_equal(info.locks[0].pid, 812);
}

static void test_bad_fdinfo(void **state)
{
	static const char *const cases[] = {
		"",
		"pos:\t0\n",
		"flags:\t0\n",
		"pos:\tx\nflags:\t0\n",
		"pos:\t99999999999999999999\nflags:\t0\n",
		"pos:\t0\nflags:\t9\n",
		"pos:\t0\nflags:\t77777777777777\n",
		"pos:\t0\nflags:\t0\neventfd-count: g\n",
		"pos:\t0\nflags:\t0\nPid:\t-2\n",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct proc_fdinfo info;
		struct err err = {0};

		assert_fails(proc_parse_fdinfo(cases[i], &info, &err), ERR_CORRUPT, &err);
	}
}

static const char real_timers[] = "ID: 1\n"
				  "signal: 60/00007fff86e452a8\n"
				  "notify: signal/pid.2634\n"
				  "ClockID: 0\n"
				  "ID: 0\n"
				  "signal: 0/0x1\n"
				  "notify: none/tid.2635\n"
				  "ClockID: -6\n"
				  "Later: 7\n";

static void test_timers(void **state)
{
	cleanup_free struct proc_timer *t = NULL;
	struct err err = {0};
	size_t n = 0;

	assert_int_equal(proc_parse_timers(real_timers, &t, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(t[0].id, 1);
	assert_int_equal(t[0].signal, 60);
	assert_int_equal(t[0].sigev_value, 0x7fff86e452a8);
	assert_int_equal(t[0].notify, SIGEV_SIGNAL);
	assert_int_equal(t[0].target, 2634);
	assert_int_equal(t[1].notify, SIGEV_NONE | SIGEV_THREAD_ID);
	assert_int_equal(t[1].sigev_value, 1);
	assert_int_equal(t[1].clock, -6);
}

static void test_own_timer(void **state)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL,
				 .sigev_signo = SIGUSR2,
				 .sigev_value.sival_ptr = (void *)0x1234abcd};
	cleanup_free struct proc_timer *t = NULL;
	struct err err = {0};
	timer_t timer;
	size_t n = 0;

	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	assert_int_equal(proc_read_timers(getpid(), &t, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_int_equal(t[0].signal, SIGUSR2);
	assert_int_equal(t[0].sigev_value, 0x1234abcd);
	assert_int_equal(t[0].notify, SIGEV_SIGNAL);
	assert_int_equal(t[0].target, getpid());
	assert_int_equal(t[0].clock, CLOCK_MONOTONIC);
	timer_delete(timer);
}

static void test_bad_timers(void **state)
{
	static const char *const cases[] = {
		"signal: 1/0\n",
		"ID: x\n",
		"ID: 1\nsignal: 65/0\n",
		"ID: 1\nsignal: 1\n",
		"ID: 1\nnotify: magic/pid.1\n",
		"ID: 1\nnotify: none/1\n",
		"ID: 1\nClockID: x\n",
		"ID: 99999999999\n",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct proc_timer *t = NULL;
		struct err err = {0};
		size_t n = 0;

		assert_fails(proc_parse_timers(cases[i], &t, &n, &err), ERR_CORRUPT, &err);
		assert_null(t);
	}
}

static void test_numbers_are_sorted(void **state)
{
	cleanup_free int *fds = NULL;
	cleanup_fd int high = fcntl(0, F_DUPFD_CLOEXEC, 1000);
	struct err err = {0};
	size_t n = 0;

	assert_int_equal(proc_list_numbers(getpid(), "fd", &fds, &n, &err), 0);
	assert_true(n >= 2);
	for (size_t i = 1; i < n; i++)
		assert_true(fds[i - 1] < fds[i]);
	assert_int_equal(fds[n - 1], high);
	free(steal_ptr(&fds));
	assert_fails(proc_list_numbers(0x7ffffff0, "task", &fds, &n, &err), ERR_GONE, &err);
}

static void test_exec_start(void **state)
{
	assert_int_equal(
		proc_parse_exec_start("sleep (12, #threads: 1)\n-----\n"
				      "se.exec_start                  :      2208096.000042\n"
				      "se.vruntime                    :            12.5\n"),
		2208096000042);
	assert_int_equal(proc_parse_exec_start("se.exec_start : 7\n"), 7000000);
	assert_int_equal(proc_parse_exec_start(""), 0);
	assert_int_equal(proc_parse_exec_start("se.exec_start\n"), 0);
	assert_int_equal(proc_parse_exec_start("se.exec_start : 18446744073709551615.0\n"), 0);
	assert_int_equal(proc_parse_exec_start("se.exec_start : 1.9999999\n"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_regular_file),	 cmocka_unit_test(test_special_files),
		cmocka_unit_test(test_locks_and_pidfds), cmocka_unit_test(test_bad_fdinfo),
		cmocka_unit_test(test_timers),		 cmocka_unit_test(test_own_timer),
		cmocka_unit_test(test_bad_timers),	 cmocka_unit_test(test_numbers_are_sorted),
		cmocka_unit_test(test_exec_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
