#include "watchdog/capsule.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "watchdog/attached.h"
#include "watchdog/init.h"

/* Stubs have their socket high up, out of the way of the job's own descriptors. */
#define STUB_SOCKET_NUMBER 1000

#define CAPSULE_NAMESPACES (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC)

static const char *const user_hint =
	"user namespaces are forbidden here (see user.max_user_namespaces, "
	"kernel.unprivileged_userns_clone, AppArmor; in a chroot they always are; `pawl doctor` tells "
	"more)";

/* ---- creation ------------------------------------------------------------------------------ */

struct sockets {
	int requests[2], events[2], stub[2];
	int stub_number;
};

static void close_pair(int pair[2])
{
	cleanup_fd_p(&pair[0]);
	cleanup_fd_p(&pair[1]);
}

static void close_sockets(struct sockets *s)
{
	close_pair(s->requests);
	close_pair(s->events);
	close_pair(s->stub);
	cleanup_fd_p(&s->stub_number);
}

static int stub_number_from(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > STUB_SOCKET_NUMBER + 16)
		return STUB_SOCKET_NUMBER;
	return limit.rlim_cur > 64 ? (int)limit.rlim_cur - 16 : 3;
}

static int make_sockets(struct sockets *s, struct err *err)
{
	const int type = SOCK_SEQPACKET | SOCK_CLOEXEC;

	*s = (struct sockets){{-1, -1}, {-1, -1}, {-1, -1}, -1};
	if (socketpair(AF_UNIX, type, 0, s->requests) < 0 ||
	    socketpair(AF_UNIX, type, 0, s->events) < 0 ||
	    socketpair(AF_UNIX, type, 0, s->stub) < 0 ||
	    fcntl(s->events[0], F_SETFL, O_NONBLOCK) < 0 ||
	    (s->stub_number = fcntl(s->stub[1], F_DUPFD_CLOEXEC, stub_number_from())) < 0) {
		err_sys(err, "cannot make the capsule's sockets");
		close_sockets(s);
		return -1;
	}
	return 0;
}

static int compare_ints(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

/* Every descriptor that init may hold, ascending. */
static int *list_kept(const struct capsule_config *config, const struct sockets *s, size_t *ret_n)
{
	size_t inherited = config->caller ? config->caller->n_fds : 0;
	int *keep = malloc((inherited + 8) * sizeof(*keep));
	size_t n = 0, i;

	if (!keep)
		return NULL;
	for (i = 0; i < inherited; i++)
		keep[n++] = config->caller->fds[i];
	for (i = 0; i < 3; i++)
		if (config->stream[i] > 2)
			keep[n++] = config->stream[i];
	if (config->terminal > 2)
		keep[n++] = config->terminal;
	keep[n++] = s->requests[1];
	keep[n++] = s->events[1];
	keep[n++] = s->stub_number;
	qsort(keep, n, sizeof(*keep), compare_ints);
	*ret_n = n;
	return keep;
}

static pid_t clone_init(uint64_t flags, int *ret_pidfd)
{
	struct clone_args args = {
		.flags = flags | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)ret_pidfd,
		.exit_signal = SIGCHLD,
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* Root does without a user namespace where it can; in a container it may lack the capability. */
static pid_t clone_with_namespaces(struct init_plan *plan, bool plain_root, int *ret_pidfd)
{
	pid_t pid;

	if (plain_root && geteuid() == 0) {
		pid = clone_init(CAPSULE_NAMESPACES, ret_pidfd);
		if (pid >= 0 || errno != EPERM)
			return pid;
	}
	plan->user_namespace = true;
	return clone_init(CAPSULE_NAMESPACES | CLONE_NEWUSER, ret_pidfd);
}

static int clone_failed(int code, struct err *err)
{
	switch (code) {
	case EPERM:
	case EACCES:
	case ENOSPC:
	case EUSERS:
		return err_set(err, ERR_UNSUPPORTED, "cannot make a capsule: %s: %s",
			       strerror(code), user_hint);
	case EINVAL:
	case ENOSYS:
		return err_set(
			err, ERR_UNSUPPORTED,
			"cannot make a capsule: %s: this kernel lacks clone3 or namespaces, or "
			"a container's seccomp filter hides them",
			strerror(code));
	default:
		return err_code(err, code, "cannot make a capsule");
	}
}

static int setup_failed(const struct init_reply *reply, struct err *err)
{
	switch (reply->stage) {
	case STAGE_MAPS:
	case STAGE_MOUNTS:
		return err_set(err, ERR_UNSUPPORTED, "cannot set up the capsule's %s: %s: %s",
			       reply->stage == STAGE_MAPS ? "user namespace" : "mounts",
			       strerror(reply->error), user_hint);
	case STAGE_PROC:
		return err_set(
			err, ERR_UNSUPPORTED,
			"cannot mount a fresh /proc in the capsule: %s: this container masks "
			"parts of its /proc; run it with an unmasked one",
			strerror(reply->error));
	case STAGE_SHM:
		return err_code(err, reply->error,
				"cannot mount /dev/shm, /dev/pts and /dev/mqueue in the capsule");
	case STAGE_TIME:
		return err_set(
			err, ERR_UNSUPPORTED,
			"cannot set the capsule's clocks: %s: this kernel lacks time namespaces "
			"(Linux 5.6)",
			strerror(reply->error));
	case STAGE_SESSION:
		return err_code(err, reply->error, "cannot give the capsule its terminal");
	default:
		return err_code(err, reply->error, "cannot set up the capsule");
	}
}

static int recv_reply(int fd, struct init_reply *ret, int *ret_fd);

static int await_ready(struct capsule *c, struct err *err)
{
	struct init_reply reply;

	if (recv_reply(c->requests, &reply, NULL) < 0)
		return err_sys(err, "the capsule's init ended before it was ready");
	if (reply.error != 0)
		return setup_failed(&reply, err);
	return 0;
}

static int start_init(struct capsule *c, const struct capsule_config *config, struct sockets *s,
		      struct err *err)
{
	cleanup_free int *keep = NULL;
	struct init_plan plan = {
		.config = config,
		.uid = geteuid(),
		.gid = getegid(),
		.requests = s->requests[1],
		.events = s->events[1],
		.stub_socket = s->stub_number,
	};

	keep = list_kept(config, s, &plan.n_keep);
	if (!keep)
		return err_sys(err, "cannot make a capsule");
	plan.keep = keep;
	plan.plain = c->plain;
	c->init = c->plain ? clone_init(0, &c->init_fd)
			   : clone_with_namespaces(&plan, config->plain_root, &c->init_fd);
	if (c->init == 0)
		init_main(&plan);
	if (c->init < 0)
		return clone_failed(errno, err);
	c->root.pid = c->init;
	c->user_namespace = plan.user_namespace;
	c->requests = steal_fd(&s->requests[0]);
	c->events = steal_fd(&s->events[0]);
	c->stub_host = steal_fd(&s->stub[0]);
	c->stub_number = s->stub_number;
	return 0;
}

static int create(struct capsule **ret, const struct capsule_config *config, bool plain,
		  struct err *err)
{
	struct capsule *c = calloc(1, sizeof(*c));
	struct sockets sockets;

	if (!c)
		return err_sys(err, "cannot make a capsule");
	c->plain = plain;
	c->init_fd = c->requests = c->events = c->stub_host = c->claim = -1;
	pthread_mutex_init(&c->lock, NULL);
	if (make_sockets(&sockets, err) < 0) {
		capsule_destroy(c);
		return -1;
	}
	if (start_init(c, config, &sockets, err) < 0) {
		close_sockets(&sockets);
		c->init = 0;
		capsule_destroy(c);
		return -1;
	}
	close_sockets(&sockets);
	if (await_ready(c, err) < 0) {
		capsule_destroy(c);
		return -1;
	}
	*ret = c;
	return 0;
}

int capsule_create(struct capsule **ret, const struct capsule_config *config, struct err *err)
{
	struct err why;

	if (create(ret, config, false, &why) == 0)
		return 0;
	*err = why;
	if (why.kind != ERR_UNSUPPORTED)
		return -1;
	if (create(ret, config, true, err) < 0)
		return -1;
	log_warn("%s; without a capsule, only a job of a single process can be saved, it comes back under "
		 "another pid, and its clocks jump",
		 why.msg);
	return 0;
}

/* ---- the end ------------------------------------------------------------------------------- */

void capsule_kill(struct capsule *c)
{
	if (c->init <= 0)
		return;
	/* It ends the job's processes when nobody asks it for anything any more. */
	if (c->plain) {
		shutdown(c->requests, SHUT_RDWR);
		return;
	}
	syscall(SYS_pidfd_send_signal, c->init_fd, SIGKILL, NULL, 0);
}

/* The kernel ends pid 1 only after every other process of its namespace is gone. */
static void await_end(struct capsule *c)
{
	siginfo_t info;

	while (waitid(P_PIDFD, (id_t)c->init_fd, &info, WEXITED) < 0 && errno == EINTR)
		;
}

void capsule_destroy(struct capsule *c)
{
	if (!c)
		return;
	if (c->init > 0) {
		capsule_kill(c);
		await_end(c);
	}
	cleanup_fd_p(&c->init_fd);
	cleanup_fd_p(&c->requests);
	cleanup_fd_p(&c->events);
	cleanup_fd_p(&c->stub_host);
	cleanup_fd_p(&c->claim);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* ---- requests ------------------------------------------------------------------------------ */

static int recv_reply(int fd, struct init_reply *ret, int *ret_fd)
{
	char room[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {ret, sizeof(*ret)};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = room,
		.msg_controllen = sizeof(room),
	};
	struct cmsghdr *c;
	ssize_t n;

	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != (ssize_t)sizeof(*ret)) {
		errno = n < 0 ? errno : ESRCH;
		return -1;
	}
	c = CMSG_FIRSTHDR(&msg);
	if (ret_fd)
		*ret_fd = -1;
	if (c && ret_fd && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	return 0;
}

static int send_request(struct capsule *c, const struct init_request *message, struct init_reply *ret, int *ret_fd,
			struct err *err)
{
	int result;

	pthread_mutex_lock(&c->lock);
	result = send(c->requests, message, sizeof(*message), MSG_NOSIGNAL) < 0
			 ? -1
			 : recv_reply(c->requests, ret, ret_fd);
	if (result < 0)
		err_code(err, errno == EPIPE || errno == ECONNRESET ? ESRCH : errno,
			 "the capsule's init does not answer");
	pthread_mutex_unlock(&c->lock);
	return result;
}

static int request(struct capsule *c, enum init_op op, int arg, struct init_reply *ret, int *ret_fd,
		   struct err *err)
{
	const struct init_request message = {.op = op, .arg = arg};

	return send_request(c, &message, ret, ret_fd, err);
}

static int simple_request(struct capsule *c, enum init_op op, int arg, const char *what,
			  struct err *err)
{
	struct init_reply reply;

	if (request(c, op, arg, &reply, NULL, err) < 0)
		return -1;
	return reply.error ? err_code(err, reply.error, "%s", what) : 0;
}

/* "Pid:" in the fdinfo of a pidfd is the number in the namespace of the reader's /proc. */
static int pid_of_pidfd(int pidfd, pid_t *ret, struct err *err)
{
	cleanup_free char *text = NULL;
	char path[64];
	char *line;
	pid_t pid;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	if (read_text(AT_FDCWD, path, &text, NULL, err) < 0)
		return -1;
	line = strstr(text, "\nPid:");
	pid = line ? (pid_t)strtol(line + 5, NULL, 10) : 0;
	/* -1 where it is gone: kill(2) would take that for everybody. */
	if (pid <= 0)
		return err_set(err, ERR_GONE, "a process of the capsule ended at once");
	*ret = pid;
	return 0;
}

int capsule_launch(struct capsule *c, pid_t *ret_pid, pid_t *ret_vpid, int *ret_exec_errno,
		   struct err *err)
{
	cleanup_fd int pidfd = -1;
	struct init_reply reply;
	struct err gone;

	*ret_exec_errno = 0;
	if (request(c, INIT_LAUNCH, 0, &reply, &pidfd, err) < 0)
		return -1;
	if (reply.error && reply.stage == STAGE_EXEC) {
		*ret_exec_errno = reply.error;
		return err_code(err, reply.error, "cannot execute");
	}
	if (reply.error)
		return err_code(err, reply.error, "cannot start the job");
	/* It may have ended already: then there is no host pid to tell, and its end is reported. */
	if (pid_of_pidfd(pidfd, ret_pid, &gone) < 0)
		*ret_pid = 0;
	*ret_vpid = reply.pid;
	return 0;
}

int capsule_spawn(struct capsule *c, pid_t vpid, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	cleanup_fd int pidfd = -1;
	struct init_reply reply;

	if (request(c, INIT_SPAWN, c->plain ? 0 : vpid, &reply, &pidfd, err) < 0)
		return -1;
	if (reply.error)
		return err_code(err, reply.error, "cannot create process %d in the capsule", vpid);
	if (pid_of_pidfd(pidfd, ret_pid, err) < 0)
		return -1;
	*ret_pidfd = steal_fd(&pidfd);
	return 0;
}

int capsule_watch(struct capsule *c, pid_t vpid, struct err *err)
{
	return simple_request(c, INIT_WATCH, vpid, "cannot watch the job's leader", err);
}

int capsule_foreground(struct capsule *c, pid_t vpgrp, struct err *err)
{
	return simple_request(c, INIT_FOREGROUND, vpgrp,
			      "cannot set the terminal's foreground group", err);
}

int capsule_set_clocks(struct capsule *c, uint64_t monotonic, uint64_t boottime, struct err *err)
{
	const struct init_request message = {.op = INIT_CLOCKS, .monotonic = monotonic, .boottime = boottime};
	struct init_reply reply;

	if (send_request(c, &message, &reply, NULL, err) < 0)
		return -1;
	return reply.error ? err_code(err, reply.error, "cannot set the capsule's clocks") : 0;
}

int capsule_close_streams(struct capsule *c, struct err *err)
{
	return simple_request(c, INIT_CLOSE, 0, "cannot close the streams of the capsule's init",
			      err);
}

static int attached_event(struct capsule *c, struct capsule_event *ret)
{
	struct pollfd end = {.fd = c->events, .events = POLLIN};
	cleanup_free pid_t *pids = NULL;
	struct err ignored;
	size_t n = 0;

	if (poll(&end, 1, 0) <= 0)
		return 0;
	*ret = (struct capsule_event){.kind = CAPSULE_LEADER_EXITED};
	ret->unknown = !attached_exit_status(c, &ret->status);
	ret->left_behind = capsule_pids(c, &pids, &n, &ignored) == 0 && n > 1;
	c->gone = true;
	return 1;
}

int capsule_next_event(struct capsule *c, struct capsule_event *ret)
{
	struct init_event event;
	ssize_t n;

	if (c->root.attached)
		return attached_event(c, ret);
	n = recv(c->events, &event, sizeof(event), 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n != (ssize_t)sizeof(event)) {
		c->gone = true;
		*ret = (struct capsule_event){.kind = CAPSULE_GONE, .status = SIGKILL};
		return 1;
	}
	*ret = (struct capsule_event){
		.kind = event.kind, .status = event.status, .left_behind = event.left_behind != 0};
	return 1;
}

static int host_spawn(void *ctx, pid_t vpid, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	return capsule_spawn(ctx, vpid, ret_pid, ret_pidfd, err);
}

struct recovery_host capsule_recovery_host(struct capsule *c)
{
	return (struct recovery_host){
		.init = c->init,
		.ctx = c,
		.spawn = host_spawn,
		.socket = c->stub_host,
		.stub_socket = c->stub_number,
		.stream = {-1, -1, -1},
		.terminal = -1,
		.user_namespace = c->user_namespace,
		.new_ids = c->plain,
	};
}
