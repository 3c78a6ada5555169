/*
 * events.c: pipes with content, event counters, timers, signal descriptors, epoll instances (edge
 * triggered and nested too), unnamed Unix sockets with content and file locks: set up, saved, checked.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct events {
	struct target target;
	int pipe[2], hung_up, count, semaphore, timer, far_timer, signals;
	int pair[2], lonely;
	int epoll, outer;
	int locked;
	char *lock_path;
};

#define PIPE_BYTES 5000
#define FAR_AWAY   3600

static void set_up_pipes(struct events *e)
{
	unsigned char data[PIPE_BYTES + 8];
	int gone[2];

	CHECK(pipe2(e->pipe, O_CLOEXEC) == 0);
	CHECK(fcntl(e->pipe[1], F_SETPIPE_SZ, 131072) == 131072);
	CHECK(fcntl(e->pipe[0], F_SETFL, O_NONBLOCK) == 0);
	pattern_fill(data, sizeof(data) & ~7ul, 1);
	CHECK_EQ(write(e->pipe[1], data, PIPE_BYTES), PIPE_BYTES);
	CHECK(pipe(gone) == 0);
	CHECK_EQ(write(gone[1], "end", 3), 3);
	CHECK(close(gone[1]) == 0);
	e->hung_up = gone[0];
}

static void set_up_timers(struct events *e)
{
	const struct itimerspec often = {{0, 20000000}, {0, 20000000}}, far = {{0, 0}, {FAR_AWAY, 0}};
	sigset_t set;

	e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	CHECK(timerfd_settime(e->timer, 0, &often, NULL) == 0);
	e->far_timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC);
	CHECK(timerfd_settime(e->far_timer, 0, &far, NULL) == 0);
	e->count = eventfd(41, 0);
	e->semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 3);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	e->signals = signalfd(-1, &set, SFD_NONBLOCK);
	CHECK(e->signals >= 0);
}

static void set_up_sockets(struct events *e)
{
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, e->pair) == 0);
	CHECK_EQ(write(e->pair[0], "to the second", 13), 13);
	CHECK_EQ(write(e->pair[1], "to the first", 12), 12);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK_EQ(write(pair[1], "last words", 10), 10);
	CHECK(close(pair[1]) == 0);
	e->lonely = pair[0];
}

static void watch(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = mix64((uint64_t)fd)};

	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void set_up_epoll(struct events *e)
{
	e->epoll = epoll_create1(EPOLL_CLOEXEC);
	watch(e->epoll, e->count, EPOLLIN);
	watch(e->epoll, e->far_timer, EPOLLIN | EPOLLET);
	watch(e->epoll, e->pipe[0], EPOLLIN | EPOLLONESHOT);
	e->outer = epoll_create1(0);
	watch(e->outer, e->epoll, EPOLLIN);
}

static void set_up_locks(struct events *e)
{
	struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 50};
	struct flock own = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1000, .l_len = 0};

	e->lock_path = target_path(&e->target, "locked");
	e->locked = open(e->lock_path, O_RDWR | O_CREAT, 0600);
	CHECK(e->locked >= 0);
	CHECK(fcntl(e->locked, F_SETLK, &range) == 0);
	CHECK(fcntl(e->locked, F_OFD_SETLK, &own) == 0);
	CHECK(flock(e->locked, LOCK_EX) == 0);
}

/* ---- checks -------------------------------------------------------------------------------- */

static void check_text(int fd, const char *text)
{
	char buf[64] = {0};

	CHECK_EQ(read(fd, buf, sizeof(buf) - 1), (long long)strlen(text));
	CHECK(strcmp(buf, text) == 0);
}

static void check_pipes(const struct events *e)
{
	unsigned char data[PIPE_BYTES + 1000], expected[PIPE_BYTES + 8];

	CHECK_EQ(fcntl(e->pipe[1], F_GETPIPE_SZ), 131072);
	CHECK(fcntl(e->pipe[0], F_GETFL) & O_NONBLOCK);
	CHECK(!(fcntl(e->pipe[1], F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(e->pipe[0], F_GETFD) & FD_CLOEXEC);
	pattern_fill(expected, sizeof(expected) & ~7ul, 1);
	CHECK_EQ(read(e->pipe[0], data, sizeof(data)), PIPE_BYTES);
	CHECK(memcmp(data, expected, PIPE_BYTES) == 0);
	CHECK(read(e->pipe[0], data, 1) == -1 && errno == EAGAIN);
	check_text(e->hung_up, "end");
	CHECK_EQ(read(e->hung_up, data, 1), 0);
}

static void check_counters(const struct events *e)
{
	struct itimerspec left;
	uint64_t value;

	CHECK_EQ(read(e->count, &value, 8), 8);
	CHECK_EQ(value, 41);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(read(e->semaphore, &value, 8), 8);
		CHECK_EQ(value, 1);
	}
	CHECK(read(e->semaphore, &value, 8) == -1 && errno == EAGAIN);
	sleep_ms(50);
	CHECK_EQ(read(e->timer, &value, 8), 8);
	CHECK(value >= 2);
	CHECK(timerfd_gettime(e->far_timer, &left) == 0);
	CHECK(left.it_value.tv_sec > FAR_AWAY - 600 && left.it_value.tv_sec < FAR_AWAY);
	CHECK_EQ(left.it_interval.tv_sec, 0);
}

static void check_signals(const struct events *e)
{
	struct signalfd_siginfo info;

	CHECK(read(e->signals, &info, sizeof(info)) == -1 && errno == EAGAIN);
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK_EQ(read(e->signals, &info, sizeof(info)), sizeof(info));
	CHECK_EQ(info.ssi_signo, SIGUSR1);
}

static void check_epoll(const struct events *e)
{
	struct epoll_event got[4];
	unsigned seen = 0;
	int n;

	CHECK_EQ(epoll_wait(e->outer, got, 4, 0), 1);
	CHECK(got[0].data.u64 == mix64((uint64_t)e->epoll));
	n = epoll_wait(e->epoll, got, 4, 0);
	CHECK_EQ(n, 2);
	for (int i = 0; i < n; i++) {
		seen |= got[i].data.u64 == mix64((uint64_t)e->count) ? 1 : 0;
		seen |= got[i].data.u64 == mix64((uint64_t)e->pipe[0]) ? 2 : 0;
	}
	CHECK_EQ(seen, 3);
	/* The pipe was for one shot, the counter is level-triggered. */
	CHECK_EQ(epoll_wait(e->epoll, got, 4, 0), 1);
	CHECK(got[0].data.u64 == mix64((uint64_t)e->count));
}

static void check_sockets(const struct events *e)
{
	char byte;

	check_text(e->pair[1], "to the second");
	check_text(e->pair[0], "to the first");
	CHECK_EQ(write(e->pair[1], "still there", 11), 11);
	check_text(e->pair[0], "still there");
	check_text(e->lonely, "last words");
	CHECK_EQ(read(e->lonely, &byte, 1), 0);
}

/* Another process must find all three locks held. */
static void check_locks(const struct events *e)
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (pid == 0) {
		struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 149, .l_len = 1};
		struct flock tail = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5000, .l_len = 1};
		int fd = open(e->lock_path, O_RDWR);

		_exit(fd < 0 || fcntl(fd, F_GETLK, &range) < 0 || range.l_type != F_WRLCK ||
		      range.l_start != 100 || range.l_len != 50 || fcntl(fd, F_OFD_GETLK, &tail) < 0 ||
		      tail.l_type != F_WRLCK || tail.l_pid != -1 ||
		      flock(fd, LOCK_SH | LOCK_NB) == 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0);
}

int main(int argc, char **argv)
{
	struct events e;

	target_start(&e.target, argc, argv);
	set_up_pipes(&e);
	set_up_timers(&e);
	set_up_sockets(&e);
	set_up_epoll(&e);
	set_up_locks(&e);
	target_ready(&e.target);
	target_wait(&e.target);
	check_epoll(&e);
	check_pipes(&e);
	check_counters(&e);
	check_signals(&e);
	check_sockets(&e);
	check_locks(&e);
	return target_pass(&e.target);
}
