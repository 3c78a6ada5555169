/*
 * corners.c: what is easily forgotten; each a variant:
 *
 *   traps    SIGTRAPs pending and blocked, of the process and of a thread; CPU time timers of one thread
 *   watched  epoll instances that watch what is not (any more) under its number; expirations nobody has read
 *   removed  directories that are gone, open and current; linking and renaming from descriptors
 *   packets  multicast groups, datagram sockets shut down or without their peers
 *   pids     a file of /proc of a process that has ended; the pid that comes next; that a zombie has dumped core
 */
#include "target.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void run(const struct target *t)
{
	target_ready(t);
	target_wait(t);
}

/* ---- traps --------------------------------------------------------------------------------- */

#define CPU_NS 100000000ll

struct worker {
	pthread_t thread;
	pthread_barrier_t ready, go;
	timer_t timer;
};

static volatile sig_atomic_t expirations;

static void count_expiration(int signo)
{
	expirations++;
}

static void burn(int64_t ns)
{
	int64_t end = now_ns(CLOCK_THREAD_CPUTIME_ID) + ns;

	while (now_ns(CLOCK_THREAD_CPUTIME_ID) < end)
		;
}

static void *worker_main(void *arg)
{
	const struct itimerspec spec = {.it_value.tv_nsec = CPU_NS};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3};
	struct worker *w = arg;

	CHECK(timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &w->timer) == 0);
	CHECK(timer_settime(w->timer, 0, &spec, NULL) == 0);
	CHECK(pthread_kill(pthread_self(), SIGTRAP) == 0);
	pthread_barrier_wait(&w->ready);
	pthread_barrier_wait(&w->go);
	burn(2 * CPU_NS);
	CHECK_EQ(expirations, 1);
	return NULL;
}

static void take_trap(int code)
{
	const struct timespec at_once = {0};
	siginfo_t info;
	sigset_t trap;

	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	CHECK_EQ(sigtimedwait(&trap, &info, &at_once), SIGTRAP);
	CHECK_EQ(info.si_code, code);
	CHECK(code != SI_QUEUE || info.si_value.sival_int == 4711);
}

static void test_traps(const struct target *t)
{
	const struct itimerval cpu = {.it_value.tv_sec = 500};
	struct sigaction count = {.sa_handler = count_expiration};
	struct worker w = {0};
	struct itimerval left;
	sigset_t trap;

	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	CHECK(sigprocmask(SIG_BLOCK, &trap, NULL) == 0 && sigaction(SIGRTMIN + 3, &count, NULL) == 0);
	CHECK(setitimer(ITIMER_PROF, &cpu, NULL) == 0);
	pthread_barrier_init(&w.ready, NULL, 2);
	pthread_barrier_init(&w.go, NULL, 2);
	CHECK(pthread_create(&w.thread, NULL, worker_main, &w) == 0);
	pthread_barrier_wait(&w.ready);
	CHECK(sigqueue(getpid(), SIGTRAP, (union sigval){.sival_int = 4711}) == 0);
	run(t);
	/* That of the process is pending for all, that of the worker for it alone. */
	take_trap(SI_QUEUE);
	CHECK(getitimer(ITIMER_PROF, &left) == 0 && left.it_value.tv_sec > 400 && left.it_value.tv_sec <= 500);
	burn(2 * CPU_NS);
	CHECK_EQ(expirations, 0);
	pthread_barrier_wait(&w.go);
	CHECK(pthread_join(w.thread, NULL) == 0);
}

/* ---- watched ------------------------------------------------------------------------------- */

static int watch(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static uint64_t next_event(int epoll)
{
	struct epoll_event event;

	return epoll_wait(epoll, &event, 1, 0) == 1 ? event.data.u64 : 0;
}

/* A child tells the shared instance of a descriptor of its own, under a number that means another thing to us. */
static pid_t watch_from_child(int epoll, const int pipe_fds[2], int number, int told)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	CHECK(dup2(pipe_fds[0], number) == number && watch(epoll, number, EPOLLIN, 3) == 0);
	CHECK_EQ(write(told, "w", 1), 1);
	for (;;)
		pause();
}

static void test_watched(const struct target *t)
{
	const struct itimerspec often = {{0, 10000000}, {0, 10000000}};
	int a[2], b[2], c[2], told[2], other, epoll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t expired;
	pid_t child;
	char byte;

	CHECK(pipe(a) == 0 && pipe(b) == 0 && pipe(c) == 0 && pipe(told) == 0);
	CHECK((other = dup(a[0])) >= 0 && watch(epoll, a[0], EPOLLIN, 1) == 0);
	CHECK(close(a[0]) == 0 && dup2(told[0], a[0]) == a[0]);
	CHECK(watch(epoll, a[0], EPOLLIN | EPOLLET, 2) == 0); /* the same number, another description */
	child = watch_from_child(epoll, c, b[0], told[1]);
	CHECK_EQ(read(a[0], &byte, 1), 1);
	CHECK(timerfd_settime(timer, 0, &often, NULL) == 0);
	sleep_ms(300);
	run(t);
	CHECK_EQ(next_event(epoll), 0);
	CHECK_EQ(write(a[1], "x", 1), 1);
	CHECK_EQ(next_event(epoll), 1);
	CHECK_EQ(read(other, &byte, 1), 1);
	CHECK_EQ(write(told[1], "y", 1), 1);
	CHECK_EQ(next_event(epoll), 2);
	CHECK_EQ(next_event(epoll), 0); /* edge */
	CHECK_EQ(write(b[1], "z", 1), 1);
	CHECK_EQ(next_event(epoll), 0);
	CHECK_EQ(write(c[1], "z", 1), 1);
	CHECK_EQ(next_event(epoll), 3);
	CHECK(read(timer, &expired, sizeof(expired)) == sizeof(expired) && expired >= 25);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

/* ---- removed ------------------------------------------------------------------------------- */

static bool is_empty(int dir)
{
	DIR *d = fdopendir(dir);
	bool empty = d && readdir(d) == NULL;

	if (d)
		closedir(d);
	return empty;
}

static void test_removed(const struct target *t)
{
	char *top = target_path(t, "a"), *middle = target_path(t, "a/b"), *low = target_path(t, "a/b/c");
	char *kept = target_path(t, "kept"), link[64], buf[512];
	int dir, keep, file;
	struct stat st;

	CHECK(mkdir(top, 0755) == 0 && mkdir(middle, 0711) == 0 && mkdir(low, 0755) == 0 && mkdir(kept, 0755) == 0);
	CHECK((dir = open(middle, O_RDONLY | O_DIRECTORY)) >= 0 && chdir(low) == 0);
	CHECK(rmdir(low) == 0 && rmdir(middle) == 0 && rmdir(top) == 0);
	CHECK((keep = open(kept, O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK((file = openat(keep, "old", O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0 && close(file) == 0);
	CHECK((file = open(kept, O_TMPFILE | O_RDWR, 0600)) >= 0 && write(file, "text", 4) == 4);
	run(t);
	CHECK(getcwd(buf, sizeof(buf)) == NULL && errno == ENOENT);
	CHECK(fstat(dir, &st) == 0 && S_ISDIR(st.st_mode) && st.st_nlink == 0);
	CHECK_EQ(st.st_mode & 07777, 0711);
	CHECK(is_empty(dir) && access(top, F_OK) < 0);
	/* All is one mount, as it was. */
	CHECK(chdir(kept) == 0 && renameat(keep, "old", AT_FDCWD, "new") == 0);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
	CHECK(linkat(AT_FDCWD, link, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW) == 0);
	CHECK(faccessat(keep, "linked", R_OK, 0) == 0 && faccessat(keep, "new", R_OK, 0) == 0);
	free(top);
	free(middle);
	free(low);
	free(kept);
}

/* ---- packets ------------------------------------------------------------------------------- */

static void join(int fd, const char *group)
{
	struct ip_mreqn four = {.imr_ifindex = (int)if_nametoindex("lo")};

	CHECK(inet_pton(AF_INET, group, &four.imr_multiaddr) == 1);
	if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &four, sizeof(four)) < 0)
		target_skip("no multicast on this machine's loopback");
}

static int bound_udp(struct sockaddr_in *ret)
{
	socklen_t len = sizeof(*ret);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	*ret = (struct sockaddr_in){.sin_family = AF_INET};
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)ret, sizeof(*ret)) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)ret, &len) == 0);
	ret->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return fd;
}

static bool is_member(int fd, const char *group, const char *source)
{
	struct sockaddr_in address = {.sin_family = AF_INET}, from;
	char room[GROUP_FILTER_SIZE(4)] = "";
	struct group_filter *f = (struct group_filter *)(void *)room;
	socklen_t len = sizeof(room);

	CHECK(inet_pton(AF_INET, group, &address.sin_addr) == 1);
	f->gf_interface = if_nametoindex("lo");
	f->gf_numsrc = 4;
	memcpy(&f->gf_group, &address, sizeof(address));
	if (getsockopt(fd, IPPROTO_IP, MCAST_MSFILTER, f, &len) < 0)
		return false;
	if (!source)
		return f->gf_fmode == MCAST_EXCLUDE && f->gf_numsrc == 0;
	memcpy(&from, &f->gf_slist[0], sizeof(from));
	return f->gf_fmode == MCAST_INCLUDE && f->gf_numsrc == 1 && from.sin_addr.s_addr == inet_addr(source);
}

static void join_source(int fd, const char *group, const char *source)
{
	struct ip_mreq_source m = {.imr_interface.s_addr = htonl(INADDR_LOOPBACK)};

	CHECK(inet_pton(AF_INET, group, &m.imr_multiaddr) == 1 && inet_pton(AF_INET, source, &m.imr_sourceaddr) == 1);
	CHECK(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &m, sizeof(m)) == 0);
}

static void test_packets(const struct target *t)
{
	struct sockaddr_in at, to;
	int groups = bound_udp(&at), mute = bound_udp(&to), pair[2];
	char buf[16];

	join(groups, "239.1.2.3");
	join_source(groups, "239.1.2.4", "127.0.0.9");
	CHECK(connect(mute, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK_EQ(send(mute, "last", 4, 0), 4);
	CHECK(shutdown(mute, SHUT_WR) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
	CHECK(send(pair[1], "one", 3, 0) == 3 && send(pair[1], "three", 5, 0) == 5 && close(pair[1]) == 0);
	run(t);
	CHECK(is_member(groups, "239.1.2.3", NULL) && is_member(groups, "239.1.2.4", "127.0.0.9"));
	CHECK(!is_member(mute, "239.1.2.3", NULL));
	CHECK_EQ(recv(groups, buf, sizeof(buf), 0), 4);
	CHECK(send(mute, "more", 4, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	CHECK(recv(pair[0], buf, sizeof(buf), 0) == 3 && recv(pair[0], buf, sizeof(buf), 0) == 5);
	CHECK(send(pair[0], "x", 1, 0) < 0 && errno == ECONNREFUSED);
}

/* ---- pids ---------------------------------------------------------------------------------- */

static pid_t short_lived(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
	return pid;
}

static int file_of_ended(void)
{
	pid_t pid = fork();
	char path[64], byte;
	int fd;

	if (pid == 0)
		for (;;)
			pause();
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	CHECK(pid > 0 && (fd = open(path, O_RDONLY)) >= 0 && kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	CHECK(read(fd, &byte, 1) < 0 && errno == ESRCH);
	return fd;
}

/* Ends by a signal that dumps core, if that may be had here; not waited for. */
static pid_t start_core(const struct target *t)
{
	struct rlimit limit;
	pid_t pid = fork();

	if (pid)
		return pid;
	CHECK(chdir(t->dir) == 0 && getrlimit(RLIMIT_CORE, &limit) == 0);
	limit.rlim_cur = limit.rlim_max;
	CHECK(setrlimit(RLIMIT_CORE, &limit) == 0);
	abort();
}

static int how_it_ended(pid_t pid, int more)
{
	siginfo_t info;

	CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | more) == 0 && info.si_status == SIGABRT);
	return info.si_code;
}

static void test_pids(const struct target *t)
{
	pid_t last = 0, next, core = start_core(t);
	int ended = how_it_ended(core, WNOWAIT);
	char byte;
	int fd;

	for (int i = 0; i < 20; i++)
		last = short_lived();
	fd = file_of_ended();
	run(t);
	CHECK(read(fd, &byte, 1) < 0 && errno == ESRCH);
	CHECK_EQ(how_it_ended(core, 0), ended);
	next = short_lived();
	/* Pids begin again some time: only an attached job's may have done so meanwhile. */
	CHECK(next > last || last > 1000);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*test)(const struct target *t);
	} all[] = {
		{"traps", test_traps},	   {"watched", test_watched}, {"removed", test_removed},
		{"packets", test_packets}, {"pids", test_pids},
	};
	struct target t;

	target_start(&t, argc, argv);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(all[i].name, t.variant)) {
			all[i].test(&t);
			return target_pass(&t);
		}
	target_fail(__FILE__, __LINE__, "no such variant", 0, 0);
}
