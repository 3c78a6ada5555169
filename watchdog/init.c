/* Runs in a fork of the watchdog: no allocation, no locks (see init.h). */
#include "watchdog/init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct init {
	const struct init_plan *plan;
	int signals;
	pid_t leader; /* 0: none yet */
};

/* ---- messages ------------------------------------------------------------------------------ */

/* A failed send means that the watchdog is gone; the end of file on `requests` then ends us. */
static void send_reply(const struct init *init, const struct init_reply *reply, int fd)
{
	char room[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {(void *)reply, sizeof(*reply)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = room;
		msg.msg_controllen = sizeof(room);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	sendmsg(init->plan->requests, &msg, MSG_NOSIGNAL);
}

static void send_event(const struct init *init, int kind, int status, int left_behind)
{
	struct init_event event = {kind, status, left_behind};

	send(init->plan->events, &event, sizeof(event), MSG_NOSIGNAL);
}

/* ---- children ------------------------------------------------------------------------------ */

pid_t init_clone(pid_t vpid, int *ret_pidfd)
{
	pid_t tids[1] = {vpid};
	struct clone_args args = {
		.flags = CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)ret_pidfd,
		.exit_signal = SIGCHLD,
	};

	if (vpid > 0) {
		args.set_tid = (uint64_t)(uintptr_t)tids;
		args.set_tid_size = 1;
	}
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* Waits for a child's exec: its end of the pipe closes then. 0 or the errno of the failure. */
static int exec_outcome(int fd)
{
	int code = 0;
	ssize_t n;

	do
		n = read(fd, &code, sizeof(code));
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(code) ? code : 0;
}

static void spawn(struct init *init, pid_t vpid)
{
	struct init_reply reply = {.stage = STAGE_FORK};
	int report[2], pidfd = -1;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC) < 0) {
		reply.error = errno;
		send_reply(init, &reply, -1);
		return;
	}
	pid = init_clone(vpid, &pidfd);
	if (pid == 0)
		stub_main(init->plan->stub_socket, report[1]);
	if (pid < 0)
		reply.error = errno;
	reply.pid = pid;
	close(report[1]);
	if (pid > 0)
		exec_outcome(report[0]); /* either way it is ready now */
	close(report[0]);
	send_reply(init, &reply, pidfd);
	if (pidfd >= 0)
		close(pidfd);
}

static void launch(struct init *init)
{
	struct init_reply reply = {.stage = STAGE_FORK};
	int report[2], pidfd = -1;

	if (pipe2(report, O_CLOEXEC) < 0) {
		reply.error = errno;
		send_reply(init, &reply, -1);
		return;
	}
	reply.pid = init_clone(0, &pidfd);
	if (reply.pid == 0)
		launch_exec(init->plan, report[1]);
	if (reply.pid < 0)
		reply.error = errno;
	close(report[1]);
	if (reply.pid > 0 && (reply.error = exec_outcome(report[0])) != 0) {
		reply.stage = STAGE_EXEC;
		waitpid(reply.pid, NULL, 0);
	}
	close(report[0]);
	if (reply.error == 0)
		init->leader = reply.pid;
	send_reply(init, &reply, reply.error == 0 ? pidfd : -1);
	if (pidfd >= 0)
		close(pidfd);
}

static int status_of(const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		return (info->si_status & 0xff) << 8;
	return info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

static void leader_changed(const struct init *init, const siginfo_t *info, int *ret_status)
{
	switch (info->si_code) {
	case CLD_STOPPED:
		send_event(init, CAPSULE_LEADER_STOPPED, info->si_status, 0);
		break;
	case CLD_CONTINUED:
		send_event(init, CAPSULE_LEADER_CONTINUED, 0, 0);
		break;
	case CLD_EXITED:
	case CLD_KILLED:
	case CLD_DUMPED:
		*ret_status = status_of(info);
		break;
	default:
		break;
	}
}

static bool has_others(const struct init *init)
{
	siginfo_t info;

	if (!init->plan->plain)
		return kill(-1, 0) == 0;
	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* All orphans of the capsule are ours. The leader's end is reported last, so that what died with it
 * does not count as left behind. */
static void reap(struct init *init)
{
	struct signalfd_siginfo drain[8];
	int status = -1;
	siginfo_t info;

	while (read(init->signals, drain, sizeof(drain)) > 0)
		;
	for (;;) {
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG) < 0 ||
		    info.si_pid == 0)
			break;
		if (info.si_pid == init->leader)
			leader_changed(init, &info, &status);
	}
	if (status >= 0)
		send_event(init, CAPSULE_LEADER_EXITED, status, has_others(init));
}

/* ---- serving ------------------------------------------------------------------------------- */

static int watch(struct init *init, pid_t vpid)
{
	if (kill(vpid, 0) < 0)
		return errno;
	init->leader = vpid;
	return 0;
}

static int close_streams(const struct init_plan *plan)
{
	const struct capsule_config *config = plan->config;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	size_t i;

	if (null < 0)
		return errno;
	for (i = 0; i < 3; i++) {
		dup2(null, (int)i);
		if (config->stream[i] > 2 && config->stream[i] != config->terminal)
			close(config->stream[i]);
	}
	close(null);
	for (i = 0; config->caller && i < config->caller->n_fds; i++)
		close(config->caller->fds[i]);
	return 0;
}

/* Of our only thread; who loses his parent becomes our child. */
static void kill_children(void)
{
	char text[4096];
	int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	pid_t pid = 0;

	if (fd >= 0)
		close(fd);
	for (ssize_t i = 0; i < n; i++) {
		if (text[i] >= '0' && text[i] <= '9') {
			pid = pid * 10 + (text[i] - '0');
			continue;
		}
		if (pid > 0)
			kill(pid, SIGKILL);
		pid = 0;
	}
}

/* The end of a pid namespace's init ends all others in it. Without one they are ended here, generation by
 * generation. */
static _Noreturn void end(const struct init *init)
{
	if (init->plan->plain)
		do
			kill_children();
		while (waitpid(-1, NULL, __WALL) > 0);
	_exit(0);
}

static void serve_request(struct init *init)
{
	const struct init_plan *plan = init->plan;
	struct init_reply reply = {.stage = STAGE_REQUEST};
	struct init_request request;
	ssize_t n = recv(plan->requests, &request, sizeof(request), 0);

	if (n < 0 && errno == EINTR)
		return;
	if (n != (ssize_t)sizeof(request))
		end(init);
	switch (request.op) {
	case INIT_LAUNCH:
		launch(init);
		return;
	case INIT_SPAWN:
		spawn(init, request.arg);
		return;
	case INIT_WATCH:
		reply.error = watch(init, request.arg);
		break;
	case INIT_FOREGROUND:
		reply.error = tcsetpgrp(plan->config->terminal, request.arg) < 0 ? errno : 0;
		break;
	case INIT_CLOCKS:
		reply.error = init_set_clocks(request.monotonic, request.boottime);
		break;
	case INIT_CLOSE:
		reply.error = close_streams(plan);
		break;
	default:
		reply.error = EINVAL;
	}
	send_reply(init, &reply, -1);
}

static int block_signals(struct init *init)
{
	sigset_t all, chld;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	init->signals = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	return init->signals < 0 ? errno : 0;
}

void init_main(const struct init_plan *plan)
{
	struct init init = {.plan = plan};
	struct init_reply ready = {0};
	enum init_stage stage = STAGE_NONE;
	struct pollfd fds[2];

	ready.error = init_setup(plan, &stage);
	if (ready.error == 0 && (ready.error = block_signals(&init)) != 0)
		stage = STAGE_REQUESTS;
	ready.stage = stage;
	send_reply(&init, &ready, -1);
	if (ready.error != 0)
		_exit(1);
	fds[0] = (struct pollfd){.fd = plan->requests, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = init.signals, .events = POLLIN};
	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			_exit(1);
		if (fds[1].revents)
			reap(&init);
		if (fds[0].revents)
			serve_request(&init);
	}
}
