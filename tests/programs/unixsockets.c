/*
 * unixsockets.c: Unix sockets of all kinds, named, abstract and unnamed, listening with connections waiting,
 * with messages and descriptors in flight, half closed, abandoned: set up, saved, checked.
 * Variants: "" all in one process; children: ends in different processes.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define LARGE 150000

struct sockets {
	struct target target;
	int pair[2], half[2], packets[2], grams[2], lonely, broken;
	int listener, waiting, waiting_too, accepted, client, gone_client;
	int abstract, to_abstract, autobound;
	int receiver, one, two, connected[2], vanished;
	int flying[2], rights[2], credentials[2];
	int relative;
	int epoll, epoll_way[2];
};

static socklen_t name_address(struct sockaddr_un *a, const char *path, bool abstract)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	CHECK(strlen(path) + 2 < sizeof(a->sun_path));
	memcpy(a->sun_path + abstract, path, strlen(path));
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}

static socklen_t path_address(struct sockaddr_un *a, const struct sockets *s, const char *name)
{
	char *path = target_path(&s->target, name);
	socklen_t len = name_address(a, path, false);

	free(path);
	return len;
}

static int bound(const struct sockets *s, int type, const char *name)
{
	struct sockaddr_un a;
	socklen_t len = path_address(&a, s, name);
	int fd = socket(AF_UNIX, type, 0);

	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, len) == 0);
	return fd;
}

static int connected_to(const struct sockets *s, int fd, const char *name)
{
	struct sockaddr_un a;
	socklen_t len = path_address(&a, s, name);

	CHECK(connect(fd, (struct sockaddr *)&a, len) == 0);
	return fd;
}

static void expect(int fd, const char *text)
{
	char buf[256];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	CHECK_EQ(n, (ssize_t)strlen(text));
	CHECK(memcmp(buf, text, (size_t)n) == 0);
}

static void expect_nothing(int fd)
{
	char byte;

	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static void say(int fd, const char *text)
{
	CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void check_name(int fd, bool peer, const struct sockets *s, const char *name)
{
	struct sockaddr_un want, got = {0};
	socklen_t want_len = path_address(&want, s, name), len = sizeof(got);

	CHECK((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&got, &len) == 0);
	CHECK_EQ(len, want_len);
	CHECK(strcmp(want.sun_path, got.sun_path) == 0);
}

/* ---- pairs --------------------------------------------------------------------------------- */

static void set_up_pairs(struct sockets *s)
{
	static char large[LARGE];
	int pair[2], one = 1;
	struct linger linger = {1, 7};
	struct timeval timeout = {3, 500000};

	pattern_fill(large, sizeof(large), 7);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->pair) == 0);
	CHECK_EQ(send(s->pair[0], large, sizeof(large), 0), LARGE);
	say(s->pair[1], "to the first");
	CHECK(setsockopt(s->pair[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
	CHECK(setsockopt(s->pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0);
	CHECK(setsockopt(s->pair[1], SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s->half) == 0);
	say(s->half[0], "the last of it");
	CHECK(shutdown(s->half[0], SHUT_WR) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s->packets) == 0);
	say(s->packets[0], "first packet");
	CHECK_EQ(send(s->packets[0], "", 0, 0), 0);
	say(s->packets[0], "second");
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s->grams) == 0);
	say(s->grams[0], "gram one");
	say(s->grams[0], "gram two, longer");
	say(s->grams[1], "back");
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	say(pair[1], "last words");
	CHECK(close(pair[1]) == 0);
	s->lonely = pair[0];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	say(pair[0], "never read");
	CHECK(close(pair[1]) == 0);
	s->broken = pair[0];
}

static void check_pairs(struct sockets *s)
{
	static char large[LARGE];
	struct linger linger;
	struct timeval timeout;
	char byte;
	int value = 0, error = 0;
	socklen_t len = sizeof(linger);

	CHECK_EQ(recv(s->pair[1], large, sizeof(large), MSG_WAITALL), LARGE);
	CHECK(pattern_holds(large, LARGE, 7));
	expect_nothing(s->pair[1]);
	expect(s->pair[0], "to the first");
	CHECK(getsockopt(s->pair[0], SOL_SOCKET, SO_LINGER, &linger, &len) == 0);
	CHECK(linger.l_onoff == 1 && linger.l_linger == 7);
	len = sizeof(timeout);
	CHECK(getsockopt(s->pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, &len) == 0);
	CHECK(timeout.tv_sec == 3 && timeout.tv_usec == 500000);
	len = sizeof(value);
	CHECK(getsockopt(s->pair[1], SOL_SOCKET, SO_KEEPALIVE, &value, &len) == 0 && value == 1);
	CHECK(fcntl(s->pair[0], F_GETFD) & FD_CLOEXEC);
	expect(s->half[1], "the last of it");
	CHECK_EQ(recv(s->half[1], &byte, 1, 0), 0);
	CHECK(send(s->half[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	say(s->half[1], "still");
	expect(s->half[0], "still");
	expect(s->packets[1], "first packet");
	CHECK_EQ(recv(s->packets[1], &byte, 1, MSG_DONTWAIT), 0);
	expect(s->packets[1], "second");
	expect_nothing(s->packets[1]);
	expect(s->grams[1], "gram one");
	expect(s->grams[1], "gram two, longer");
	expect(s->grams[0], "back");
	CHECK(recv(s->grams[0], &byte, 1, 0) < 0 && errno == EAGAIN);
	expect(s->lonely, "last words");
	CHECK_EQ(recv(s->lonely, &byte, 1, 0), 0);
	len = sizeof(error);
	CHECK(getsockopt(s->broken, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
	CHECK_EQ(error, ECONNRESET);
	CHECK_EQ(recv(s->broken, &byte, 1, 0), 0);
}

/* ---- listening ----------------------------------------------------------------------------- */

static void set_up_listening(struct sockets *s)
{
	char *path = target_path(&s->target, "listener");
	int fd;

	s->listener = bound(s, SOCK_STREAM, "listener");
	CHECK(chmod(path, 0620) == 0);
	free(path);
	CHECK(listen(s->listener, 7) == 0);
	s->client = connected_to(s, socket(AF_UNIX, SOCK_STREAM, 0), "listener");
	s->accepted = accept(s->listener, NULL, NULL);
	CHECK(s->accepted >= 0);
	say(s->client, "question");
	say(s->accepted, "answer");
	fd = connected_to(s, socket(AF_UNIX, SOCK_STREAM, 0), "listener");
	s->gone_client = accept(s->listener, NULL, NULL);
	say(fd, "and gone");
	CHECK(close(fd) == 0);
	s->waiting = connected_to(s, bound(s, SOCK_STREAM, "waiting"), "listener");
	s->waiting_too = connected_to(s, socket(AF_UNIX, SOCK_STREAM, 0), "listener");
	CHECK(fcntl(s->waiting_too, F_SETFL, O_NONBLOCK) == 0);
}

static void check_listening(struct sockets *s)
{
	char *path = target_path(&s->target, "listener");
	struct sockaddr_un from = {0};
	socklen_t len = sizeof(from);
	struct ucred peer;
	struct stat st;
	char byte;
	int fd;

	CHECK(lstat(path, &st) == 0 && S_ISSOCK(st.st_mode));
	CHECK_EQ(st.st_mode & 0777, 0620);
	free(path);
	check_name(s->listener, false, s, "listener");
	check_name(s->accepted, false, s, "listener");
	check_name(s->client, true, s, "listener");
	check_name(s->waiting, false, s, "waiting");
	expect(s->accepted, "question");
	expect(s->client, "answer");
	expect(s->gone_client, "and gone");
	CHECK_EQ(recv(s->gone_client, &byte, 1, 0), 0);
	fd = accept(s->listener, (struct sockaddr *)&from, &len);
	CHECK(fd >= 0);
	check_name(fd, true, s, "waiting");
	say(s->waiting, "after all");
	expect(fd, "after all");
	len = sizeof(peer);
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0);
	CHECK_EQ(peer.pid, getpid());
	CHECK_EQ(peer.uid, geteuid());
	fd = accept(s->listener, NULL, NULL);
	say(fd, "second");
	expect(s->waiting_too, "second");
	CHECK(recv(s->waiting_too, &byte, 1, 0) < 0 && errno == EAGAIN);
	fd = connected_to(s, socket(AF_UNIX, SOCK_STREAM, 0), "listener");
	CHECK(accept(s->listener, NULL, NULL) >= 0);
	CHECK(fcntl(s->listener, F_SETFL, O_NONBLOCK) == 0);
	CHECK(accept(s->listener, NULL, NULL) < 0 && errno == EAGAIN);
}

/* ---- abstract names and relative paths ----------------------------------------------------- */

static void abstract_address(const struct sockets *s, struct sockaddr_un *a, socklen_t *len)
{
	char name[64];

	snprintf(name, sizeof(name), "pawl-test-%d-%ld", (int)getpid(), (long)(uintptr_t)s);
	*len = name_address(a, name, true);
}

static void set_up_names(struct sockets *s)
{
	struct sockaddr_un a;
	socklen_t len;

	abstract_address(s, &a, &len);
	s->abstract = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	CHECK(bind(s->abstract, (struct sockaddr *)&a, len) == 0 && listen(s->abstract, 1) == 0);
	s->to_abstract = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	CHECK(connect(s->to_abstract, (struct sockaddr *)&a, len) == 0);
	s->autobound = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(bind(s->autobound, (struct sockaddr *)&a, sizeof(sa_family_t)) == 0);
	CHECK(chdir(s->target.dir) == 0);
	len = name_address(&a, "relative.sock", false);
	s->relative = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(bind(s->relative, (struct sockaddr *)&a, len) == 0);
}

static void check_names(struct sockets *s)
{
	struct sockaddr_un a, got = {0};
	socklen_t len, got_len = sizeof(got);
	int fd;

	abstract_address(s, &a, &len);
	CHECK(getsockname(s->abstract, (struct sockaddr *)&got, &got_len) == 0);
	CHECK(got_len == len && memcmp(&got, &a, len) == 0);
	fd = accept(s->abstract, NULL, NULL);
	CHECK(fd >= 0);
	say(s->to_abstract, "hello");
	expect(fd, "hello");
	got_len = sizeof(got);
	CHECK(getsockname(s->autobound, (struct sockaddr *)&got, &got_len) == 0);
	CHECK_EQ(got_len, sizeof(sa_family_t) + 6);
	CHECK_EQ(sendto(s->relative, "x", 1, 0, (struct sockaddr *)&got, got_len), 1);
	expect(s->autobound, "x");
	got_len = sizeof(got);
	CHECK(getsockname(s->relative, (struct sockaddr *)&got, &got_len) == 0);
	CHECK(strcmp(got.sun_path, "relative.sock") == 0);
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	len = name_address(&a, "relative.sock", false);
	CHECK_EQ(sendto(fd, "near", 4, 0, (struct sockaddr *)&a, len), 4);
	expect(s->relative, "near");
}

/* ---- datagrams ----------------------------------------------------------------------------- */

static void send_to(const struct sockets *s, int fd, const char *name, const char *text)
{
	struct sockaddr_un a;
	socklen_t len = path_address(&a, s, name);

	CHECK_EQ(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, len), (ssize_t)strlen(text));
}

static void expect_from(const struct sockets *s, int fd, const char *text, const char *name)
{
	struct sockaddr_un want, got = {0};
	socklen_t want_len = name ? path_address(&want, s, name) : 0, len = sizeof(got);
	char buf[256];
	ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&got, &len);

	CHECK_EQ(n, (ssize_t)strlen(text));
	CHECK(memcmp(buf, text, (size_t)n) == 0);
	CHECK_EQ(len, want_len);
	CHECK(!name || strcmp(got.sun_path, want.sun_path) == 0);
}

static void set_up_datagrams(struct sockets *s)
{
	char *path = target_path(&s->target, "vanished");
	int fd;

	s->receiver = bound(s, SOCK_DGRAM, "receiver");
	s->one = bound(s, SOCK_DGRAM, "one");
	s->two = connected_to(s, bound(s, SOCK_DGRAM, "two"), "receiver");
	send_to(s, s->one, "receiver", "from one");
	say(s->two, "from two");
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	send_to(s, fd, "receiver", "from nobody");
	CHECK(close(fd) == 0);
	send_to(s, s->one, "receiver", "one again");
	s->connected[0] = bound(s, SOCK_DGRAM, "left");
	s->connected[1] = bound(s, SOCK_DGRAM, "right");
	connected_to(s, s->connected[0], "right");
	connected_to(s, s->connected[1], "left");
	say(s->connected[0], "to the right");
	say(s->connected[1], "to the left");
	s->vanished = bound(s, SOCK_DGRAM, "vanished");
	CHECK(unlink(path) == 0);
	free(path);
}

static void check_datagrams(struct sockets *s)
{
	char *path = target_path(&s->target, "vanished");

	expect_from(s, s->receiver, "from one", "one");
	expect_from(s, s->receiver, "from two", "two");
	expect_from(s, s->receiver, "from nobody", NULL);
	expect_from(s, s->receiver, "one again", "one");
	expect_nothing(s->receiver);
	check_name(s->two, true, s, "receiver");
	say(s->two, "more");
	expect_from(s, s->receiver, "more", "two");
	send_to(s, s->receiver, "one", "reply");
	expect_from(s, s->one, "reply", "receiver");
	expect_from(s, s->connected[1], "to the right", "left");
	expect_from(s, s->connected[0], "to the left", "right");
	say(s->connected[1], "again");
	expect(s->connected[0], "again");
	check_name(s->vanished, false, s, "vanished");
	CHECK(access(path, F_OK) < 0 && errno == ENOENT);
	free(path);
}

/* ---- descriptors and credentials in flight ------------------------------------------------- */

static void send_rights(int fd, const char *text, const int *fds, size_t n)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int) * 4)];
	} control = {0};
	struct iovec iov = {(char *)text, strlen(text)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			     .msg_controllen = CMSG_SPACE(sizeof(int) * n)};

	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int) * n);
	memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * n);
	CHECK_EQ(sendmsg(fd, &msg, 0), (ssize_t)strlen(text));
}

static size_t receive_rights(int fd, const char *text, int *fds, struct ucred *sender)
{
	char buf[64];
	_Alignas(16) char control[256];
	struct iovec iov = {buf, strlen(text)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			     .msg_controllen = sizeof(control)};
	size_t n = 0;

	CHECK_EQ(recvmsg(fd, &msg, MSG_DONTWAIT), (ssize_t)strlen(text));
	CHECK(memcmp(buf, text, strlen(text)) == 0);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_type == SCM_RIGHTS) {
			n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		} else if (c->cmsg_type == SCM_CREDENTIALS && sender) {
			memcpy(sender, CMSG_DATA(c), sizeof(*sender));
		}
	}
	return n;
}

static void set_up_flying(struct sockets *s)
{
	char *path = target_path(&s->target, "flying.txt");
	int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), pipe_ends[2], inner[2], one = 1;
	int fds[3];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s->flying) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s->rights) == 0);
	CHECK(write(file, "0123456789", 10) == 10 && lseek(file, 4, SEEK_SET) == 4);
	CHECK(pipe(pipe_ends) == 0 && write(pipe_ends[1], "in the pipe", 11) == 11);
	say(s->flying[0], "plain ");
	fds[0] = file;
	fds[1] = pipe_ends[0];
	send_rights(s->flying[0], "two", fds, 2);
	say(s->flying[0], " more");
	CHECK(close(file) == 0 && close(pipe_ends[0]) == 0 && close(pipe_ends[1]) == 0);
	/* A socket in flight that has one in flight itself, and one that somebody has, too. */
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, inner) == 0);
	send_rights(inner[0], "inner", &s->receiver, 1);
	send_rights(s->rights[0], "sockets", inner, 2);
	CHECK(close(inner[0]) == 0 && close(inner[1]) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s->credentials) == 0);
	CHECK(setsockopt(s->credentials[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) == 0);
	say(s->credentials[0], "who am I");
	free(path);
}

static void check_flying(struct sockets *s)
{
	struct ucred sender = {0};
	int fds[4], inner[4];
	char buf[32];

	expect_nothing(s->flying[0]);
	CHECK_EQ(receive_rights(s->flying[1], "plain ", fds, NULL), 0);
	CHECK_EQ(receive_rights(s->flying[1], "two", fds, NULL), 2);
	expect(s->flying[1], " more");
	CHECK_EQ(lseek(fds[0], 0, SEEK_CUR), 4);
	CHECK(read(fds[0], buf, 6) == 6 && memcmp(buf, "456789", 6) == 0);
	CHECK(read(fds[1], buf, 11) == 11 && memcmp(buf, "in the pipe", 11) == 0);
	CHECK_EQ(read(fds[1], buf, 1), 0);
	CHECK_EQ(receive_rights(s->rights[1], "sockets", fds, NULL), 2);
	CHECK_EQ(receive_rights(fds[1], "inner", inner, NULL), 1);
	send_to(s, s->one, "receiver", "the same");
	expect(inner[0], "the same");
	say(fds[0], "works");
	expect(fds[1], "works");
	CHECK_EQ(receive_rights(s->credentials[1], "who am I", fds, &sender), 0);
	CHECK_EQ(sender.pid, getpid());
	CHECK_EQ(sender.uid, geteuid());
	CHECK_EQ(sender.gid, getegid());
}

/* An epoll instance that nobody has: it watches what somebody has, and what is in flight itself. */
static void set_up_flying_epoll(struct sockets *s)
{
	int pipe_ends[2], fds[2] = {epoll_create1(0), -1};
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 100};

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s->epoll_way) == 0 && pipe(pipe_ends) == 0 && fds[0] >= 0);
	CHECK(epoll_ctl(fds[0], EPOLL_CTL_ADD, s->epoll_way[0], &event) == 0);
	fds[1] = pipe_ends[0];
	event.data.u64 = 101;
	CHECK(epoll_ctl(fds[0], EPOLL_CTL_ADD, fds[1], &event) == 0);
	CHECK_EQ(write(pipe_ends[1], "p", 1), 1);
	send_rights(s->epoll_way[0], "watching", fds, 2);
	CHECK(close(fds[0]) == 0 && close(fds[1]) == 0 && close(pipe_ends[1]) == 0);
}

static void check_flying_epoll(struct sockets *s)
{
	struct epoll_event events[4];
	int fds[2];

	CHECK_EQ(receive_rights(s->epoll_way[1], "watching", fds, NULL), 2);
	CHECK_EQ(epoll_wait(fds[0], events, 4, 0), 1);
	CHECK_EQ(events[0].data.u64, 101);
	CHECK(write(s->epoll_way[1], "x", 1) == 1);
	CHECK_EQ(epoll_wait(fds[0], events, 4, 0), 2);
}

/* ---- epoll --------------------------------------------------------------------------------- */

static void watch(struct sockets *s, int fd, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.fd = fd};

	CHECK(epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) == 0);
}

static void set_up_epoll(struct sockets *s)
{
	s->epoll = epoll_create1(0);
	watch(s, s->listener, EPOLLIN);
	watch(s, s->pair[0], EPOLLIN | EPOLLET);
	watch(s, s->receiver, EPOLLIN);
	watch(s, s->half[0], EPOLLIN);
}

static void check_epoll(struct sockets *s)
{
	struct epoll_event got[8];
	int n = epoll_wait(s->epoll, got, 8, 0), seen = 0;

	CHECK_EQ(n, 3);
	for (int i = 0; i < n; i++)
		seen |= got[i].data.fd == s->listener   ? 1
			: got[i].data.fd == s->pair[0]  ? 2
			: got[i].data.fd == s->receiver ? 4
							: 8;
	CHECK_EQ(seen, 7);
}

static int all_in_one(struct sockets *s)
{
	set_up_pairs(s);
	set_up_listening(s);
	set_up_names(s);
	set_up_datagrams(s);
	set_up_flying(s);
	set_up_flying_epoll(s);
	set_up_epoll(s);
	target_ready(&s->target);
	target_wait(&s->target);
	check_epoll(s);
	check_pairs(s);
	check_listening(s);
	check_names(s);
	check_datagrams(s);
	check_flying(s);
	check_flying_epoll(s);
	return target_pass(&s->target);
}

/* ---- several processes --------------------------------------------------------------------- */

static pid_t peer_pid(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0);
	return peer.pid;
}

/* Connects, is blocked in recv over the snapshots, answers. */
static void child_main(const struct sockets *s, int inherited)
{
	int fd = connected_to(s, socket(AF_UNIX, SOCK_STREAM, 0), "listener");
	char buf[64];
	ssize_t n;

	n = recv(fd, buf, sizeof(buf), 0);
	CHECK_EQ(n, 4);
	CHECK_EQ(peer_pid(fd), getppid());
	CHECK_EQ(peer_pid(inherited), getppid());
	CHECK_EQ(send(fd, buf, 4, 0), 4);
	/* Whichever child is first takes a packet. */
	while ((n = recv(inherited, buf, sizeof(buf), 0)) > 0)
		CHECK_EQ(n, 6);
	CHECK_EQ(n, 0);
	exit(0);
}

/* One that has connected, and has ended: a zombie over the snapshots. *ret_fd: its connection, where its words wait. */
static pid_t departed(const struct sockets *s, int *ret_fd)
{
	const int on = 1;
	siginfo_t info;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		say(connected_to(s, socket(AF_UNIX, SOCK_STREAM, 0), "listener"), "farewell");
		_exit(0);
	}
	*ret_fd = accept(s->listener, NULL, NULL);
	CHECK(*ret_fd >= 0);
	CHECK(setsockopt(*ret_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0);
	CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
	return pid;
}

static void check_departed(pid_t pid, int fd)
{
	struct ucred sender;
	int status, none[4];
	char byte;

	CHECK_EQ(receive_rights(fd, "farewell", none, &sender), 0);
	CHECK_EQ(sender.pid, pid);
	CHECK_EQ(recv(fd, &byte, 1, 0), 0);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static int in_children(struct sockets *s)
{
	int pair[2], fds[3], status, farewell;
	pid_t pids[3], gone;

	s->listener = bound(s, SOCK_STREAM, "listener");
	CHECK(listen(s->listener, 8) == 0);
	gone = departed(s, &farewell);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	for (int i = 0; i < 3; i++) {
		pids[i] = fork();
		CHECK(pids[i] >= 0);
		if (pids[i] == 0) {
			close(pair[0]);
			child_main(s, pair[1]);
		}
	}
	CHECK(close(pair[1]) == 0);
	for (int i = 0; i < 2; i++)
		fds[i] = accept(s->listener, NULL, NULL);
	/* The third stays in the queue. */
	target_ready(&s->target);
	target_wait(&s->target);
	check_departed(gone, farewell);
	fds[2] = accept(s->listener, NULL, NULL);
	for (int i = 0; i < 3; i++) {
		pid_t from = peer_pid(fds[i]);

		CHECK(from == pids[0] || from == pids[1] || from == pids[2]);
		CHECK_EQ(send(fds[i], &from, 4, 0), 4);
		CHECK_EQ(recv(fds[i], &status, 4, MSG_WAITALL), 4);
		CHECK_EQ(status, from);
		say(pair[0], "packet");
	}
	CHECK(close(pair[0]) == 0);
	for (int i = 0; i < 3; i++)
		CHECK(waitpid(pids[i], &status, 0) == pids[i] && status == 0);
	return target_pass(&s->target);
}

int main(int argc, char **argv)
{
	struct sockets s = {0};

	target_start(&s.target, argc, argv);
	if (strcmp(s.target.variant, "children") == 0)
		return in_children(&s);
	return all_in_one(&s);
}
