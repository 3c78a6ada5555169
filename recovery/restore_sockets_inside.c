/*
 * System calls on sockets in a process of the job: a path means what it means in the capsule, and who
 * called is what the other end may ask for.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "recovery/sockets.h"

struct stub *stub_of_peer(struct recovery *rec, const Snap__Peer *peer)
{
	struct stub *stub = peer ? stub_by_pid(rec, peer->pid) : NULL;

	if (stub && !stub->has_executor) /* a zombie */
		stub = NULL;
	for (size_t i = 0; !stub && i < rec->n_stubs; i++)
		if (rec->stubs[i].has_executor)
			stub = &rec->stubs[i];
	return stub;
}

static int call(struct stub *stub, long *ret, struct err *err, const char *what, long nr,
		const uint64_t arg[6])
{
	return stub_call(stub, stub_thread(stub), ret, err, what, nr, arg);
}

static int no_process(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "no process to make sockets in");
}

int inside_socket(struct stub *stub, const Snap__OpenFile *open, int *ret_number, struct err *err)
{
	long number = -1;

	if (!stub)
		return no_process(err);
	if (call(stub, &number, err, "socket", SYS_socket,
		 ARGS((uint64_t)open->domain, (uint64_t)open->type | SOCK_CLOEXEC,
		      (uint64_t)socket_model(open)->protocol)) < 0)
		return -1;
	if (number < 0)
		return err_code(err, (int)-number, "process %d: socket", stub->model->pid);
	*ret_number = (int)number;
	return 0;
}

int inside_close(struct stub *stub, int number, struct err *err)
{
	return call(stub, NULL, err, "close", SYS_close, ARGS((uint64_t)number));
}

int inside_take(struct stub *stub, int number, struct err *err)
{
	int fd = (int)syscall(SYS_pidfd_getfd, stub->pidfd, number, 0);

	if (fd < 0)
		return err_sys(err, "process %d: taking over a socket", stub->model->pid);
	if (inside_close(stub, number, err) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int inside_pair(struct recovery *rec, struct stub *stub, const Snap__OpenFile *open, int ret[2],
		struct err *err)
{
	struct remote *r = stub ? &stub->remote : NULL;
	struct remote_call *c;
	uint64_t addr;
	int *numbers;

	(void)rec;
	if (!stub)
		return no_process(err);
	remote_reset(r);
	numbers = remote_data(r, 2 * sizeof(int), &addr);
	c = numbers ? remote_call(r, SYS_socketpair, (uint64_t)open->domain,
				  (uint64_t)open->type | SOCK_CLOEXEC, 0, addr)
		    : NULL;
	if (!c)
		return err_set(err, ERR_SYSTEM, "process %d: no room for a call", stub->model->pid);
	if (remote_run(r, stub_thread(stub), err) < 0)
		return err_wrap(err, "process %d: socketpair", stub->model->pid);
	if (c->ret < 0)
		return err_code(err, (int)-c->ret, "process %d: socketpair", stub->model->pid);
	{
		int first = numbers[0], second = numbers[1];

		remote_reset(r);
		ret[0] = inside_take(stub, first, err);
		ret[1] = ret[0] < 0 ? -1 : inside_take(stub, second, err);
	}
	if (ret[1] < 0 && ret[0] >= 0)
		close(ret[0]);
	return ret[1] < 0 ? -1 : 0;
}

/* chdir or chroot. */
static int change_to(struct stub *stub, long nr, const char *name, struct err *err)
{
	uint64_t path;
	long value = 0;

	remote_reset(&stub->remote);
	path = remote_push_string(&stub->remote, name);
	if (call(stub, &value, err, name, nr, ARGS(path)) < 0)
		return -1;
	return value < 0 ? err_code(err, (int)-value, "process %d: %s", stub->model->pid, name) : 0;
}

static int open_root(struct stub *stub, long *ret, struct err *err)
{
	uint64_t path;

	remote_reset(&stub->remote);
	path = remote_push_string(&stub->remote, "/");
	if (call(stub, ret, err, "/", SYS_openat,
		 ARGS((uint64_t)AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		return -1;
	return *ret < 0 ? err_code(err, (int)-*ret, "process %d: /", stub->model->pid) : 0;
}

/* *ret_root: the root it has left, -1: it has not. The process's own directory is restored later. */
static int enter(struct stub *stub, struct socket_place place, long *ret_root, struct err *err)
{
	const char *directory = place.directory && *place.directory ? place.directory : NULL;

	*ret_root = -1;
	if (place.root && (open_root(stub, ret_root, err) < 0 || change_to(stub, SYS_chroot, place.root, err) < 0))
		return -1;
	if (place.root && !directory)
		directory = "/";
	return directory ? change_to(stub, SYS_chdir, directory, err) : 0;
}

static int leave(struct stub *stub, long root, struct err *err)
{
	if (root < 0)
		return 0;
	if (call(stub, NULL, err, "fchdir", SYS_fchdir, ARGS((uint64_t)root)) < 0 ||
	    change_to(stub, SYS_chroot, ".", err) < 0)
		return -1;
	return inside_close(stub, (int)root, err);
}

/* bind or connect. */
static int with_address(struct stub *stub, long nr, int number, const ProtobufCBinaryData *address,
			struct socket_place place, int *ret_code, struct err *err)
{
	long value = 0, root;
	uint64_t at;

	if (enter(stub, place, &root, err) < 0)
		return -1;
	remote_reset(&stub->remote);
	at = remote_push(&stub->remote, address->data, address->len);
	if (call(stub, &value, err, nr == SYS_bind ? "bind" : "connect", nr,
		 ARGS((uint64_t)number, at, address->len)) < 0 ||
	    leave(stub, root, err) < 0)
		return -1;
	if (ret_code)
		*ret_code = value < 0 ? (int)-value : 0;
	else if (value < 0)
		return err_code(err, (int)-value, "process %d: %s", stub->model->pid,
				nr == SYS_bind ? "bind" : "connect");
	return 0;
}

int inside_bind(struct stub *stub, int number, const ProtobufCBinaryData *address,
		struct socket_place place, int *ret_code, struct err *err)
{
	return with_address(stub, SYS_bind, number, address, place, ret_code, err);
}

int inside_connect(struct stub *stub, int number, const ProtobufCBinaryData *address,
		   struct socket_place place, int *ret_code, struct err *err)
{
	return with_address(stub, SYS_connect, number, address, place, ret_code, err);
}

int inside_listen(struct stub *stub, int number, uint32_t backlog, struct err *err)
{
	return call(stub, NULL, err, "listen", SYS_listen, ARGS((uint64_t)number, backlog));
}

/* ---- sending ------------------------------------------------------------------------------- */

#define RIGHTS_MOST (STUB_SEND - 1) /* sent into the process together with the socket */

struct remote_send {
	struct msghdr msg;
	struct iovec iov;
	struct sockaddr_storage to;
	_Alignas(16) char control[CMSG_SPACE(sizeof(int) * RIGHTS_MOST) + CMSG_SPACE(sizeof(struct ucred))];
};

static void add_control(struct remote_send *s, int type, const void *data, size_t len)
{
	struct cmsghdr *c = (void *)(s->control + s->msg.msg_controllen);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	s->msg.msg_controllen += CMSG_SPACE(len);
}

/* Another's number may be told too (the capsule is ours), as long as it is anybody's: a zombie's. */
static bool can_be_sender(struct recovery *rec, const Snap__Peer *sender)
{
	return sender && stub_by_pid(rec, sender->pid);
}

/* Pointers are those of the process. 0: no room. */
static uint64_t push_send(struct recovery *rec, struct stub *stub, const Snap__SocketMessage *m, const int *rights,
			  const ProtobufCBinaryData *to)
{
	uint64_t at, data = remote_push(&stub->remote, m->data.data, m->data.len);
	struct remote_send *s = remote_data(&stub->remote, sizeof(*s), &at);

	if (!s || (m->data.len && !data))
		return 0;
	s->iov.iov_base = (void *)(uintptr_t)data;
	s->iov.iov_len = m->data.len;
	s->msg.msg_iov = (void *)(uintptr_t)(at + offsetof(struct remote_send, iov));
	s->msg.msg_iovlen = 1;
	if (to) {
		memcpy(&s->to, to->data, to->len);
		s->msg.msg_name = (void *)(uintptr_t)(at + offsetof(struct remote_send, to));
		s->msg.msg_namelen = (socklen_t)to->len;
	}
	if (m->n_open_files)
		add_control(s, SCM_RIGHTS, rights, m->n_open_files * sizeof(int));
	if (can_be_sender(rec, m->sender)) {
		const struct ucred sender = {m->sender->pid, m->sender->uid, m->sender->gid};

		add_control(s, SCM_CREDENTIALS, &sender, sizeof(sender));
	}
	if (s->msg.msg_controllen)
		s->msg.msg_control = (void *)(uintptr_t)(at + offsetof(struct remote_send, control));
	return at;
}

static int send_from(struct recovery *rec, struct stub *stub, const int *numbers, const Snap__SocketMessage *m,
		     const ProtobufCBinaryData *to, int *ret_code, struct err *err)
{
	struct remote_call *c;
	uint64_t at;

	remote_reset(&stub->remote);
	at = push_send(rec, stub, m, numbers + 1, to);
	c = at ? remote_call(&stub->remote, SYS_sendmsg, (uint64_t)numbers[0], at,
			     MSG_DONTWAIT | MSG_NOSIGNAL)
	       : NULL;
	if (!c)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d: a message of %zu bytes is too long to be sent again",
			       stub->model->pid, m->data.len);
	if (remote_run(&stub->remote, stub_thread(stub), err) < 0)
		return err_wrap(err, "process %d: sendmsg", stub->model->pid);
	*ret_code = c->ret < 0 ? (int)-c->ret : (size_t)c->ret < m->data.len ? EMSGSIZE : 0;
	remote_reset(&stub->remote);
	return 0;
}

int inside_send(struct recovery *rec, int from, const Snap__SocketMessage *m,
		const ProtobufCBinaryData *to, struct socket_place place, int *ret_code, struct err *err)
{
	struct stub *stub = stub_of_peer(rec, m->sender);
	int fds[STUB_SEND] = {from}, numbers[STUB_SEND];
	size_t n = 1;
	int result;
	long root;

	if (!stub || m->n_open_files > RIGHTS_MOST)
		return err_set(err, ERR_UNSUPPORTED, "a message with %zu descriptors in flight",
			       m->n_open_files);
	for (size_t i = 0; i < m->n_open_files; i++)
		fds[n++] = rec->open_fds[m->open_files[i]];
	if (stub_send(rec, stub, fds, n, numbers, err) < 0 || enter(stub, place, &root, err) < 0)
		return -1;
	result = send_from(rec, stub, numbers, m, to, ret_code, err);
	if (result == 0)
		result = leave(stub, root, err);
	for (size_t i = 0; i < n && result == 0; i++)
		result = inside_close(stub, numbers[i], err);
	return result;
}
