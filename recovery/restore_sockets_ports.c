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

int bind_address(int fd, int protocol, const ProtobufCBinaryData *address, bool at_once, struct err *err)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + PORT_WAIT_NS;
	bool told = false;
	char where[128];

	if (protocol == IPPROTO_TCP)
		set_int_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	for (;;) {
		if (bind(fd, (struct sockaddr *)address->data, (socklen_t)address->len) == 0)
			return 0;
		if (at_once || errno != EADDRINUSE || protocol != IPPROTO_TCP ||
		    clock_ns(CLOCK_MONOTONIC) > end || !will_be_free(protocol, port_of(address)))
			return refuse_port(address, errno, protocol, err);
		if (!told)
			log_warn("waiting for %s, which an ended connection holds for up to a minute",
				 address_text(address->data, address->len, where, sizeof(where)));
		told = true;
		poll(NULL, 0, 200);
	}
}

static int saved_option(const Snap__Socket *s, int name)
{
	int value = 0;

	for (size_t i = 0; i < s->n_options; i++)
		if (s->options[i]->level == SOL_SOCKET && s->options[i]->name == name &&
		    s->options[i]->value.len == sizeof(value))
			memcpy(&value, s->options[i]->value.data, sizeof(value));
	return value;
}

/* Of those two that say now who may share a port, any may have been said before bind(2) only. */
static const int sharing_options[] = {SO_REUSEPORT, SO_REUSEADDR};

static bool is_bound_like(const Snap__OpenFile *a, const Snap__OpenFile *b)
{
	const Snap__Socket *x = socket_model(a), *y = socket_model(b);

	return (b->domain == AF_INET || b->domain == AF_INET6) && a->type == b->type &&
	       x->protocol == y->protocol && y->state == x->state && port_of(&x->local) == port_of(&y->local);
}

static void allow_sharing(struct recovery *rec, size_t index)
{
	const Snap__OpenFile *open = rec->model->open_files[index];

	for (size_t i = 0; i < rec->model->n_open_files; i++) {
		const Snap__OpenFile *other = rec->model->open_files[i];

		if (i == index || !is_socket(rec, i) || !is_bound_like(open, other))
			continue;
		for (size_t j = 0; j < 2; j++)
			if (saved_option(socket_model(other), sharing_options[j]))
				set_int_option(rec->open_fds[index], SOL_SOCKET, sharing_options[j], 1);
	}
}

void end_sharing(int fd, const Snap__OpenFile *open)
{
	set_int_option(fd, SOL_SOCKET, SO_REUSEPORT, saved_option(socket_model(open), SO_REUSEPORT));
	if (open->type == SOCK_DGRAM)
		set_int_option(fd, SOL_SOCKET, SO_REUSEADDR, saved_option(socket_model(open), SO_REUSEADDR));
}

int bind_as_before(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *open = rec->model->open_files[index];
	const Snap__Socket *m = socket_model(open);
	int fd = rec->open_fds[index], freely = 0, result;
	socklen_t len = sizeof(freely);

	allow_sharing(rec, index);
	getsockopt(fd, IPPROTO_IP, IP_FREEBIND, &freely, &len);
	if (m->free_bind)
		set_int_option(fd, IPPROTO_IP, IP_FREEBIND, 1);
	result = bind_address(fd, open->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP, &m->local,
			      false, err);
	if (m->free_bind)
		set_int_option(fd, IPPROTO_IP, IP_FREEBIND, freely);
	return result;
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
