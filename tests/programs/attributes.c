/*
 * attributes.c: what a process can ask about itself is the same before and after.
 * With variant "undumpable" it also has PR_SET_DUMPABLE 0.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_MAX (256 * 1024)

/* Everything in one text, so that a difference shows itself. */
struct text {
	char *buf;
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

static void put_hex_file(struct text *t, const char *path)
{
	unsigned char data[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, data, sizeof(data));

	put(t, "%s: %zd ", path, n);
	for (ssize_t i = 0; i < n; i++)
		put(t, "%02x", data[i]);
	put(t, "\n");
	if (fd >= 0)
		close(fd);
}

static void put_link(struct text *t, const char *path)
{
	char target[4096] = "";

	put(t, "%s: %zd ", path, readlink(path, target, sizeof(target) - 1));
	put(t, "%s\n", target);
}

static void put_prctl(struct text *t)
{
	char name[17] = "";

	prctl(PR_GET_NAME, name);
	put(t, "name %s\n", name);
	put(t, "timerslack %d\n", prctl(PR_GET_TIMERSLACK));
	put(t, "dumpable %d\n", prctl(PR_GET_DUMPABLE));
	put(t, "thp %d\n", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	put(t, "nice %d\n", getpriority(PRIO_PROCESS, (id_t)gettid()));
}

static void put_limits(struct text *t)
{
	struct rlimit limit;

	for (int i = 0; i < RLIM_NLIMITS; i++)
		if (getrlimit((enum __rlimit_resource)i, &limit) == 0)
			put(t, "limit %d: %llu %llu\n", i, (unsigned long long)limit.rlim_cur,
			    (unsigned long long)limit.rlim_max);
}

static void put_ids(struct text *t)
{
	uid_t r, e, s;
	gid_t rg, eg, sg, groups[64];
	int n = getgroups(64, groups);

	getresuid(&r, &e, &s);
	getresgid(&rg, &eg, &sg);
	put(t, "uid %u %u %u gid %u %u %u\n", r, e, s, rg, eg, sg);
	for (int i = 0; i < n; i++)
		put(t, "group %u\n", groups[i]);
	put(t, "pid %d tid %d pgrp %d sid %d\n", getpid(), gettid(), getpgrp(), getsid(0));
}

static void put_affinity(struct text *t)
{
	cpu_set_t set;

	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
	put(t, "cpus");
	for (int i = 0; i < 64; i++)
		if (CPU_ISSET(i, &set))
			put(t, " %d", i);
	put(t, "\n");
}

static void describe(struct text *t, char **argv)
{
	char cwd[4096];
	mode_t mask = umask(0);

	umask(mask);
	CHECK(getcwd(cwd, sizeof(cwd)));
	put(t, "umask %o cwd %s personality %x\n", mask, cwd, personality(0xffffffff));
	put_ids(t);
	put_prctl(t);
	put_limits(t);
	put_affinity(t);
	put_link(t, "/proc/self/exe");
	put_link(t, "/proc/self/cwd");
	put_link(t, "/proc/self/root");
	put_hex_file(t, "/proc/self/auxv");
	put_hex_file(t, "/proc/self/cmdline");
	put_hex_file(t, "/proc/self/environ");
	put_hex_file(t, "/proc/self/coredump_filter");
	put_hex_file(t, "/proc/self/oom_score_adj");
	for (char **arg = argv; *arg; arg++)
		put(t, "arg %s\n", *arg);
}

struct member {
	const struct target *target;
	struct text before, after;
	char **argv;
	int index;
	pthread_barrier_t *barrier;
};

/* The parts of it that threads have of their own. */
static void describe_thread(struct text *t)
{
	put_prctl(t);
	put_affinity(t);
	put_hex_file(t, "/proc/thread-self/comm");
	put(t, "tid %d\n", gettid());
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	char name[16];
	cpu_set_t set;

	snprintf(name, sizeof(name), "member-%d", m->index);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_TIMERSLACK, 60000 + m->index);
	CHECK(setpriority(PRIO_PROCESS, (id_t)gettid(), 6 + m->index) == 0);
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	if (m->index == 0) /* CPU 0 may be outside our cpuset */
		sched_setaffinity(0, sizeof(set), &set);
	describe_thread(&m->before);
	pthread_barrier_wait(m->barrier);
	target_wait(m->target);
	describe_thread(&m->after);
	CHECK(!strcmp(m->before.buf, m->after.buf));
	return NULL;
}

static void change_attributes(const struct target *t)
{
	struct rlimit core = {12345, 67890}, files = {200, 300};

	umask(0137);
	CHECK(chdir(t->dir) == 0);
	CHECK(personality(ADDR_NO_RANDOMIZE) != -1);
	CHECK(setrlimit(RLIMIT_CORE, &core) == 0 && setrlimit(RLIMIT_NOFILE, &files) == 0);
	CHECK(prctl(PR_SET_NAME, "a (na) me") == 0);
	CHECK(prctl(PR_SET_TIMERSLACK, 70000) == 0);
	CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0);
	if (!strcmp(t->variant, "undumpable"))
		CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static struct text new_text(void)
{
	return (struct text){.buf = calloc(1, TEXT_MAX)};
}

/* Tells the first line that differs. */
static void check_same(const struct text *before, const struct text *after)
{
	const char *a = before->buf, *b = after->buf;
	size_t start = 0, i = 0;

	for (; a[i] == b[i]; i++) {
		if (!a[i])
			return;
		if (a[i] == '\n')
			start = i + 1;
	}
	fprintf(stderr, "before: %.*s\nafter:  %.*s\nfrom its character %zu on\n",
		(int)strcspn(a + start, "\n"), a + start, (int)strcspn(b + start, "\n"), b + start,
		i - start);
	target_fail(__FILE__, __LINE__, "attributes", 0, 0);
}

/* dir must stay right after chdir, so it has to be absolute. */
int main(int argc, char **argv)
{
	struct target target;
	struct text before = new_text(), after = new_text();
	struct member members[2];
	pthread_t threads[2];
	pthread_barrier_t barrier;

	target_start(&target, argc, argv);
	change_attributes(&target);
	pthread_barrier_init(&barrier, NULL, 3);
	for (int i = 0; i < 2; i++) {
		members[i] = (struct member){&target, new_text(), new_text(), argv, i, &barrier};
		CHECK(pthread_create(&threads[i], NULL, member_main, &members[i]) == 0);
	}
	pthread_barrier_wait(&barrier);
	describe(&before, argv);
	target_ready(&target);
	target_wait(&target);
	describe(&after, argv);
	check_same(&before, &after);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return target_pass(&target);
}
