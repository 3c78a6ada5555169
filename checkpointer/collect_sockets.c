#include "checkpointer/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/tracee/sockopts.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* include/uapi/asm-generic/socket.h, Linux 5.15 */
#endif
#define SNDBUF_LOCKED 1
#define RCVBUF_LOCKED 2

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing sockets");
}

/* ---- notes --------------------------------------------------------------------------------- */

Snap__OpenFile *note_open_file(const struct collection *c, const struct socket_note *note)
{
	return c->model->open_files[note->open_file];
}

Snap__Socket *note_socket(const struct collection *c, const struct socket_note *note)
{
	return note_open_file(c, note)->socket;
}

int note_refuse(const struct socket_note *note, struct err *err, const char *fmt, ...)
{
	char label[96], what[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(err, ERR_UNSUPPORTED, "%s: %sfd %d: %s",
		       process_label(note->holder->frozen, label, sizeof(label)),
		       note->flying ? "in flight to " : "", note->number, what);
}

void note_dropped(const struct socket_note *listener)
{
	log_warn("process %d: fd %d: a connection that waits to be accepted is not saved: its client is outside the job, "
		 "or has closed it",
		 listener->holder->frozen->vpid, listener->number);
}

struct socket_note *note_by_inode(const struct collection *c, uint64_t inode)
{
	int32_t i = numbers_next(&c->sockets->by_inode, inode, -1);

	return i < 0 ? NULL : &c->sockets->list[i];
}

int get_int_option(int fd, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, level, name, &value, &len) < 0 ? -1 : value;
}

bool has_event(int fd, short events, short wanted)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 0) > 0 && (p.revents & wanted);
}

int describe_peer(const struct collection *c, pid_t pid, uid_t uid, gid_t gid, Snap__Peer **ret,
		  struct err *err)
{
	Snap__Peer *peer = malloc(sizeof(*peer));

	if (!peer)
		return no_memory(err);
	snap__peer__init(peer);
	for (size_t i = 0; pid > 0 && i < c->n; i++)
		if (c->processes[i].frozen->pid == pid)
			peer->pid = c->processes[i].frozen->vpid;
	peer->uid = uid;
	peer->gid = gid;
	*ret = peer;
	return 0;
}

/* Takes fd over, also on failure. */
static int add_note(struct collection *c, size_t open_file, struct collected_process *holder,
		    int number, int fd, bool flying, struct err *err)
{
	struct socket_notes *notes = c->sockets;
	Snap__OpenFile *o = c->model->open_files[open_file];
	struct socket_note *more = reallocarray(notes->list, notes->n + 1, sizeof(*more));
	struct stat st;

	if (!more || fstat(fd, &st) < 0) {
		notes->list = more ? more : notes->list;
		close(fd);
		return no_memory(err);
	}
	notes->list = more;
	more[notes->n++] = (struct socket_note){
		.open_file = open_file,
		.holder = holder,
		.number = number,
		.flying = flying,
		.inherited = stat_is_inherited(c, &st),
		.fd = fd,
		.inode = (uint32_t)o->object,
	};
	o->socket = malloc(sizeof(*o->socket));
	if (!o->socket)
		return no_memory(err);
	snap__socket__init(o->socket);
	return numbers_add(&notes->by_inode, (uint32_t)o->object, (int32_t)notes->n - 1, err);
}

static int note_flying_socket(struct collection *c, size_t open_file, struct socket_note receiver,
			      int fd, struct err *err)
{
	int mine = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (mine < 0)
		return err_sys(err, "socket in flight");
	return add_note(c, open_file, receiver.holder, receiver.number, mine, true, err);
}

static int keep_flying(struct collection *c, int fd, int32_t open_file, struct err *err)
{
	struct socket_notes *notes = c->sockets;
	struct flying_fd *more = reallocarray(notes->flying, notes->n_flying + 1, sizeof(*more));

	if (!more)
		return no_memory(err);
	notes->flying = more;
	more[notes->n_flying++] = (struct flying_fd){.fd = fd, .open_file = open_file};
	return 0;
}

/* It is described as if it were the receiver's, found in our process. */
int collect_flying(struct collection *c, struct socket_note receiver, int fd, int32_t *ret_open_file,
		   struct err *err)
{
	cleanup_free struct descriptor *d = malloc(sizeof(*d));
	struct frozen_process here = *receiver.holder->frozen;
	Snap__Process nobody = SNAP__PROCESS__INIT;
	struct collected_process p = {.frozen = &here, .model = &nobody};
	size_t before = c->model->n_open_files;
	int32_t id;

	if (!d)
		return no_memory(err);
	here.pid = getpid();
	if (descriptor_read(&p, fd, d, err) < 0 || descriptor_open_file(c, &p, d, &id, err) < 0)
		return err_wrap(err, "in flight to fd %d", receiver.number);
	*ret_open_file = id;
	if (c->model->n_open_files == before) {
		close(fd);
		return 0;
	}
	if (c->model->open_files[id]->kind == SNAP__OPEN_FILE__KIND__SOCKET &&
	    note_flying_socket(c, (size_t)id, receiver, fd, err) < 0)
		return -1;
	return keep_flying(c, fd, id, err);
}

static int check_namespace(const struct collected_process *p, int fd, struct err *err)
{
	char path[64], theirs[64] = "", ours[64] = "";
	char label[96];

	snprintf(path, sizeof(path), "/proc/%d/ns/net", p->frozen->pid);
	if (readlink(path, theirs, sizeof(theirs) - 1) < 0 ||
	    readlink("/proc/self/ns/net", ours, sizeof(ours) - 1) < 0)
		return err_sys(err, "process %d: network namespace", p->frozen->vpid);
	if (strcmp(theirs, ours) == 0)
		return 0;
	return err_set(err, ERR_UNSUPPORTED, "%s: fd %d: a socket in a network namespace of its own",
		       process_label(p->frozen, label, sizeof(label)), fd);
}

static int note_process(struct collection *c, struct collected_process *p, struct err *err)
{
	bool checked = false;

	for (size_t i = 0; p->model && i < p->model->n_fds; i++) {
		const Snap__Fd *fd = p->model->fds[i];
		size_t open_file = (size_t)fd->open_file;
		int mine;

		if (c->model->open_files[open_file]->kind != SNAP__OPEN_FILE__KIND__SOCKET ||
		    c->model->open_files[open_file]->socket)
			continue; /* or noted already */
		if (!checked && check_namespace(p, fd->number, err) < 0)
			return -1;
		checked = true;
		mine = descriptor_fetch(p, fd->number, err);
		if (mine < 0 || add_note(c, open_file, p, fd->number, mine, false, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- what all sockets have ----------------------------------------------------------------- */

static int copy_name(int (*get)(int, struct sockaddr *, socklen_t *), int fd,
		     ProtobufCBinaryData *ret, struct err *err)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	if (get(fd, (struct sockaddr *)&address, &len) < 0) {
		if (errno == ENOTCONN || errno == EOPNOTSUPP)
			return 0;
		return err_sys(err, "address of a socket");
	}
	if (len > sizeof(address))
		len = sizeof(address);
	if (len <= sizeof(sa_family_t))
		return 0;
	return snap_set_bytes(ret, &address, len) < 0 ? no_memory(err) : 0;
}

static int add_option(Snap__Socket *s, const struct socket_option *option, const void *value,
		      size_t len, struct err *err)
{
	Snap__SocketOption *o = snap_append(&s->options, &s->n_options, Snap__SocketOption,
					    SNAP__SOCKET_OPTION__INIT);

	if (!o || snap_set_bytes(&o->value, value, len) < 0)
		return no_memory(err);
	o->level = option->level;
	o->name = option->name;
	return 0;
}

/* What a fresh socket of the same kind says; asked once for all of a kind. NULL: no memory. */
static const struct usual_options *usual_for(struct socket_notes *notes, const Snap__OpenFile *o)
{
	int protocol = o->socket->protocol;
	struct usual_options *u, *more;
	cleanup_fd int fresh = -1;

	for (size_t i = 0; i < notes->n_usual; i++)
		if (notes->usual[i].domain == o->domain && notes->usual[i].type == o->type &&
		    notes->usual[i].protocol == protocol)
			return &notes->usual[i];
	more = reallocarray(notes->usual, notes->n_usual + 1, sizeof(*more));
	if (!more)
		return NULL;
	notes->usual = more;
	u = &more[notes->n_usual++];
	*u = (struct usual_options){.domain = o->domain, .type = o->type, .protocol = protocol};
	fresh = socket(o->domain, o->type | SOCK_CLOEXEC, protocol);
	for (size_t i = 0; i < n_socket_options; i++) {
		const struct socket_option *option = &socket_options[i];
		socklen_t len = (socklen_t)option->size;

		if (fresh >= 0 && socket_option_applies(option, o->domain, protocol) &&
		    getsockopt(fresh, option->level, option->name, u->values[i].bytes, &len) == 0)
			u->values[i].len = 1 + (int)len;
	}
	return u;
}

/* Those that somebody has changed: what a fresh socket says is not kept. */
static int copy_options(struct collection *c, const struct socket_note *note, const Snap__OpenFile *o,
			struct err *err)
{
	const struct usual_options *usual = usual_for(c->sockets, o);

	if (!usual)
		return no_memory(err);
	for (size_t i = 0; i < n_socket_options; i++) {
		const struct socket_option *option = &socket_options[i];
		char value[SOCKET_OPTION_MOST] = "";
		socklen_t len = (socklen_t)option->size;

		if (!socket_option_applies(option, o->domain, o->socket->protocol) ||
		    getsockopt(note->fd, option->level, option->name, value, &len) < 0)
			continue;
		if (usual->values[i].len == 1 + (int)len && memcmp(value, usual->values[i].bytes, len) == 0)
			continue;
		if (add_option(o->socket, option, value, len, err) < 0)
			return -1;
	}
	return 0;
}

static void copy_buffer_sizes(const struct socket_note *note, Snap__Socket *s)
{
	int locked = get_int_option(note->fd, SOL_SOCKET, SO_BUF_LOCK);

	if (locked < 0)
		return;
	if (locked & RCVBUF_LOCKED)
		s->receive_buffer = (uint64_t)get_int_option(note->fd, SOL_SOCKET, SO_RCVBUF);
	if (locked & SNDBUF_LOCKED)
		s->send_buffer = (uint64_t)get_int_option(note->fd, SOL_SOCKET, SO_SNDBUF);
}

/* SO_GET_FILTER counts in instructions (net/core/filter.c, sk_get_filter). */
static int copy_filter(const struct socket_note *note, Snap__Socket *s, struct err *err)
{
	cleanup_free struct sock_filter *code = NULL;
	socklen_t n = 0;

	if (getsockopt(note->fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0)
		return errno == EACCES ? note_refuse(note, err, "a socket with a BPF program") : 0;
	if (n == 0)
		return 0;
	code = calloc(n, sizeof(*code));
	if (!code || getsockopt(note->fd, SOL_SOCKET, SO_GET_FILTER, code, &n) < 0)
		return err_sys(err, "filter of a socket");
	return snap_set_bytes(&s->filter, code, n * sizeof(*code)) < 0 ? no_memory(err) : 0;
}

static const char *domain_name(int domain)
{
	static const struct {
		int domain;
		const char *name;
	} names[] = {{AF_INET, "AF_INET"},     {AF_INET6, "AF_INET6"}, {AF_NETLINK, "AF_NETLINK"},
		     {AF_PACKET, "AF_PACKET"}, {AF_VSOCK, "AF_VSOCK"}, {AF_ALG, "AF_ALG"},
		     {AF_XDP, "AF_XDP"},       {AF_CAN, "AF_CAN"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].domain == domain)
			return names[i].name;
	return "unknown";
}

static const char *type_name(int type)
{
	switch (type) {
	case SOCK_STREAM:
		return "stream";
	case SOCK_DGRAM:
		return "datagram";
	case SOCK_RAW:
		return "raw";
	case SOCK_SEQPACKET:
		return "sequenced packet";
	default:
		return "other";
	}
}

static int describe_by_family(struct collection *c, size_t index, struct err *err)
{
	const struct socket_note *note = &c->sockets->list[index];
	const Snap__OpenFile *o = note_open_file(c, note);
	bool inet = o->domain == AF_INET || o->domain == AF_INET6;

	if (o->domain == AF_UNIX)
		return describe_unix(c, index, err);
	if (inet && o->type == SOCK_STREAM && o->socket->protocol == IPPROTO_TCP)
		return describe_tcp(c, index, err);
	if (inet && o->type == SOCK_DGRAM &&
	    (o->socket->protocol == IPPROTO_UDP || o->socket->protocol == IPPROTO_UDPLITE))
		return describe_udp(c, index, err);
	if (inet && o->type == SOCK_DGRAM &&
	    (o->socket->protocol == IPPROTO_ICMP || o->socket->protocol == IPPROTO_ICMPV6))
		return describe_ping(c, index, err);
	if (o->domain == AF_NETLINK)
		return describe_netlink(c, index, err);
	return note_refuse(note, err, "%s %s socket, protocol %d", domain_name(o->domain),
			   type_name(o->type), o->socket->protocol);
}

static int describe_note(struct collection *c, size_t index, struct err *err)
{
	const struct socket_note *note = &c->sockets->list[index];
	Snap__OpenFile *o = note_open_file(c, note);

	o->domain = get_int_option(note->fd, SOL_SOCKET, SO_DOMAIN);
	o->type = get_int_option(note->fd, SOL_SOCKET, SO_TYPE);
	o->socket->protocol = get_int_option(note->fd, SOL_SOCKET, SO_PROTOCOL);
	if (copy_name(getsockname, note->fd, &o->socket->local, err) < 0 ||
	    copy_name(getpeername, note->fd, &o->socket->remote, err) < 0 ||
	    copy_options(c, note, o, err) < 0 || copy_filter(note, o->socket, err) < 0)
		return -1;
	copy_buffer_sizes(note, o->socket);
	return describe_by_family(c, index, err);
}

int collect_sockets(struct collection *c, struct err *err)
{
	c->sockets = calloc(1, sizeof(*c->sockets));
	if (!c->sockets)
		return no_memory(err);
	for (size_t i = 0; i < c->n; i++)
		if (note_process(c, &c->processes[i], err) < 0)
			return -1;
	/* Descriptors in flight add to the list. */
	for (size_t i = 0; i < c->sockets->n; i++)
		if (refusals_go_on(&c->refusals, describe_note(c, i, err), err) < 0)
			return -1;
	/* Without those that were refused, the others would seem to have lost their peers. */
	if (c->refusals.n)
		return 0;
	if (relate_unix(c, err) < 0)
		return -1;
	return relate_tcp(c, err);
}

void collect_sockets_end(struct collection *c)
{
	struct socket_notes *notes = c->sockets;

	if (!notes)
		return;
	for (size_t i = 0; i < notes->n; i++) {
		close(notes->list[i].fd);
		unix_info_clear(&notes->list[i].unix_info);
	}
	for (size_t i = 0; i < notes->n_flying; i++)
		close(notes->flying[i].fd);
	numbers_clear(&notes->by_inode);
	free(notes->list);
	free(notes->usual);
	free(notes->flying);
	for (size_t i = 0; i < notes->n_unix; i++)
		unix_info_clear(&notes->unix_list[i]);
	free(notes->unix_list);
	numbers_clear(&notes->unix_by_inode);
	free(notes->tcp);
	free(notes->udp[0]);
	free(notes->udp[1]);
	free(notes);
	c->sockets = NULL;
}
