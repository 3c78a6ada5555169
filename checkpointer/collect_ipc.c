#include "checkpointer/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

/*
 * Pipes, event counters, sockets and locks. pidfd_getfd(2) (Linux 5.6) gives us the very same open file
 * description, so contents are looked at without taking anything out and without calls in the process.
 */

static int fetch(const struct collected_process *p, int fd, struct err *err)
{
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, p->frozen->pid, 0);
	int mine = -1;

	if (pidfd >= 0)
		mine = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	return mine < 0 ? err_sys(err, "process %d: fd %d", p->frozen->vpid, fd) : mine;
}

static bool has_event(int fd, short events, short wanted)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 0) > 0 && (p.revents & wanted);
}

/* ---- pipes ------------------------------------------------------------------------------------ */

/* tee(2) into a pipe of our own, which is then read: the original keeps its content. */
static int copy_pipe(int fd, int capacity, Snap__OpenFile *o, struct err *err)
{
	cleanup_free char *buf = malloc((size_t)capacity);
	cleanup_fd int in = -1, out = -1;
	int pair[2];
	ssize_t n;

	if (!buf || pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "copy of a pipe");
	out = pair[0];
	in = pair[1];
	if (fcntl(in, F_SETPIPE_SZ, capacity) < 0)
		return err_sys(err, "copy of a pipe of %d bytes", capacity);
	n = tee(fd, in, (size_t)capacity, SPLICE_F_NONBLOCK);
	if (n < 0 && errno != EAGAIN)
		return err_sys(err, "copy of a pipe");
	if (n <= 0)
		return 0;
	if (read_full(out, buf, (size_t)n) < 0 || snap_set_bytes(&o->queue, buf, (size_t)n) < 0)
		return err_sys(err, "copy of a pipe");
	return 0;
}

static bool queue_is_known(const struct collection *c, uint64_t object)
{
	for (size_t i = 0; i < c->model->n_open_files; i++)
		if (c->model->open_files[i]->object == object && c->model->open_files[i]->queue.len)
			return true;
	return false;
}

int describe_pipe(struct collection *c, const struct collected_process *p,
		  const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	bool reads = (d->info.flags & O_ACCMODE) == O_RDONLY;
	cleanup_fd int fd = fetch(p, d->fd, err);
	int capacity;

	if (fd < 0)
		return -1;
	if (d->info.flags & O_DIRECT)
		return descriptor_refuse(p, d, "a pipe in packet mode", err);
	capacity = fcntl(fd, F_GETPIPE_SZ);
	if (capacity <= 0)
		return err_sys(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	o->kind = SNAP__OPEN_FILE__KIND__PIPE;
	o->object = d->st.st_ino;
	o->capacity = (uint32_t)capacity;
	o->hung_up = descriptor_inherited(c, d) ||
		     has_event(fd, reads ? POLLIN : POLLOUT, reads ? POLLHUP : POLLERR);
	if (!reads || queue_is_known(c, o->object))
		return 0;
	return copy_pipe(fd, capacity, o, err);
}

/* ---- sockets ---------------------------------------------------------------------------------- */

struct diag_reply {
	struct nlmsghdr head;
	struct unix_diag_msg msg;
	char attributes[512];
};

static int ask_diag(uint32_t inode, struct diag_reply *reply)
{
	struct {
		struct nlmsghdr head;
		struct unix_diag_req req;
	} request = {
		.head = {.nlmsg_len = sizeof(request),
			 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			 .nlmsg_flags = NLM_F_REQUEST},
		.req = {.sdiag_family = AF_UNIX,
			.udiag_states = UINT32_MAX,
			.udiag_ino = inode,
			.udiag_show = UDIAG_SHOW_PEER,
			.udiag_cookie = {UINT32_MAX, UINT32_MAX}},
	};
	cleanup_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	ssize_t n;

	if (fd < 0 || send(fd, &request, sizeof(request), 0) < 0)
		return -1;
	n = recv(fd, reply, sizeof(*reply), 0);
	return n >= (ssize_t)(sizeof(reply->head) + sizeof(reply->msg)) &&
			       reply->head.nlmsg_type == SOCK_DIAG_BY_FAMILY
		       ? (int)n
		       : -1;
}

/* Inode of the socket that this one is connected to, 0: none. sock_diag(7), UNIX_DIAG_PEER. */
static int find_peer(uint32_t inode, uint64_t *ret)
{
	struct diag_reply reply;
	int n = ask_diag(inode, &reply);
	int left = n - (int)(sizeof(reply.head) + sizeof(reply.msg));
	const struct nlattr *a = (const void *)reply.attributes;

	if (n < 0)
		return -1;
	*ret = 0;
	while (left >= (int)sizeof(*a) && a->nla_len >= sizeof(*a) && a->nla_len <= left) {
		int step = NLA_ALIGN(a->nla_len);
		uint32_t peer;

		if (a->nla_type == UNIX_DIAG_PEER && a->nla_len >= NLA_HDRLEN + sizeof(peer)) {
			memcpy(&peer, (const char *)a + NLA_HDRLEN, sizeof(peer));
			*ret = peer;
		}
		left -= step;
		a = (const void *)((const char *)a + step);
	}
	return 0;
}

static int get_option(int fd, int option)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

/* What has been received and not read. MSG_PEEK leaves it there. */
static int copy_queue(const struct collected_process *p, const struct descriptor *d, int fd,
		      Snap__OpenFile *o, struct err *err)
{
	cleanup_free char *buf = NULL;
	int waiting = 0;
	ssize_t n;

	if (ioctl(fd, FIONREAD, &waiting) < 0)
		return err_sys(err, "process %d: fd %d", p->frozen->vpid, d->fd);
	if (waiting == 0)
		return 0;
	if (o->type != SOCK_STREAM)
		return descriptor_refuse(p, d, "a datagram socket with unread messages", err);
	buf = malloc((size_t)waiting);
	if (!buf)
		return err_sys(err, "content of a socket");
	n = recv(fd, buf, (size_t)waiting, MSG_PEEK | MSG_DONTWAIT);
	if (n != waiting)
		return descriptor_refuse(p, d, "a socket with descriptors in flight", err);
	return snap_set_bytes(&o->queue, buf, (size_t)n) < 0 ? err_sys(err, "content of a socket")
							     : 0;
}

static void print_address(const struct sockaddr_storage *a, socklen_t len, char *buf, size_t room)
{
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (getnameinfo((const struct sockaddr *)a, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(buf, room, "an address");
	else
		snprintf(buf, room, a->ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static const char *domain_name(int domain)
{
	switch (domain) {
	case AF_INET:
		return "AF_INET";
	case AF_INET6:
		return "AF_INET6";
	case AF_NETLINK:
		return "AF_NETLINK";
	case AF_PACKET:
		return "AF_PACKET";
	default:
		return "a";
	}
}

/* Says what it is and whom it talks to. */
static int refuse_network(const struct collected_process *p, const struct descriptor *d, int fd,
			  const Snap__OpenFile *o, struct err *err)
{
	const char *type = o->type == SOCK_STREAM  ? "stream socket"
			   : o->type == SOCK_DGRAM ? "datagram socket"
						   : "socket";
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char where[NI_MAXHOST + NI_MAXSERV], text[NI_MAXHOST + 256];

	if (getpeername(fd, (struct sockaddr *)&address, &len) == 0) {
		print_address(&address, len, where, sizeof(where));
		snprintf(text, sizeof(text), "%s %s connected to %s", domain_name(o->domain), type, where);
	} else if (len = sizeof(address),
		   getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
			   (o->domain == AF_INET || o->domain == AF_INET6)) {
		print_address(&address, len, where, sizeof(where));
		snprintf(text, sizeof(text), "%s %s %s %s", domain_name(o->domain), type,
			 get_option(fd, SO_ACCEPTCONN) == 1 ? "listening at" : "at", where);
	} else {
		snprintf(text, sizeof(text), "%s %s", domain_name(o->domain), type);
	}
	return descriptor_refuse(p, d, text, err);
}

int describe_socket(const struct collection *c, const struct collected_process *p,
		    const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	cleanup_fd int fd = fetch(p, d->fd, err);
	struct sockaddr_un name;
	socklen_t len = sizeof(name);

	if (fd < 0)
		return -1;
	o->kind = SNAP__OPEN_FILE__KIND__SOCKET;
	o->object = d->st.st_ino;
	o->domain = get_option(fd, SO_DOMAIN);
	o->type = get_option(fd, SO_TYPE);
	if (o->domain != AF_UNIX)
		return refuse_network(p, d, fd, o, err);
	if (getsockname(fd, (struct sockaddr *)&name, &len) < 0 || len > sizeof(sa_family_t) ||
	    get_option(fd, SO_ACCEPTCONN) == 1)
		return descriptor_refuse(p, d, "a Unix socket with a name", err);
	if (find_peer((uint32_t)d->st.st_ino, &o->peer) < 0)
		return descriptor_refuse(p, d, "a Unix socket that cannot be looked up (sock_diag)", err);
	if (descriptor_inherited(c, d))
		o->peer = 0;
	o->hung_up = descriptor_inherited(c, d) ||
		     (!o->peer && has_event(fd, POLLIN, POLLHUP | POLLIN));
	return o->peer || o->hung_up ? copy_queue(p, d, fd, o, err) : 0;
}

/* ---- locks ------------------------------------------------------------------------------------ */

static Snap__FileLock *append_lock(struct collected_process *p, Snap__OpenFile *o,
				   const struct proc_lock *lock)
{
	if (lock->kind == PROC_LOCK_POSIX)
		return snap_append(&p->model->locks, &p->model->n_locks, Snap__FileLock,
				   SNAP__FILE_LOCK__INIT);
	return snap_append(&o->locks, &o->n_locks, Snap__FileLock, SNAP__FILE_LOCK__INIT);
}

int describe_locks(struct collected_process *p, const struct descriptor *d, Snap__OpenFile *o,
		   struct err *err)
{
	static const Snap__FileLock__Kind kinds[] = {
		[PROC_LOCK_POSIX] = SNAP__FILE_LOCK__KIND__POSIX,
		[PROC_LOCK_FLOCK] = SNAP__FILE_LOCK__KIND__FLOCK,
		[PROC_LOCK_OFD] = SNAP__FILE_LOCK__KIND__OFD,
	};

	if (d->info.n_locks > PROC_MAX_LOCKS)
		return descriptor_refuse(p, d, "a file with more locks than can be saved", err);
	for (size_t i = 0; i < d->info.n_locks; i++) {
		const struct proc_lock *lock = &d->info.locks[i];
		Snap__FileLock *m;

		if (lock->kind == PROC_LOCK_LEASE)
			return descriptor_refuse(p, d, "a file lease", err);
		m = append_lock(p, o, lock);
		if (!m)
			return err_sys(err, "list of locks");
		m->kind = kinds[lock->kind];
		m->write = lock->write;
		m->start = lock->start;
		m->end = lock->end;
		m->fd = d->fd;
	}
	return 0;
}

/* ---- ends ------------------------------------------------------------------------------------- */

static bool has_other_end(const struct collection *c, const Snap__OpenFile *o)
{
	for (size_t i = 0; i < c->model->n_open_files; i++) {
		const Snap__OpenFile *q = c->model->open_files[i];

		if (q->kind != o->kind || q == o)
			continue;
		if (o->kind == SNAP__OPEN_FILE__KIND__SOCKET ? q->object == o->peer
							     : q->object == o->object &&
								       (q->flags & O_ACCMODE) !=
									       (o->flags & O_ACCMODE))
			return true;
	}
	return false;
}

static int refuse_half(const struct collection *c, size_t index, struct err *err)
{
	bool pipe = c->model->open_files[index]->kind == SNAP__OPEN_FILE__KIND__PIPE;

	for (size_t i = 0; i < c->n; i++) {
		const Snap__Process *m = c->processes[i].model;

		for (size_t j = 0; m && j < m->n_fds; j++)
			if (m->fds[j]->open_file == (int32_t)index)
				return err_set(err, ERR_UNSUPPORTED,
					       "process %d (%s): fd %d: a %s whose other end is outside the job",
					       m->pid, c->processes[i].frozen->stat.comm,
					       m->fds[j]->number, pipe ? "pipe" : "Unix socket");
	}
	return err_set(err, ERR_UNSUPPORTED, "a %s whose other end is outside the job",
		       pipe ? "pipe" : "Unix socket");
}

int check_both_ends(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->model->n_open_files; i++) {
		const Snap__OpenFile *o = c->model->open_files[i];
		bool pipe = o->kind == SNAP__OPEN_FILE__KIND__PIPE;
		bool connected = o->kind == SNAP__OPEN_FILE__KIND__SOCKET && o->peer;

		if (((pipe && !o->hung_up) || connected) && !has_other_end(c, o))
			return refuse_half(c, i, err);
	}
	return 0;
}
