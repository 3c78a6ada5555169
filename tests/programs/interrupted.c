/*
 * interrupted.c: processes stopped (SIGSTOP) in calls that wait. A signal that comes before they go on meets each
 * call as it would have without a snapshot: it ends it with EINTR, unless its handler has SA_RESTART.
 */
#include "target.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t handled;

static void on_usr1(int signo)
{
	(void)signo;
	handled = 1;
}

static void catch(int flags)
{
	struct sigaction action = {.sa_handler = on_usr1, .sa_flags = flags};

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

static void wait_pause(int fd)
{
	(void)fd;
	CHECK(pause() < 0);
}

static void wait_sigsuspend(int fd)
{
	sigset_t none, usr1;

	(void)fd;
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &usr1, NULL) == 0);
	CHECK(sigsuspend(&none) < 0);
}

static void wait_read(int fd)
{
	char c;

	CHECK(read(fd, &c, 1) < 0);
}

static void wait_poll(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	CHECK(poll(&pollfd, 1, -1) < 0);
}

static void wait_poll_for_an_hour(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	CHECK(poll(&pollfd, 1, 3600000) < 0);
}

static void wait_epoll(int fd)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(0);

	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
	CHECK(epoll_wait(epoll, &event, 1, -1) < 0);
}

static void wait_sleep(int fd)
{
	struct timespec hour = {3600, 0}, left = {0};

	(void)fd;
	CHECK(nanosleep(&hour, &left) < 0);
	CHECK(left.tv_sec > 3000 && left.tv_sec < 3600);
}

static void wait_futex(int fd)
{
	uint32_t word = 0;

	(void)fd;
	CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0) < 0);
}

static void wait_child(int fd)
{
	pid_t child = fork();
	int saved;

	CHECK(child >= 0);
	if (child == 0)
		wait_read(fd);
	CHECK(waitpid(child, NULL, 0) < 0);
	saved = errno;
	/* Until it is gone, it may still take the byte that wait_restarted is to get. */
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	errno = saved;
}

/* The one whose call goes on: it gets its byte. */
static void wait_restarted(int fd)
{
	char c = 0;

	CHECK_EQ(read(fd, &c, 1), 1);
	CHECK_EQ(c, 'x');
	errno = EINTR;
}

static const struct {
	void (*wait)(int fd);
	int flags;
} kinds[] = {
	{wait_pause, SA_RESTART}, /* which makes no difference to it */
	{wait_sigsuspend, SA_RESTART},
	{wait_read, 0},
	{wait_poll, SA_RESTART},
	{wait_poll_for_an_hour, SA_RESTART},
	{wait_epoll, SA_RESTART},
	{wait_sleep, SA_RESTART},
	{wait_futex, 0},
	{wait_child, 0},
	{wait_restarted, SA_RESTART},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static pid_t start(size_t kind, const int ends[2])
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid > 0)
		return pid;
	close(ends[1]);
	catch (kinds[kind].flags);
	kinds[kind].wait(ends[0]);
	CHECK_EQ(errno, EINTR);
	CHECK(handled);
	_exit(0);
}

static void stop(pid_t pid)
{
	int status;

	sleep_ms(50);
	while (process_state(pid) != 'S')
		sleep_ms(1);
	CHECK(kill(pid, SIGSTOP) == 0);
	CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
	CHECK(WIFSTOPPED(status));
}

int main(int argc, char **argv)
{
	struct target target;
	pid_t pids[N_KINDS];
	int ends[2], status;

	target_start(&target, argc, argv);
	CHECK(pipe(ends) == 0);
	for (size_t i = 0; i < N_KINDS; i++)
		pids[i] = start(i, ends);
	for (size_t i = 0; i < N_KINDS; i++)
		stop(pids[i]);
	target_ready(&target);
	target_wait(&target);

	for (size_t i = 0; i < N_KINDS; i++) {
		CHECK(kill(pids[i], SIGUSR1) == 0);
		CHECK(kill(pids[i], SIGCONT) == 0);
		if (kinds[i].wait == wait_restarted)
			CHECK(write(ends[1], "x", 1) == 1);
		CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
		CHECK_EQ(status, 0);
	}
	return target_pass(&target);
}
