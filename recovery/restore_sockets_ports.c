/*
 * The ports of sockets.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "checkpointer/tracee/sockdiag.h"
#include "recovery/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51 /* Linux 6.3 */
#endif
#define PORT_WAIT_NS (65 * NSEC_PER_SEC) /* longer than TIME_WAIT (TCP_TIMEWAIT_LEN, 60 s) */

uint16_t port_of(const ProtobufCBinaryData *address)
{
	struct inet_address a = {0};

	inet_address_from(&a, address->data, address->len);
	return a.port;
}

/* Only connections that are ending hold the port: they will let go of it. */
static bool will_be_free(int protocol, uint16_t port)
{
	cleanup_free struct inet_info *list = NULL;
	struct err ignored;
	size_t n;

	if (sockdiag_list_inet(protocol, &list, &n, &ignored) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (list[i].local.port == port && list[i].inode)
			return false;
	return true;
}

static int refuse_port(const ProtobufCBinaryData *address, int code, int protocol, struct err *err)
{
	const char *name = protocol == IPPROTO_TCP ? "TCP" : "UDP";
	char where[128];

	address_text(address->data, address->len, where, sizeof(where));
	switch (code) {
	case EADDRINUSE:
		return err_set(err, ERR_BUSY,
			       "%s port %u (%s) of the job is in use by another program; end that, then "
			       "recover again",
			       name, port_of(address), where);
	case EADDRNOTAVAIL:
		return err_set(err, ERR_UNSUPPORTED,
			       "this machine does not have the address %s that the job uses", where);
	default:
		return err_code(err, code, "%s port %u (%s) of the job", name, port_of(address), where);
	}
}

int bind_address(int fd, int protocol, const ProtobufCBinaryData *address, struct err *err)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + PORT_WAIT_NS;
	bool told = false;
	char where[128];

	if (protocol == IPPROTO_TCP)
		set_int_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	for (;;) {
		if (bind(fd, (struct sockaddr *)address->data, (socklen_t)address->len) == 0)
			return 0;
		if (errno != EADDRINUSE || protocol != IPPROTO_TCP ||
		    clock_ns(CLOCK_MONOTONIC) > end || !will_be_free(protocol, port_of(address)))
			return refuse_port(address, errno, protocol, err);
		if (!told)
			log_warn("waiting for %s, which an ended connection holds for up to a minute",
				 address_text(address->data, address->len, where, sizeof(where)));
		told = true;
		poll(NULL, 0, 200);
	}
}

int choose_port(int fd, const ProtobufCBinaryData *address)
{
	uint32_t port = port_of(address), range = port << 16 | port;
	struct sockaddr_storage at = {0};
	int one = 1, before = 0, result;
	socklen_t len = sizeof(before);

	memcpy(&at, address->data, address->len);
	((struct sockaddr_in *)&at)->sin_port = 0; /* at the same place as sin6_port */
	if (setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range)) < 0 ||
	    getsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &before, &len) < 0 ||
	    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one)) < 0)
		return -1;
	result = bind(fd, (struct sockaddr *)&at, (socklen_t)address->len);
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &before, sizeof(before));
	return result;
}

void forget_choice(int fd)
{
	uint32_t range = 0;

	setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
}

bool has_address(int fd, const ProtobufCBinaryData *address)
{
	struct sockaddr_storage got;
	struct inet_address a, b;
	socklen_t len = sizeof(got);

	return getsockname(fd, (struct sockaddr *)&got, &len) == 0 &&
	       inet_address_from(&a, &got, len) == 0 &&
	       inet_address_from(&b, address->data, address->len) == 0 && inet_address_equal(&a, &b);
}
