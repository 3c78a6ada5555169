/*
 * inetsockets.c: TCP and UDP over the loopback, IPv4 and IPv6: listening, connected with more under way in
 * both directions than is read, half closed, ended, reset, waiting to be accepted; datagrams unread.
 * Variant talk: clients and a server in processes of their own that never stop exchanging.
 */
#include "target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct end {
	int fd;
	struct sockaddr_storage local, remote;
};

struct sockets {
	struct target target;
	int listener, listener6;
	uint16_t port, port6;
	struct end client, server;         /* full both ways */
	long client_sent, server_sent;
	struct end half_client, half_server;
	struct end six_client, six_server, mapped_client, mapped_server;
	int closed, finished, was_reset;
	struct end waiting, early;
	int udp, udp_connected, udp_lonely, udp6;
	int epoll, unbound;
};

static void take_names(struct end *e)
{
	socklen_t len = sizeof(e->local);

	CHECK(getsockname(e->fd, (struct sockaddr *)&e->local, &len) == 0);
	len = sizeof(e->remote);
	CHECK(getpeername(e->fd, (struct sockaddr *)&e->remote, &len) == 0);
}

static void check_names(const struct end *e)
{
	struct end now = {.fd = e->fd};

	take_names(&now);
	CHECK(memcmp(&now.local, &e->local, sizeof(now.local)) == 0);
	CHECK(memcmp(&now.remote, &e->remote, sizeof(now.remote)) == 0);
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in6 a = {0};
	socklen_t len = sizeof(a);

	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	return ntohs(a.sin6_port); /* at the same place in both kinds */
}

static int listening(int family, uint16_t *ret_port)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(family, SOCK_STREAM, 0), result = -1;

	CHECK(fd >= 0);
	/* Below the ports that the kernel gives to others' connections (net.ipv4.ip_local_port_range). */
	for (uint64_t i = 0; i < 100 && result < 0; i++) {
		uint64_t port = 10000 + mix64((uint64_t)now_ns(CLOCK_REALTIME) + i) % 20000;

		four.sin_port = six.sin6_port = htons((uint16_t)port);
		result = family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof(four))
					   : bind(fd, (struct sockaddr *)&six, sizeof(six));
	}
	CHECK(result == 0);
	CHECK(listen(fd, 5) == 0);
	*ret_port = port_of(fd);
	return fd;
}

static int connected(int family, uint16_t port)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT,
				   .sin6_port = htons(port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				   .sin_port = htons(port)};
	int fd = socket(family, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	CHECK((family == AF_INET ? connect(fd, (struct sockaddr *)&four, sizeof(four))
				 : connect(fd, (struct sockaddr *)&six, sizeof(six))) == 0);
	return fd;
}

static void make_pair(int family, int listener, uint16_t port, struct end *client, struct end *server)
{
	client->fd = connected(family, port);
	server->fd = accept(listener, NULL, NULL);
	CHECK(server->fd >= 0);
	take_names(client);
	take_names(server);
}

static void say(int fd, const char *text)
{
	CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* What a socket sends arrives in time, not at once. */
static void expect(int fd, const char *text)
{
	char buf[256];

	CHECK_EQ(recv(fd, buf, strlen(text), MSG_WAITALL), (ssize_t)strlen(text));
	CHECK(memcmp(buf, text, strlen(text)) == 0);
}

/* ---- queues filled to the brim ------------------------------------------------------------- */

static long fill(int fd, uint64_t seed)
{
	uint64_t block[1024];
	long words = 0;
	size_t partial = 0;

	for (int idle = 0; idle < 20;) {
		ssize_t n;

		for (size_t i = 0; i < 1024; i++)
			block[i] = mix64(seed + (uint64_t)words + i);
		n = send(fd, (char *)block + partial, sizeof(block) - partial, MSG_DONTWAIT);
		if (n < 0) {
			CHECK_EQ(errno, EAGAIN);
			idle++;
			sleep_ms(5);
			continue;
		}
		partial += (size_t)n;
		words += (long)(partial / 8);
		partial %= 8;
	}
	return words * 8 + (long)partial;
}

static void drain(int fd, uint64_t seed, long bytes)
{
	uint64_t word = 0;
	long at = 0;
	char block[8192];

	while (at < bytes) {
		long want = bytes - at < (long)sizeof(block) ? bytes - at : (long)sizeof(block);
		ssize_t n = recv(fd, block, (size_t)want, 0);

		CHECK(n > 0);
		for (ssize_t i = 0; i < n; i++, at++) {
			if (at % 8 == 0)
				word = mix64(seed + (uint64_t)at / 8);
			CHECK_EQ((unsigned char)block[i], (unsigned char)(word >> (at % 8 * 8)));
		}
	}
}

/* ---- TCP ----------------------------------------------------------------------------------- */

static void set_up_options(struct sockets *s)
{
	int one = 1, idle = 77, tos = 0x10, size = 300000, timeout = 12345;

	CHECK(setsockopt(s->client.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
	CHECK(setsockopt(s->client.fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) == 0);
	CHECK(setsockopt(s->client.fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle)) == 0);
	CHECK(setsockopt(s->server.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout)) == 0);
	CHECK(setsockopt(s->server.fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos)) == 0);
	CHECK(setsockopt(s->half_server.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	CHECK(getsockopt(fd, level, name, &value, &len) == 0);
	return value;
}

static void check_options(struct sockets *s)
{
	CHECK_EQ(option(s->client.fd, IPPROTO_TCP, TCP_NODELAY), 1);
	CHECK_EQ(option(s->server.fd, IPPROTO_TCP, TCP_NODELAY), 0);
	CHECK_EQ(option(s->client.fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	CHECK_EQ(option(s->client.fd, IPPROTO_TCP, TCP_KEEPIDLE), 77);
	CHECK_EQ(option(s->server.fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
	CHECK_EQ(option(s->server.fd, IPPROTO_IP, IP_TOS), 0x10);
	CHECK_EQ(option(s->half_server.fd, SOL_SOCKET, SO_SNDBUF), 600000);
	CHECK_EQ(option(s->listener6, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	CHECK_EQ(option(s->listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
	CHECK_EQ(option(s->client.fd, SOL_SOCKET, SO_RCVLOWAT), 1);
}

static void set_up_tcp(struct sockets *s)
{
	struct end a, b;
	struct linger at_once = {.l_onoff = 1};

	s->listener = listening(AF_INET, &s->port);
	s->listener6 = listening(AF_INET6, &s->port6);
	make_pair(AF_INET, s->listener, s->port, &s->client, &s->server);
	make_pair(AF_INET, s->listener, s->port, &s->half_client, &s->half_server);
	make_pair(AF_INET6, s->listener6, s->port6, &s->six_client, &s->six_server);
	make_pair(AF_INET, s->listener6, s->port6, &s->mapped_client, &s->mapped_server);
	set_up_options(s);
	s->client_sent = fill(s->client.fd, 1000);
	s->server_sent = fill(s->server.fd, 5000000);
	say(s->half_client.fd, "the last of it");
	CHECK(shutdown(s->half_client.fd, SHUT_WR) == 0);
	say(s->half_server.fd, "still talking");
	say(s->six_client.fd, "six");
	say(s->mapped_server.fd, "mapped");
	make_pair(AF_INET, s->listener, s->port, &a, &b);
	say(a.fd, "closed after this");
	CHECK(close(a.fd) == 0);
	s->closed = b.fd;
	make_pair(AF_INET, s->listener, s->port, &a, &b);
	say(a.fd, "over");
	CHECK(shutdown(a.fd, SHUT_WR) == 0 && shutdown(b.fd, SHUT_WR) == 0 && close(a.fd) == 0);
	s->finished = b.fd;
	make_pair(AF_INET, s->listener, s->port, &a, &b);
	CHECK(setsockopt(a.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
	CHECK(close(a.fd) == 0);
	s->was_reset = b.fd;
	s->waiting.fd = connected(AF_INET, s->port);
	take_names(&s->waiting);
	s->early.fd = connected(AF_INET, s->port);
	take_names(&s->early);
	say(s->early.fd, "sent early");
	s->unbound = socket(AF_INET6, SOCK_STREAM, 0);
}

static void check_tcp(struct sockets *s)
{
	struct sockaddr_in from = {0};
	socklen_t len = sizeof(from);
	char byte;
	int fd;

	check_names(&s->client);
	check_names(&s->server);
	check_names(&s->half_client);
	check_names(&s->six_client);
	check_names(&s->six_server);
	check_names(&s->mapped_client);
	check_names(&s->mapped_server);
	check_options(s);
	drain(s->server.fd, 1000, s->client_sent);
	drain(s->client.fd, 5000000, s->server_sent);
	say(s->client.fd, "empty now");
	expect(s->server.fd, "empty now");
	expect(s->half_server.fd, "the last of it");
	CHECK_EQ(recv(s->half_server.fd, &byte, 1, 0), 0);
	expect(s->half_client.fd, "still talking");
	say(s->half_server.fd, "and on");
	expect(s->half_client.fd, "and on");
	CHECK(send(s->half_client.fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	expect(s->six_server.fd, "six");
	expect(s->mapped_client.fd, "mapped");
	expect(s->closed, "closed after this");
	CHECK_EQ(recv(s->closed, &byte, 1, 0), 0);
	expect(s->finished, "over");
	CHECK_EQ(recv(s->finished, &byte, 1, 0), 0);
	CHECK(recv(s->was_reset, &byte, 1, 0) < 0 && errno == ECONNRESET);
	fd = accept(s->listener, (struct sockaddr *)&from, &len);
	CHECK(fd >= 0);
	CHECK_EQ(ntohs(from.sin_port), port_of(s->waiting.fd));
	check_names(&s->waiting);
	say(s->waiting.fd, "at last");
	expect(fd, "at last");
	fd = accept(s->listener, NULL, NULL);
	expect(fd, "sent early");
	check_names(&s->early);
	say(fd, "late answer");
	expect(s->early.fd, "late answer");
	fd = connected(AF_INET6, s->port6);
	say(fd, "new");
	expect(accept(s->listener6, NULL, NULL), "new");
	CHECK(recv(s->unbound, &byte, 1, 0) < 0 && errno == ENOTCONN);
}

/* ---- UDP ----------------------------------------------------------------------------------- */

static int udp(int family)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(family, SOCK_DGRAM, 0);

	CHECK(fd >= 0);
	CHECK((family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof(four))
				 : bind(fd, (struct sockaddr *)&six, sizeof(six))) == 0);
	return fd;
}

static void udp_connect(int fd, int to)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	CHECK(getsockname(to, (struct sockaddr *)&a, &len) == 0);
	CHECK(connect(fd, (struct sockaddr *)&a, len) == 0);
}

static void expect_from(int fd, const char *text, uint16_t port)
{
	struct sockaddr_in6 from = {0};
	socklen_t len = sizeof(from);
	char buf[64];
	ssize_t n = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from, &len);

	CHECK_EQ(n, (ssize_t)strlen(text));
	CHECK(memcmp(buf, text, (size_t)n) == 0);
	CHECK(!port || ntohs(from.sin6_port) == port);
}

static void set_up_udp(struct sockets *s)
{
	int gone;

	s->udp = udp(AF_INET);
	s->udp_connected = udp(AF_INET);
	udp_connect(s->udp_connected, s->udp);
	say(s->udp_connected, "one");
	say(s->udp_connected, "number two");
	gone = udp(AF_INET);
	udp_connect(gone, s->udp);
	say(gone, "from one that is gone");
	CHECK(close(gone) == 0);
	s->udp6 = udp(AF_INET6);
	gone = socket(AF_INET6, SOCK_DGRAM, 0);
	udp_connect(gone, s->udp6);
	say(gone, "six");
	s->udp_lonely = gone;
}

static void check_udp(struct sockets *s)
{
	expect_from(s->udp, "one", port_of(s->udp_connected));
	expect_from(s->udp, "number two", port_of(s->udp_connected));
	expect_from(s->udp, "from one that is gone", 0);
	expect_from(s->udp6, "six", port_of(s->udp_lonely));
	say(s->udp_connected, "more");
	expect_from(s->udp, "more", port_of(s->udp_connected));
	say(s->udp_lonely, "more");
	expect_from(s->udp6, "more", port_of(s->udp_lonely));
}

/* ---- all of it ----------------------------------------------------------------------------- */

static void set_up_epoll(struct sockets *s)
{
	const int fds[] = {s->listener, s->server.fd, s->udp, s->half_client.fd, s->mapped_server.fd};

	s->epoll = epoll_create1(0);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		struct epoll_event e = {.events = EPOLLIN | (i & 1 ? EPOLLET : 0), .data.fd = fds[i]};

		CHECK(epoll_ctl(s->epoll, EPOLL_CTL_ADD, fds[i], &e) == 0);
	}
}

static void check_epoll(struct sockets *s)
{
	struct epoll_event got[8];

	CHECK_EQ(epoll_wait(s->epoll, got, 8, 1000), 4);
	for (int i = 0; i < 4; i++)
		CHECK(got[i].data.fd != s->mapped_server.fd);
}

static int all_in_one(struct sockets *s)
{
	set_up_tcp(s);
	set_up_udp(s);
	set_up_epoll(s);
	target_ready(&s->target);
	target_wait(&s->target);
	check_epoll(s);
	check_udp(s);
	check_tcp(s);
	return target_pass(&s->target);
}

/* ---- exchanging all the time --------------------------------------------------------------- */

#define CLIENTS 3

/* Sends numbered blocks, and expects each back. Up to WINDOW of them are on their way; then it rests: where
 * a dozen such pairs never sleep, Linux 6.18 has been seen to run nothing else on two CPUs for minutes
 * ("rcu_preempt kthread starved"). */
#define WINDOW	64
#define REST_MS 2
static void client(const struct target *t, int fd, uint64_t seed)
{
	uint64_t sent = 0, back = 0, block[256], got[256];

	while (!target_told(t) || back < sent) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (sent - back < WINDOW && !target_told(t)) {
			for (size_t i = 0; i < 256; i++)
				block[i] = mix64(seed + sent * 256 + i);
			CHECK_EQ(send(fd, block, sizeof(block), 0), (ssize_t)sizeof(block));
			sent++;
		}
		if (sent - back == WINDOW)
			sleep_ms(REST_MS);
		CHECK(poll(&p, 1, sent - back == WINDOW ? -1 : 0) >= 0);
		if (!(p.revents & POLLIN))
			continue;
		CHECK_EQ(recv(fd, got, sizeof(got), MSG_WAITALL), (ssize_t)sizeof(got));
		for (size_t i = 0; i < 256; i++)
			CHECK_EQ(got[i], mix64(seed + back * 256 + i));
		back++;
	}
	exit(back > 0 ? 0 : 1);
}

static void echo(int fd)
{
	char buf[3000];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		for (ssize_t at = 0, sent; at < n; at += sent) {
			sent = send(fd, buf + at, (size_t)(n - at), MSG_NOSIGNAL);
			CHECK(sent > 0);
		}
	exit(n == 0 ? 0 : 1);
}

static pid_t start(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	return pid;
}

static int talk(struct sockets *s)
{
	int status;

	s->listener = listening(AF_INET, &s->port);
	for (int i = 0; i < CLIENTS; i++) {
		int fd;

		if (start() == 0)
			client(&s->target, connected(AF_INET, s->port), (uint64_t)i << 40);
		fd = accept(s->listener, NULL, NULL);
		if (start() == 0)
			echo(fd);
		CHECK(close(fd) == 0);
	}
	target_ready(&s->target);
	for (int i = 0; i < 2 * CLIENTS; i++)
		CHECK(wait(&status) > 0 && status == 0);
	return target_pass(&s->target);
}

int main(int argc, char **argv)
{
	struct sockets s = {0};

	target_start(&s.target, argc, argv);
	return strcmp(s.target.variant, "talk") == 0 ? talk(&s) : all_in_one(&s);
}
