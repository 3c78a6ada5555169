/*
 * What had been received and not read: sent again by the socket that sent it, or one that looks like it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/tracee/sockdiag.h"
#include "recovery/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

#define ROOM_MS 10000
#define CHUNK	(128u << 10) /* of a stream, where a process must send it */

static const struct socket_place nowhere;

uint64_t queued_bytes(const Snap__OpenFile *open)
{
	const Snap__Socket *s = socket_model(open);
	uint64_t sum = open->queue.len;

	for (size_t i = 0; i < s->n_messages; i++)
		sum += s->messages[i]->data.len;
	return sum;
}

/* ---- streams ------------------------------------------------------------------------------- */

/* Waits for room; where none comes, makes some. */
static int wait_for_room(int fd, size_t left, int *waited_ms, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (poll(&p, 1, 10) > 0 && p.revents & POLLOUT) {
		*waited_ms += 1;
		poll(NULL, 0, 1);
	} else {
		*waited_ms += 10;
	}
	if (*waited_ms > ROOM_MS)
		return err_set(err, ERR_SYSTEM, "a socket does not take what was unread in it");
	if (*waited_ms > 50)
		set_int_option(fd, SOL_SOCKET, SO_SNDBUF, left < INT32_MAX / 4 ? (int)left * 2 : INT32_MAX / 2);
	return 0;
}

static int send_bytes(int fd, const uint8_t *data, size_t len, struct err *err)
{
	int waited = 0;

	while (len) {
		ssize_t n = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
			waited = 0;
		} else if (errno != EAGAIN) {
			return err_sys(err, "filling a socket");
		} else if (wait_for_room(fd, len, &waited, err) < 0) {
			return -1;
		}
	}
	return 0;
}

/* As the process that sent it, in pieces that fit there. Descriptors go with the first. */
static int send_as_sender(struct recovery *rec, int fd, const Snap__SocketMessage *m, struct err *err)
{
	Snap__SocketMessage piece = *m;
	size_t left = m->data.len;
	int code, waited = 0;

	while (left) {
		piece.data.len = left < CHUNK ? left : CHUNK;
		if (inside_send(rec, fd, &piece, NULL, nowhere, &code, err) < 0)
			return -1;
		if (code == EAGAIN) {
			if (wait_for_room(fd, left, &waited, err) < 0)
				return -1;
			continue;
		}
		if (code)
			return err_code(err, code, "filling a socket");
		left -= piece.data.len;
		piece.data.data += piece.data.len;
		piece.n_open_files = 0;
		waited = 0;
	}
	return 0;
}

int send_stream(struct recovery *rec, int from, Snap__SocketMessage **messages, size_t n,
		struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const Snap__SocketMessage *m = messages[i];
		int result = m->n_open_files || m->sender
				     ? send_as_sender(rec, from, m, err)
				     : send_bytes(from, m->data.data, m->data.len, err);

		if (result < 0)
			return -1;
	}
	return 0;
}

/* Messages keep their bounds. */
static int send_packets(struct recovery *rec, int from, Snap__SocketMessage **messages, size_t n,
			struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int code, waited = 0;

		do {
			if (inside_send(rec, from, messages[i], NULL, nowhere, &code, err) < 0)
				return -1;
			if (code == EAGAIN &&
			    wait_for_room(from, messages[i]->data.len * (n - i), &waited, err) < 0)
				return -1;
		} while (code == EAGAIN);
		if (code)
			return err_code(err, code, "filling a socket");
	}
	return 0;
}

static int fill_connected(struct sockets *s, size_t index, struct err *err)
{
	struct recovery *rec = s->rec;
	const Snap__OpenFile *open = rec->model->open_files[index];
	const Snap__Socket *m = socket_model(open);
	ssize_t peer = socket_by_object(rec, open->peer);
	int other = s->slots[index].other, from = peer >= 0 && other < 0 ? rec->open_fds[peer] : other;
	char label[192];
	int result = 0;

	if (queued_bytes(open) == 0 && m->n_messages == 0)
		return 0;
	if (from < 0)
		return rec->leave_files ? 0
					: err_set(err, ERR_CORRUPT, "%s has received from nobody",
						  socket_label(rec, index, label, sizeof(label)));
	if (open->queue.len)
		result = send_bytes(from, open->queue.data, open->queue.len, err);
	if (result == 0 && open->type == SOCK_STREAM)
		result = send_stream(rec, from, m->messages, m->n_messages, err);
	else if (result == 0)
		result = send_packets(rec, from, m->messages, m->n_messages, err);
	return result < 0 ? err_wrap(err, "%s", socket_label(rec, index, label, sizeof(label))) : 0;
}

int fill_streams(struct sockets *s, struct err *err)
{
	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = s->rec->model->open_files[i];

		if (!is_socket(s->rec, i) || open->type == SOCK_DGRAM)
			continue;
		/* What is connected only for show in a trial takes nothing. */
		if (s->rec->leave_files && open->domain != AF_UNIX)
			continue;
		if (fill_connected(s, i, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- datagrams ----------------------------------------------------------------------------- */

static bool same_bytes(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

/* The job's socket with that name, duplicated; -1: none. */
static int find_unix_sender(struct sockets *s, const ProtobufCBinaryData *name)
{
	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__OpenFile *o = s->rec->model->open_files[i];

		if (is_socket(s->rec, i) && o->domain == AF_UNIX && o->type == SOCK_DGRAM &&
		    same_bytes(&socket_model(o)->local, name))
			return dup(s->rec->open_fds[i]);
	}
	return -1;
}

/* One that is no more: made for the moment. Where its name cannot be hidden, it is not insisted on. */
static int make_unix_sender(struct sockets *s, const Snap__SocketMessage *m, struct err *err)
{
	Snap__OpenFile like = SNAP__OPEN_FILE__INIT;
	struct stub *stub = stub_of_peer(s->rec, m->sender);
	cleanup_free char *path = unix_path(&m->from, NULL);
	const struct hidden *h = path ? hide_name(s, path, NULL) : NULL;
	const struct socket_place place = {h ? h->root : NULL, NULL};
	int number, code = 0;

	like.domain = AF_UNIX;
	like.type = SOCK_DGRAM;
	if (inside_socket(stub, &like, &number, err) < 0)
		return -1;
	if (m->from.len && path && !h)
		code = EEXIST;
	else if (m->from.len && inside_bind(stub, number, &m->from, place, &code, err) < 0)
		return -1;
	if (code)
		log_warn("a message that was not read yet has lost the name of its sender: %s",
			 strerror(code));
	return inside_take(stub, number, err);
}

static int unix_sender(struct sockets *s, size_t index, const Snap__SocketMessage *m, struct err *err)
{
	const Snap__OpenFile *open = s->rec->model->open_files[index];
	ssize_t peer = socket_by_object(s->rec, open->peer);
	int fd = -1;

	if (s->slots[index].other >= 0)
		return dup(s->slots[index].other);
	if (m->from.len)
		fd = find_unix_sender(s, &m->from);
	else if (peer >= 0 && socket_model(s->rec->model->open_files[peer])->local.len == 0)
		fd = dup(s->rec->open_fds[peer]);
	return fd >= 0 ? fd : make_unix_sender(s, m, err);
}

static int fill_unix(struct sockets *s, size_t index, struct err *err)
{
	const Snap__Socket *to = socket_model(s->rec->model->open_files[index]);

	for (size_t i = 0; i < to->n_messages; i++) {
		const Snap__SocketMessage *m = to->messages[i];
		cleanup_fd int from = unix_sender(s, index, m, err);
		int code, waited = 0;

		if (from < 0)
			return -1;
		do {
			if (inside_send(s->rec, from, m, to->local.len ? &to->local : NULL,
					unix_place(s, (ssize_t)index), &code, err) < 0)
				return -1;
			if (code == EAGAIN && wait_for_room(from, m->data.len, &waited, err) < 0)
				return -1;
		} while (code == EAGAIN);
		if (code)
			return err_code(err, code, "filling a datagram socket");
	}
	return 0;
}

void socket_address(const struct inet_address *a, int family, struct sockaddr_in6 *ret)
{
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(a->port)};

	*ret = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
	memcpy(&ret->sin6_addr, a->ip, sizeof(a->ip));
	memcpy(&four.sin_addr, a->ip + 12, 4);
	if (family == AF_INET)
		memcpy(ret, &four, sizeof(four));
}

/* A socket of the job at that address, duplicated; -1: none. */
static int find_udp_sender(struct sockets *s, int protocol, const struct inet_address *from, int *ret_family)
{
	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__OpenFile *o = s->rec->model->open_files[i];
		const Snap__Socket *m = socket_model(o);
		struct inet_address a;

		if (!is_socket(s->rec, i) || o->type != SOCK_DGRAM || m->protocol != protocol ||
		    inet_address_from(&a, m->local.data, m->local.len) < 0)
			continue;
		if (a.port == from->port && (inet_address_is_any(&a) || inet_address_equal(&a, from))) {
			*ret_family = o->domain;
			return dup(s->rec->open_fds[i]);
		}
	}
	return -1;
}

static int udp_sender(struct sockets *s, int protocol, const Snap__SocketMessage *m, int *ret_family)
{
	struct inet_address from;
	int fd;

	if (inet_address_from(&from, m->from.data, m->from.len) < 0)
		return -1;
	fd = find_udp_sender(s, protocol, &from, ret_family);
	if (fd >= 0)
		return fd;
	*ret_family = ((const struct sockaddr *)m->from.data)->sa_family;
	fd = socket(*ret_family, SOCK_DGRAM | SOCK_CLOEXEC, protocol);
	if (fd >= 0 && bind(fd, (const struct sockaddr *)m->from.data, (socklen_t)m->from.len) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Datagrams may be lost; that one was is said. */
static int fill_udp(struct sockets *s, size_t index, struct err *err)
{
	const Snap__Socket *to = socket_model(s->rec->model->open_files[index]);
	struct inet_address local, from;
	struct sockaddr_in6 address;
	char label[192];

	if (inet_address_from(&local, to->local.data, to->local.len) < 0)
		return 0;
	for (size_t i = 0; i < to->n_messages; i++) {
		const Snap__SocketMessage *m = to->messages[i];
		struct inet_address target = local;
		int family = AF_INET;
		cleanup_fd int fd = udp_sender(s, to->protocol, m, &family);

		if (inet_address_is_any(&local) &&
		    inet_address_from(&from, m->from.data, m->from.len) == 0)
			memcpy(target.ip, from.ip, sizeof(target.ip));
		socket_address(&target, family, &address);
		if (fd < 0 || sendto(fd, m->data.data, m->data.len, MSG_DONTWAIT,
				     (struct sockaddr *)&address,
				     family == AF_INET ? sizeof(struct sockaddr_in)
						       : sizeof(address)) < 0)
			log_warn("%s: an unread datagram is lost: %s",
				 socket_label(s->rec, index, label, sizeof(label)), strerror(errno));
	}
	(void)err;
	return 0;
}

int fill_datagrams(struct sockets *s, struct err *err)
{
	char label[192];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__OpenFile *o = s->rec->model->open_files[i];
		int result = 0;

		if (!is_socket(s->rec, i) || o->type != SOCK_DGRAM)
			continue;
		if (o->domain == AF_UNIX)
			result = fill_unix(s, i, err);
		else if (o->domain == AF_INET || o->domain == AF_INET6)
			result = fill_udp(s, i, err);
		if (result < 0)
			return err_wrap(err, "%s", socket_label(s->rec, i, label, sizeof(label)));
	}
	return 0;
}
