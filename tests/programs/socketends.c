/*
 * socketends.c: Internet sockets at the edges of their life, and with what was allowed when they were bound only:
 * one end or both ended with more under way than has room; both over; a port shared, an address that the machine
 * does not have, by options taken back since; bound to an interface; UDP-Lite; options;
 * a connection that the listening side puts off.
 */
#include "target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDPLITE_SEND_CSCOV
#define UDPLITE_SEND_CSCOV 10
#endif

struct pair {
	int a, b;
	long a_sent, b_sent;
	struct sockaddr_in a_name, b_name;
};

struct ends {
	struct target target;
	struct pair half, both, over;
	struct sockaddr_in foreign_name;
	int with_option[16], netlink[2];
	uint32_t netlink_port;
	bool connected;
	int refused, deferring, early, deferred;
	int shared[2], shared_udp[2], foreign, at_device, lite[2];
};

static void set_int(int fd, int level, int name, int value)
{
	CHECK(setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

static int get_int(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	CHECK(getsockopt(fd, level, name, &value, &len) == 0);
	return value;
}

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static struct sockaddr_in name_of(int fd)
{
	struct sockaddr_in name = {0};
	socklen_t len = sizeof(name);

	CHECK(getsockname(fd, (struct sockaddr *)&name, &len) == 0);
	return name;
}

/* Below the ports that the kernel gives to others' connections (net.ipv4.ip_local_port_range). */
static void bind_somewhere(int fd)
{
	int result = -1;

	for (uint64_t i = 0; i < 100 && result < 0; i++) {
		uint64_t port = 10000 + mix64((uint64_t)now_ns(CLOCK_REALTIME) + i) % 20000;
		struct sockaddr_in at = loopback((uint16_t)port);

		result = bind(fd, (struct sockaddr *)&at, sizeof(at));
	}
	CHECK(result == 0);
}

/* ---- connections that end ------------------------------------------------------------------ */

static struct pair connect_pair(void)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct pair p = {.a = socket(AF_INET, SOCK_STREAM, 0)};

	CHECK(listener >= 0 && p.a >= 0);
	bind_somewhere(listener);
	p.b_name = name_of(listener);
	CHECK(listen(listener, 1) == 0);
	CHECK(connect(p.a, (struct sockaddr *)&p.b_name, sizeof(p.b_name)) == 0);
	p.a_name = name_of(p.a);
	p.b = accept(listener, NULL, NULL);
	CHECK(p.b >= 0);
	close(listener);
	return p;
}

static long fill(int fd, uint64_t seed)
{
	unsigned char block[4096];
	long sent = 0;

	for (int idle = 0; idle < 10;) {
		ssize_t n;

		for (size_t i = 0; i < sizeof(block); i++)
			block[i] = (unsigned char)((seed + (uint64_t)sent + i) % 251);
		n = send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0) {
			sent += n;
			continue;
		}
		CHECK_EQ(errno, EAGAIN);
		idle++;
		sleep_ms(2);
	}
	return sent;
}

static void drain(int fd, uint64_t seed, long bytes)
{
	unsigned char block[4096];
	long got = 0;

	for (;;) {
		ssize_t n = recv(fd, block, sizeof(block), 0);

		CHECK(n >= 0);
		if (n == 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			CHECK_EQ(block[i], (unsigned char)((seed + (uint64_t)got + (uint64_t)i) % 251));
		got += n;
	}
	CHECK_EQ(got, bytes);
}

static void set_up_connections(struct ends *e)
{
	e->half = connect_pair();
	e->half.a_sent = fill(e->half.a, 1);
	CHECK(shutdown(e->half.a, SHUT_WR) == 0);
	e->both = connect_pair();
	e->both.a_sent = fill(e->both.a, 2);
	e->both.b_sent = fill(e->both.b, 3);
	CHECK(shutdown(e->both.a, SHUT_WR) == 0 && shutdown(e->both.b, SHUT_WR) == 0);
	e->over = connect_pair();
	CHECK(send(e->over.a, "rest", 4, 0) == 4);
	CHECK(shutdown(e->over.a, SHUT_WR) == 0);
	sleep_ms(20);
	CHECK(shutdown(e->over.b, SHUT_WR) == 0);
	sleep_ms(20);
}

static void check_peer(int fd, const struct sockaddr_in *mine, const struct sockaddr_in *theirs)
{
	struct sockaddr_in name = name_of(fd);
	socklen_t len = sizeof(name);

	CHECK_EQ(name.sin_port, mine->sin_port);
	CHECK(getpeername(fd, (struct sockaddr *)&name, &len) < 0 && errno == ENOTCONN);
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &name, &len) == 0);
	CHECK_EQ(name.sin_port, theirs->sin_port);
}

static void check_connections(struct ends *e)
{
	char byte;

	CHECK(send(e->half.b, "more", 4, 0) == 4);
	CHECK(recv(e->half.a, &byte, 1, 0) == 1 && byte == 'm');
	drain(e->half.b, 1, e->half.a_sent);
	CHECK(send(e->half.a, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	drain(e->both.b, 2, e->both.a_sent);
	drain(e->both.a, 3, e->both.b_sent);
	CHECK(recv(e->over.b, &byte, 1, 0) == 1 && byte == 'r');
	check_peer(e->over.a, &e->over.a_name, &e->over.b_name);
	check_peer(e->over.b, &e->over.b_name, &e->over.a_name);
	CHECK(recv(e->over.a, &byte, 1, 0) == 0);
	CHECK(send(e->over.a, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
}

/* ---- what was allowed for bind(2) ---------------------------------------------------------- */

static void share_port(int fds[2], int type, int option)
{
	struct sockaddr_in at;

	for (int i = 0; i < 2; i++) {
		fds[i] = socket(AF_INET, type, 0);
		CHECK(fds[i] >= 0);
		set_int(fds[i], SOL_SOCKET, option, 1);
		if (i == 0) {
			bind_somewhere(fds[0]);
			at = name_of(fds[0]);
		} else {
			CHECK(bind(fds[1], (struct sockaddr *)&at, sizeof(at)) == 0);
		}
		if (type == SOCK_STREAM)
			CHECK(listen(fds[i], 3) == 0);
	}
	set_int(fds[0], SOL_SOCKET, option, 0);
}

static void bind_nowhere(struct ends *e)
{
	struct sockaddr_in at = name_of(e->shared[0]);

	inet_pton(AF_INET, "192.0.2.77", &at.sin_addr); /* TEST-NET-1 */
	e->foreign_name = at;
	e->foreign = socket(AF_INET, SOCK_STREAM, 0);
	set_int(e->foreign, IPPROTO_IP, IP_FREEBIND, 1);
	CHECK(bind(e->foreign, (struct sockaddr *)&at, sizeof(at)) == 0);
	set_int(e->foreign, IPPROTO_IP, IP_FREEBIND, 0);
}

static void set_up_binds(struct ends *e)
{
	share_port(e->shared, SOCK_STREAM, SO_REUSEPORT);
	share_port(e->shared_udp, SOCK_DGRAM, SO_REUSEADDR);
	bind_nowhere(e);
	e->at_device = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(setsockopt(e->at_device, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0);
}

static void check_binds(struct ends *e)
{
	char device[16] = "";
	socklen_t len = sizeof(device);

	for (int i = 0; i < 2; i++) {
		CHECK_EQ(get_int(e->shared[i], SOL_SOCKET, SO_REUSEPORT), i);
		CHECK_EQ(get_int(e->shared[i], SOL_SOCKET, SO_ACCEPTCONN), 1);
		CHECK_EQ(get_int(e->shared_udp[i], SOL_SOCKET, SO_REUSEADDR), i);
	}
	CHECK_EQ(name_of(e->shared[0]).sin_port, name_of(e->shared[1]).sin_port);
	CHECK_EQ(name_of(e->shared_udp[0]).sin_port, name_of(e->shared_udp[1]).sin_port);
	CHECK_EQ(name_of(e->foreign).sin_port, e->foreign_name.sin_port);
	CHECK_EQ(name_of(e->foreign).sin_addr.s_addr, e->foreign_name.sin_addr.s_addr);
	CHECK_EQ(get_int(e->foreign, IPPROTO_IP, IP_FREEBIND), 0);
	CHECK(getsockopt(e->at_device, SOL_SOCKET, SO_BINDTODEVICE, device, &len) == 0 && strcmp(device, "lo") == 0);
}

/* ---- options ------------------------------------------------------------------------------- */

static const struct {
	int family, type, level, name, value;
} options[] = {
	{AF_INET, SOCK_STREAM, IPPROTO_IP, IP_TOS, 0x10},
	{AF_INET, SOCK_STREAM, SOL_SOCKET, SO_PRIORITY, 3}, /* after IP_TOS, which changes it */
	{AF_INET, SOCK_DGRAM, IPPROTO_IP, IP_RECVOPTS, 1},
	{AF_INET, SOCK_DGRAM, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1},
	{AF_INET6, SOCK_DGRAM, IPPROTO_IPV6, IPV6_RECVPATHMTU, 1},
	{AF_INET6, SOCK_DGRAM, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1},
	{AF_NETLINK, SOCK_RAW, SOL_NETLINK, NETLINK_EXT_ACK, 1},
	{AF_NETLINK, SOCK_RAW, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1},
};
#define N_OPTIONS (sizeof(options) / sizeof(options[0]))

static void set_up_options(struct ends *e)
{
	for (size_t i = 0; i < N_OPTIONS; i++) {
		bool same = i && options[i].family == options[i - 1].family && options[i].type == options[i - 1].type;

		e->with_option[i] = same ? e->with_option[i - 1] : socket(options[i].family, options[i].type, 0);
		CHECK(e->with_option[i] >= 0);
		set_int(e->with_option[i], options[i].level, options[i].name, options[i].value);
	}
}

/* To a socket of our own, where we may (root). */
static void set_up_netlink(struct ends *e)
{
	struct sockaddr_nl at = {.nl_family = AF_NETLINK};
	socklen_t len = sizeof(at);

	e->netlink[0] = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	e->netlink[1] = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	CHECK(bind(e->netlink[0], (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(getsockname(e->netlink[0], (struct sockaddr *)&at, &len) == 0);
	e->netlink_port = at.nl_pid;
	e->connected = connect(e->netlink[1], (struct sockaddr *)&at, sizeof(at)) == 0;
}

static void check_netlink(struct ends *e)
{
	struct sockaddr_nl at;
	socklen_t len = sizeof(at);

	CHECK(getpeername(e->netlink[1], (struct sockaddr *)&at, &len) == 0);
	CHECK_EQ(at.nl_pid, e->connected ? e->netlink_port : 0);
}

static void check_options(struct ends *e)
{
	for (size_t i = 0; i < N_OPTIONS; i++)
		CHECK_EQ(get_int(e->with_option[i], options[i].level, options[i].name), options[i].value);
}

/* ---- not accepted yet ---------------------------------------------------------------------- */

/* Until it has sent something, the listening side does not know of it. */
static void set_up_deferred(struct ends *e)
{
	struct sockaddr_in at;

	e->deferring = socket(AF_INET, SOCK_STREAM, 0);
	bind_somewhere(e->deferring);
	at = name_of(e->deferring);
	CHECK(listen(e->deferring, 4) == 0);
	set_int(e->deferring, IPPROTO_TCP, TCP_DEFER_ACCEPT, 60);
	e->early = socket(AF_INET, SOCK_STREAM, 0);
	e->deferred = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(e->early, (struct sockaddr *)&at, sizeof(at)) == 0 && send(e->early, "early", 5, 0) == 5);
	CHECK(connect(e->deferred, (struct sockaddr *)&at, sizeof(at)) == 0);
}

/* connect(2) has failed, which nobody has heard of yet. */
static void set_up_refused(struct ends *e)
{
	int deaf = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in at;

	bind_somewhere(deaf);
	at = name_of(deaf);
	e->refused = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(connect(e->refused, (struct sockaddr *)&at, sizeof(at)) < 0 && errno == EINPROGRESS);
	close(deaf);
	sleep_ms(20);
}

static void check_deferred(struct ends *e)
{
	char buf[8];

	CHECK_EQ(recv(accept(e->deferring, NULL, NULL), buf, 5, MSG_WAITALL), 5);
	CHECK(memcmp(buf, "early", 5) == 0);
	CHECK_EQ(send(e->deferred, "late", 4, 0), 4);
	CHECK_EQ(recv(accept(e->deferring, NULL, NULL), buf, 4, MSG_WAITALL), 4);
	CHECK(memcmp(buf, "late", 4) == 0);
}

/* ---- UDP-Lite ------------------------------------------------------------------------------ */

static void set_up_lite(struct ends *e)
{
	struct sockaddr_in to;

	for (int i = 0; i < 2; i++) {
		e->lite[i] = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
		if (e->lite[i] < 0 && errno == EPROTONOSUPPORT)
			return; /* Linux 7.1 has it no more */
		CHECK(e->lite[i] >= 0);
		bind_somewhere(e->lite[i]);
	}
	set_int(e->lite[0], IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, 12);
	to = name_of(e->lite[1]);
	CHECK(sendto(e->lite[0], "light", 5, 0, (struct sockaddr *)&to, sizeof(to)) == 5);
}

static void check_lite(struct ends *e)
{
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	char buf[16];

	if (e->lite[0] < 0)
		return;
	CHECK_EQ(get_int(e->lite[0], IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV), 12);
	CHECK_EQ(recvfrom(e->lite[1], buf, sizeof(buf), 0, (struct sockaddr *)&from, &len), 5);
	CHECK_EQ(from.sin_port, name_of(e->lite[0]).sin_port);
}

int main(int argc, char **argv)
{
	struct ends e = {0};

	target_start(&e.target, argc, argv);
	set_up_connections(&e);
	set_up_binds(&e);
	set_up_lite(&e);
	set_up_options(&e);
	set_up_netlink(&e);
	set_up_deferred(&e);
	set_up_refused(&e);
	target_ready(&e.target);
	target_wait(&e.target);
	check_binds(&e);
	check_lite(&e);
	check_options(&e);
	check_netlink(&e);
	check_deferred(&e);
	CHECK_EQ(get_int(e.refused, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
	check_connections(&e);
	return target_pass(&e.target);
}
