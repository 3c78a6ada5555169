#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "unit.h"

static const char real_stat[] =
	"5449 (a) S 1 (x) R 5384 5449 5384 34816 5449 4194304 310 0 0 0 1 2 0 0 20 -5 3 0 220809 "
	"2990080 418 18446744073709551615 94132049 94148000 140735 0 0 0 0 4096 1024 0 0 0 17 1 50 "
	"2 "
	"0 0 0 94160288 94161920 94170000 140736 140750 140750 140780 9\n";

static void test_stat(void **state)
{
	struct proc_stat s;
	struct err err = {0};

	assert_int_equal(proc_parse_stat(real_stat, &s, &err), 0);
	assert_int_equal(s.pid, 5449);
	assert_string_equal(s.comm, "a) S 1 (x");
	assert_int_equal(s.state, 'R');
	assert_int_equal(s.ppid, 5384);
	assert_int_equal(s.pgid, 5449);
	assert_int_equal(s.sid, 5384);
	assert_int_equal(s.tty_nr, 34816);
	assert_int_equal(s.tpgid, 5449);
	assert_int_equal(s.nice, -5);
	assert_int_equal(s.num_threads, 3);
	assert_int_equal(s.start_time, 220809);
	assert_int_equal(s.start_code, 94132049);
	assert_int_equal(s.end_code, 94148000);
	assert_int_equal(s.start_stack, 140735);
	assert_int_equal(s.exit_signal, 17);
	assert_int_equal(s.rt_priority, 50);
	assert_int_equal(s.policy, 2);
	assert_int_equal(s.start_data, 94160288);
	assert_int_equal(s.end_data, 94161920);
	assert_int_equal(s.start_brk, 94170000);
	assert_int_equal(s.arg_start, 140736);
	assert_int_equal(s.arg_end, 140750);
	assert_int_equal(s.env_start, 140750);
	assert_int_equal(s.env_end, 140780);
	assert_int_equal(s.exit_code, 9);
}

static void test_stat_of_ourselves(void **state)
{
	char name[16], stranger[] = "x) S\n\\n\\";
	struct proc_stat s;
	struct proc_status st;
	struct err err = {0};

	prctl(PR_GET_NAME, name);
	assert_int_equal(prctl(PR_SET_NAME, stranger), 0);
	assert_int_equal(proc_read_stat(getpid(), getpid(), &s, &err), 0);
	assert_int_equal(proc_read_status(getpid(), getpid(), &st, &err), 0);
	prctl(PR_SET_NAME, name);
	assert_ptr_equal(strstr(s.comm, "x) S"), s.comm);
	assert_string_equal(st.name, stranger);
	assert_int_equal(s.pid, getpid());
	assert_int_equal(st.pid, getpid());
	assert_int_equal(s.ppid, getppid());
	assert_int_equal(s.state, 'R');
	assert_int_equal(s.pgid, getpgrp());
	assert_int_equal(s.sid, getsid(0));
	assert_int_equal(st.uid[1], geteuid());
	assert_int_equal(st.gid[0], getgid());
	assert_int_equal(st.threads, 1);
	proc_status_clear(&st);
}

static void test_bad_stat(void **state)
{
	static const char *const cases[] = {
		"",
		"x",
		"1",
		"1 (",
		"1 (a",
		"1 (a)",
		"1 (a) R",
		"1 (a) R 1 2 3",
		"-1 (a) R 1 2",
		"99999999999 (a) R 1",
		"1 (a)R 1 2 3 4",
	};
	char cut[sizeof(real_stat)];
	struct proc_stat s;
	struct err err = {0};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_fails(proc_parse_stat(cases[i], &s, &err), ERR_CORRUPT, &err);
	/* Cut anywhere before the last field it is incomplete. */
	for (size_t len = 0; len < sizeof(real_stat) - 3; len++) {
		snprintf(cut, sizeof(cut), "%.*s", (int)len, real_stat);
		assert_fails(proc_parse_stat(cut, &s, &err), ERR_CORRUPT, &err);
	}
}

static const char real_status[] = "Name:\tsim\\\\a\\nb\n"
				  "Umask:\t0027\n"
				  "State:\tt (tracing stop)\n"
				  "Tgid:\t4907\n"
				  "Ngid:\t0\n"
				  "Pid:\t4908\n"
				  "PPid:\t4861\n"
				  "TracerPid:\t77\n"
				  "Uid:\t1000\t1001\t1002\t1003\n"
				  "Gid:\t100\t101\t102\t4294967295\n"
				  "FDSize:\t256\n"
				  "Groups:\t4 20 100 1000 \n"
				  "NStgid:\t4907\t12\t3\n"
				  "NSpid:\t4908\t13\t4\n"
				  "NSpgid:\t4861\t12\t3\n"
				  "NSsid:\t2866\t0\t0\n"
				  "VmPeak:\t    2920 kB\n"
				  "THP_enabled:\t0\n"
				  "Threads:\t2\n"
				  "SigQ:\t0/96365\n"
				  "SigPnd:\t0000000000000001\n"
				  "ShdPnd:\t0000000000000002\n"
				  "SigBlk:\t8000000000000004\n"
				  "SigIgn:\t0000000000000006\n"
				  "SigCgt:\t0000000000000008\n"
				  "CapInh:\t0000000000000010\n"
				  "CapPrm:\t000001fffeffffff\n"
				  "CapEff:\t0000000000000020\n"
				  "CapBnd:\t0000000000000040\n"
				  "CapAmb:\t0000000000000080\n"
				  "NoNewPrivs:\t1\n"
				  "Seccomp:\t2\n"
				  "Seccomp_filters:\t1\n"
				  "Cpus_allowed:\t3\n";

static void test_status(void **state)
{
	struct proc_status s;
	struct err err = {0};

	assert_int_equal(proc_parse_status(real_status, &s, &err), 0);
	assert_string_equal(s.name, "sim\\a\nb");
	assert_int_equal(s.umask, 027);
	assert_int_equal(s.state, 't');
	assert_int_equal(s.tgid, 4907);
	assert_int_equal(s.pid, 4908);
	assert_int_equal(s.ppid, 4861);
	assert_int_equal(s.tracer, 77);
	assert_int_equal(s.uid[0], 1000);
	assert_int_equal(s.uid[3], 1003);
	assert_int_equal(s.gid[3], UINT32_MAX);
	assert_int_equal(s.n_groups, 4);
	assert_int_equal(s.groups[3], 1000);
	assert_int_equal(s.ns_pid, 4);
	assert_int_equal(s.ns_pgid, 3);
	assert_int_equal(s.ns_sid, 0);
	assert_false(s.thp_enabled);
	assert_int_equal(s.threads, 2);
	assert_int_equal(s.sig_pending, 1);
	assert_int_equal(s.shared_pending, 2);
	assert_int_equal(s.blocked, 0x8000000000000004);
	assert_int_equal(s.ignored, 6);
	assert_int_equal(s.caught, 8);
	assert_int_equal(s.cap_inh, 0x10);
	assert_int_equal(s.cap_prm, 0x1fffeffffff);
	assert_int_equal(s.cap_eff, 0x20);
	assert_int_equal(s.cap_bnd, 0x40);
	assert_int_equal(s.cap_amb, 0x80);
	assert_true(s.no_new_privs);
	assert_int_equal(s.seccomp, 2);
	proc_status_clear(&s);
	assert_null(s.groups);
}

static void test_old_kernel_without_thp_line(void **state)
{
	struct proc_status s;
	struct err err = {0};

	assert_int_equal(proc_parse_status("State:\tR\nTgid:\t1\nPid:\t1\nGroups:\t\n", &s, &err),
			 0);
	assert_true(s.thp_enabled);
	assert_int_equal(s.n_groups, 0);
	proc_status_clear(&s);
}

static void test_bad_status(void **state)
{
	static const char *const cases[] = {
		"",
		"Name:\tx\n",
		"State:\tR\nTgid:\t1\n",
		"State:\t\nTgid:\t1\nPid:\t1\n",
		"State:\tR\nTgid:\tx\nPid:\t1\n",
		"State:\tR\nTgid:\t1\nPid:\t-1\n",
		"State:\tR\nTgid:\t1\nPid:\t1\nUid:\t1 2 3\n",
		"State:\tR\nTgid:\t1\nPid:\t1\nUid:\t1 2 3 4294967296\n",
		"State:\tR\nTgid:\t1\nPid:\t1\nGroups:\t1 2 three\n",
		"State:\tR\nTgid:\t1\nPid:\t1\nNSpid:\t\n",
		"State:\tR\nTgid:\t1\nPid:\t1\nSigBlk:\t11112222333344445\n",
		"State:\tR\nTgid:\t1\nPid:\t1\nUmask:\t0999\nSeccomp:\tx\n",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct proc_status s;
		struct err err = {0};

		assert_fails(proc_parse_status(cases[i], &s, &err), ERR_CORRUPT, &err);
	}
}

static const char real_limits[] =
	"Limit                     Soft Limit           Hard Limit           Units     \n"
	"Max cpu time              unlimited            unlimited            seconds   \n"
	"Max file size             1048576              unlimited            bytes     \n"
	"Max data size             unlimited            unlimited            bytes     \n"
	"Max stack size            8388608              unlimited            bytes     \n"
	"Max core file size        0                    unlimited            bytes     \n"
	"Max resident set          unlimited            unlimited            bytes     \n"
	"Max processes             96365                96366                processes \n"
	"Max open files            20000                20001                files     \n"
	"Max locked memory         8388608              8388608              bytes     \n"
	"Max address space         unlimited            unlimited            bytes     \n"
	"Max file locks            unlimited            unlimited            locks     \n"
	"Max pending signals       96365                96365                signals   \n"
	"Max msgqueue size         819200               819200               bytes     \n"
	"Max nice priority         0                    0                    \n"
	"Max realtime priority     3                    4                    \n"
	"Max realtime timeout      unlimited            unlimited            us        \n";

static void test_limits(void **state)
{
	struct proc_limit l[PROC_N_LIMITS];
	struct err err = {0};

	assert_int_equal(proc_parse_limits(real_limits, l, &err), 0);
	assert_int_equal(l[RLIMIT_CPU].soft, UINT64_MAX);
	assert_int_equal(l[RLIMIT_FSIZE].soft, 1048576);
	assert_int_equal(l[RLIMIT_FSIZE].hard, UINT64_MAX);
	assert_int_equal(l[RLIMIT_CORE].soft, 0);
	assert_int_equal(l[RLIMIT_NPROC].hard, 96366);
	assert_int_equal(l[RLIMIT_NOFILE].hard, 20001);
	assert_int_equal(l[RLIMIT_RTPRIO].soft, 3);
	assert_int_equal(l[RLIMIT_RTPRIO].hard, 4);
}

static void test_incomplete_limits_are_refused(void **state)
{
	struct proc_limit l[PROC_N_LIMITS];
	struct err err = {0};

	assert_fails(proc_parse_limits("", l, &err), ERR_CORRUPT, &err);
	assert_fails(proc_parse_limits(strchr(real_limits, '\n') + 1 + 80, l, &err), ERR_CORRUPT,
		     &err);
	assert_fails(proc_parse_limits("Max cpu time   lots  more\n", l, &err), ERR_CORRUPT, &err);
	assert_non_null(strstr(err.msg, "lots"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stat),
		cmocka_unit_test(test_stat_of_ourselves),
		cmocka_unit_test(test_bad_stat),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_old_kernel_without_thp_line),
		cmocka_unit_test(test_bad_status),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_incomplete_limits_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
