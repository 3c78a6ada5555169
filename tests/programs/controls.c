/*
 * controls.c: what prctl(2), arch_prctl(2), capset(2) and the scheduler keep of each thread.
 * Variants: "caps" (capabilities, secure bits and ids that differ between threads; as root), "mdwe" (memory that
 * may be written may never be executed), "dispatch" (syscall user dispatch switched on), "locked" (mlockall
 * with MCL_FUTURE).
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#define ARCH_GET_CPUID 0x1011
#define ARCH_SET_CPUID 0x1012
#define N_THREADS      4
#define TEXT_MAX       16384
#define IOPRIO(class, level) ((class) << 13 | (level))

/* ---- what a thread can see of itself ------------------------------------------------------- */

struct text {
	char buf[TEXT_MAX];
	size_t len;
};

static void put(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *t, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	t->len += (size_t)vsnprintf(t->buf + t->len, TEXT_MAX - t->len, fmt, args);
	va_end(args);
	CHECK(t->len < TEXT_MAX);
}

static void put_status(struct text *t)
{
	char line[4096];
	FILE *f = fopen("/proc/thread-self/status", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "Cap", 3) || !strncmp(line, "NoNewPrivs", 10) ||
		    !strncmp(line, "Uid", 3) || !strncmp(line, "Gid", 3) || !strncmp(line, "Groups", 6) ||
		    !strncmp(line, "Seccomp:", 8) || !strncmp(line, "Spec", 4) || !strncmp(line, "THP", 3) ||
		    !strncmp(line, "Cpus_allowed:", 13))
			put(t, "%s", line);
	fclose(f);
}

static void put_scheduling(struct text *t)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
		uint32_t util_min, util_max;
	} a = {.size = sizeof(a)};

	CHECK(syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) == 0);
	put(t, "policy %u flags %llx nice %d priority %u util %u %u\n", a.policy,
	    (unsigned long long)a.flags, a.nice, a.priority, a.util_min, a.util_max);
	put(t, "ioprio %lx\n", syscall(SYS_ioprio_get, 1, 0));
}

static void describe(struct text *t)
{
	int tsc = 0, signo = 0;

	put_status(t);
	put_scheduling(t);
	CHECK(prctl(PR_GET_TSC, &tsc) == 0 && prctl(PR_GET_PDEATHSIG, &signo) == 0);
	put(t, "tsc %d pdeathsig %d securebits %x\n", tsc, signo, prctl(PR_GET_SECUREBITS));
	put(t, "mce %d timerslack %d\n", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), prctl(PR_GET_TIMERSLACK));
	for (int i = 0; i < 3; i++)
		put(t, "speculation %d: %d\n", i, prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0));
	put(t, "cpuid %ld\n", syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0));
	put(t, "merge %d mdwe %d\n", prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0), prctl(PR_GET_MDWE, 0, 0, 0, 0));
}

/* ---- what it changes ----------------------------------------------------------------------- */

static void set_scheduling(int index)
{
	struct sched_param param = {0};
	int nice, policy = index % 2 ? SCHED_BATCH : SCHED_IDLE;

	if (index == 3) {
		struct sched_param realtime = {.sched_priority = 7};

		/* Where it is allowed. */
		if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &realtime) == 0)
			return;
	}
	CHECK(sched_setscheduler(0, policy | (index == 2 ? SCHED_RESET_ON_FORK : 0), &param) == 0);
	nice = getpriority(PRIO_PROCESS, (id_t)gettid()) + 3 + index; /* less is not allowed, where it is run by nice(1) */
	CHECK(setpriority(PRIO_PROCESS, (id_t)gettid(), nice > 19 ? 19 : nice) == 0);
}

static void set_common(int index)
{
	set_scheduling(index);
	CHECK(syscall(SYS_ioprio_set, 1, 0, IOPRIO(index % 2 ? 2 : 3, index)) == 0);
	CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, index % 2 ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0, 0) == 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, index % 2 ? PR_SPEC_DISABLE : PR_SPEC_ENABLE, 0, 0);
	if (index == 1)
		prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE, 0, 0);
	if (index == 2)
		syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
	prctl(PR_SET_TIMERSLACK, 50000 + index);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1 + index) == 0);
	if (index == 3)
		CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
}

static void set_caps(uint64_t permitted, uint64_t effective, uint64_t inheritable)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	for (int i = 0; i < 2; i++) {
		data[i].permitted = (uint32_t)(permitted >> 32 * i);
		data[i].effective = (uint32_t)(effective >> 32 * i);
		data[i].inheritable = (uint32_t)(inheritable >> 32 * i);
	}
	CHECK(syscall(SYS_capset, &head, data) == 0);
}

#define CAP(c) (1ull << (c))

/* Raw system calls: the C library's would change all threads. */
static void set_privileges(int index)
{
	const gid_t groups[] = {20, 30, 40};

	switch (index) {
	case 1:
		CHECK(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0 && prctl(PR_CAPBSET_DROP, CAP_MKNOD) == 0);
		set_caps(CAP(CAP_CHOWN) | CAP(CAP_KILL) | CAP(CAP_NET_RAW), CAP(CAP_CHOWN),
			 CAP(CAP_KILL) | CAP(CAP_NET_RAW));
		CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
		break;
	case 2:
		CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
						       SECBIT_KEEP_CAPS) == 0);
		CHECK(syscall(SYS_setgroups, 3, groups) == 0);
		CHECK(syscall(SYS_setresgid, 11, 12, 13) == 0 && syscall(SYS_setresuid, 21, 0, 23) == 0);
		break;
	case 3:
		CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
		CHECK(syscall(SYS_setresuid, 31, 31, 31) == 0);
		break;
	}
}

/* ---- syscall user dispatch ----------------------------------------------------------------- */

static volatile char selector;
static volatile int dispatched;

static void on_sigsys(int signo, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	selector = 0;
	dispatched = info->si_syscall;
	u->uc_mcontext.gregs[REG_RAX] = 4711;
}

/* getppid must come back as the handler says, and only from threads with the dispatcher on. */
static void check_dispatch(void)
{
	dispatched = 0;
	selector = 1;
	CHECK_EQ(syscall(SYS_getppid), 4711);
	CHECK_EQ(dispatched, SYS_getppid);
}

static void start_dispatch(void)
{
	struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};

	sigaction(SIGSYS, &action, NULL);
	if (prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector) < 0)
		target_skip("no syscall user dispatch here");
	check_dispatch();
}

/* Between two looks at the clock every call would be dispatched: the snapshot's own too. */
static void wait_dispatched(const struct target *t)
{
	while (!target_told(t)) {
		int64_t end = now_ns(CLOCK_MONOTONIC) + 5000000;

		selector = 1;
		while (now_ns(CLOCK_MONOTONIC) < end)
			;
		selector = 0;
		sleep_ms(2);
	}
}

/* ---- memory policies ----------------------------------------------------------------------- */

static void set_mdwe(void)
{
	if (prctl(PR_SET_MDWE, 1, 0, 0, 0) < 0)
		target_skip("no PR_SET_MDWE here");
}

static void check_mdwe(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p == MAP_FAILED && errno == EACCES);
}

/* Without stdio: its buffers come from the heap, which may grow or be trimmed by them, and the heap is locked too. */
static long locked_kib(void)
{
	char text[8192], *at;
	int fd = open("/proc/self/status", O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	CHECK(n > 0 && close(fd) == 0);
	text[n] = '\0';
	at = strstr(text, "VmLck:");
	CHECK(at);
	return strtol(at + strlen("VmLck:"), NULL, 10);
}

/* What is mapped from now on is locked, and so is what is now. A page or two may come or go between two looks,
 * half a MiB does not. */
static void check_locked(void)
{
	long before = locked_kib();
	void *p = mmap(NULL, 1 << 19, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED && before > 0);
	CHECK(labs(locked_kib() - before - 512) <= 32);
	CHECK(munmap(p, 1 << 19) == 0);
}

static void set_locked(void)
{
	struct rlimit limit;

	CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &limit);
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		target_skip("memory cannot be locked here");
	check_locked();
}

/* ---- threads ------------------------------------------------------------------------------- */

struct member {
	const struct target *target;
	pthread_barrier_t *barrier;
	struct text before, after;
	int index;
};

static volatile bool told;

static void compare(const struct member *m)
{
	if (!strcmp(m->before.buf, m->after.buf))
		return;
	fprintf(stderr, "thread %d before:\n%s\nafter:\n%s\n", m->index, m->before.buf, m->after.buf);
	target_fail(__FILE__, __LINE__, "controls", m->index, 0);
}

static void prepare(struct member *m)
{
	const char *variant = m->target->variant;

	set_common(m->index);
	if (!strcmp(variant, "caps"))
		set_privileges(m->index);
	if (!strcmp(variant, "dispatch") && m->index == 0)
		start_dispatch();
	describe(&m->before);
}

static void *member_main(void *arg)
{
	struct member *m = arg;

	prepare(m);
	pthread_barrier_wait(m->barrier);
	/* Another user may not look for DIR/go. */
	while (!told)
		usleep(10000);
	describe(&m->after);
	compare(m);
	return NULL;
}

static void check_process(const char *variant)
{
	if (!strcmp(variant, "mdwe"))
		check_mdwe();
	if (!strcmp(variant, "locked"))
		check_locked();
	if (!strcmp(variant, "dispatch"))
		check_dispatch();
}

int main(int argc, char **argv)
{
	static struct member members[N_THREADS];
	pthread_t threads[N_THREADS];
	pthread_barrier_t barrier;
	pthread_attr_t small;
	struct target t;

	target_start(&t, argc, argv);
	if (!strcmp(t.variant, "caps") && geteuid() != 0)
		target_skip("needs root");
	if (!strcmp(t.variant, "locked"))
		set_locked();
	if (!strcmp(t.variant, "mdwe"))
		set_mdwe();
	prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
	/* A user may lock 8 MiB in all. */
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128 * 1024);
	pthread_barrier_init(&barrier, NULL, N_THREADS);
	for (int i = 0; i < N_THREADS; i++) {
		members[i].target = &t;
		members[i].barrier = &barrier;
		members[i].index = i;
		if (i > 0)
			CHECK(pthread_create(&threads[i], &small, member_main, &members[i]) == 0);
	}
	prepare(&members[0]);
	pthread_barrier_wait(&barrier);
	check_process(t.variant);
	target_ready(&t);
	if (!strcmp(t.variant, "dispatch"))
		wait_dispatched(&t);
	else
		target_wait(&t);
	told = true;
	describe(&members[0].after);
	compare(&members[0]);
	check_process(t.variant);
	for (int i = 1; i < N_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return target_pass(&t);
}
