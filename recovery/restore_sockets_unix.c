/*
 * Unix sockets: names, listening ones, connections between the job's processes.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "checkpointer/tracee/sockdiag.h"
#include "recovery/sockets.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

#define PATH_AT offsetof(struct sockaddr_un, sun_path)

static const Snap__OpenFile *model_of(const struct sockets *s, size_t i)
{
	return s->rec->model->open_files[i];
}

static bool is_unix(const struct sockets *s, size_t i)
{
	return is_socket(s->rec, i) && model_of(s, i)->domain == AF_UNIX;
}

static bool same_bytes(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

/* ---- paths --------------------------------------------------------------------------------- */

char *unix_path(const ProtobufCBinaryData *address, const char *directory)
{
	size_t len = address->len > PATH_AT ? address->len - PATH_AT : 0;
	const char *name = (const char *)address->data + PATH_AT;
	char *path = NULL;

	if (len == 0 || name[0] == '\0')
		return NULL;
	if (name[0] == '/')
		return strndup(name, len);
	if (asprintf(&path, "%s/%.*s", directory && *directory ? directory : "/", (int)len, name) < 0)
		return NULL;
	return path;
}

static int remember_path(struct recovery *rec, char **path, struct err *err)
{
	char **more = reallocarray(rec->socket_files, rec->n_socket_files + 1, sizeof(*more));

	if (!more)
		return err_set(err, ERR_SYSTEM, "out of memory");
	rec->socket_files = more;
	more[rec->n_socket_files++] = steal_ptr(path);
	return 0;
}

void unix_remove_paths(struct recovery *rec)
{
	char buf[PATH_MAX + 64];

	for (size_t i = 0; i < rec->n_socket_files; i++)
		unlink(capsule_path(rec, rec->socket_files[i], buf, sizeof(buf)));
}

/* Of a socket that is there: does somebody have it? Connecting a datagram socket disturbs nobody: to one of
 * another type it is refused with EPROTOTYPE. ECONNREFUSED: its socket is no more. */
static int is_dead(struct stub *stub, const ProtobufCBinaryData *address, const char *directory,
		   bool *ret, struct err *err)
{
	Snap__OpenFile like = SNAP__OPEN_FILE__INIT;
	int number, code;

	like.domain = AF_UNIX;
	like.type = SOCK_DGRAM;
	if (inside_socket(stub, &like, &number, err) < 0 ||
	    inside_connect(stub, number, address, (struct socket_place){NULL, directory}, &code, err) < 0)
		return -1;
	*ret = code == ECONNREFUSED || code == ENOENT;
	return inside_close(stub, number, err);
}

/* Whatever a dead socket of the job's earlier life has left there goes; nothing else. */
static int clear_path(struct sockets *s, struct stub *stub, const ProtobufCBinaryData *address,
		      const char *directory, const char *path, struct err *err)
{
	char buf[PATH_MAX + 64];
	const char *here = capsule_path(s->rec, path, buf, sizeof(buf));
	struct stat st;
	bool dead;

	if (lstat(here, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, ERR_BUSY, "%s: something else is where the job had a socket; move it away",
			       path);
	if (is_dead(stub, address, directory, &dead, err) < 0)
		return -1;
	if (!dead)
		return err_set(err, ERR_BUSY,
			       "%s: another program has its socket there; end it, then recover again", path);
	return unlink(here) < 0 ? err_sys(err, "%s", path) : 0;
}

static int set_ownership(struct sockets *s, const Snap__Socket *m, const char *path, struct err *err)
{
	char buf[PATH_MAX + 64];
	const char *here = capsule_path(s->rec, path, buf, sizeof(buf));
	struct stat st;

	if (lstat(here, &st) < 0)
		return err_sys(err, "%s", path);
	if ((st.st_uid != m->uid || st.st_gid != m->gid) && lchown(here, m->uid, m->gid) < 0)
		log_warn("%s: owner: %s", path, strerror(errno));
	return chmod(here, m->mode) < 0 ? err_sys(err, "%s", path) : 0;
}

struct socket_place unix_place(const struct sockets *s, ssize_t index)
{
	if (index < 0)
		return (struct socket_place){0};
	return (struct socket_place){s->slots[index].root, socket_model(model_of(s, (size_t)index))->directory};
}

/* The address of a path; false: too long. */
static bool path_address(const char *path, struct sockaddr_un *address, ProtobufCBinaryData *ret)
{
	size_t len = strlen(path) + 1;

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (len > sizeof(address->sun_path))
		return false;
	memcpy(address->sun_path, path, len);
	*ret = (ProtobufCBinaryData){PATH_AT + len, (uint8_t *)address};
	return true;
}

/* Its file, bound as `hidden`, had been renamed. */
static int move_file(struct sockets *s, const Snap__Socket *m, struct stub *stub, const char *hidden, struct err *err)
{
	char from[2 * PATH_MAX + 64], to[PATH_MAX + 64];
	cleanup_free char *kept = strdup(m->moved_to);
	struct sockaddr_un address;
	ProtobufCBinaryData at;

	if (path_address(m->moved_to, &address, &at) && clear_path(s, stub, &at, NULL, m->moved_to, err) < 0)
		return -1;
	/* Until all are connected it has both names. */
	if (link(capsule_path(s->rec, hidden, from, sizeof(from)), capsule_path(s->rec, m->moved_to, to, sizeof(to))) < 0)
		return err_sys(err, "%s", m->moved_to);
	return !kept || remember_path(s->rec, &kept, err) < 0 ? -1 : set_ownership(s, m, m->moved_to, err);
}

/* A name that does not lead to the socket is in nobody's way, nor anything in its. */
static const struct hidden *hide(struct sockets *s, size_t index, const char *path)
{
	const Snap__Socket *m = socket_model(model_of(s, index));
	cleanup_free char *dir = m->moved_to ? strdup(m->moved_to) : NULL;
	const struct hidden *h = hide_name(s, path, dir && *dir ? dirname(dir) : NULL);

	s->slots[index].root = h ? h->root : NULL;
	return h;
}

/* Binds socket `number` of the process to the name that open file `index` had. */
static int bind_name(struct sockets *s, size_t index, struct stub *stub, int number, struct err *err)
{
	const Snap__Socket *m = socket_model(model_of(s, index));
	cleanup_free char *path = unix_path(&m->local, m->directory);
	cleanup_free char *kept = path ? strdup(path) : NULL;
	const struct hidden *h = path && m->unlinked ? hide(s, index, path) : NULL;
	char text[128];
	int code;

	if (m->local.len == 0)
		return 0;
	if (path && !h && clear_path(s, stub, &m->local, m->directory, path, err) < 0)
		return -1;
	if (inside_bind(stub, number, &m->local, unix_place(s, (ssize_t)index), &code, err) < 0)
		return -1;
	address_text(m->local.data, m->local.len, text, sizeof(text));
	if (code == EADDRINUSE)
		return err_set(err, ERR_BUSY,
			       "%s: another program has a socket of that name; end it, then recover again",
			       text);
	if (code)
		return err_code(err, code, "binding a Unix socket to %s", text);
	s->slots[index].bound = path && !h;
	if (h && m->moved_to && *m->moved_to)
		return move_file(s, m, stub, h->path, err);
	if (!s->slots[index].bound)
		return 0;
	if (!m->unlinked && set_ownership(s, m, path, err) < 0)
		return -1;
	return remember_path(s->rec, &kept, err);
}

int unix_finish_paths(struct sockets *s, struct err *err)
{
	char buf[PATH_MAX + 64];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__Socket *m = socket_model(model_of(s, i));
		cleanup_free char *path = NULL;

		if (!is_unix(s, i) || !s->slots[i].bound || !m->unlinked)
			continue;
		path = unix_path(&m->local, m->directory);
		if (path && unlink(capsule_path(s->rec, path, buf, sizeof(buf))) < 0 && errno != ENOENT)
			return err_sys(err, "%s", path);
	}
	return 0;
}

/* ---- named and listening ------------------------------------------------------------------- */

static int take(struct sockets *s, size_t index, struct stub *stub, int number, struct err *err)
{
	int fd = inside_take(stub, number, err);

	if (fd < 0)
		return -1;
	s->rec->open_fds[index] = fd;
	return set_early_options(fd, model_of(s, index), err);
}

static int make_one_named(struct sockets *s, size_t index, struct err *err)
{
	const Snap__OpenFile *open = model_of(s, index);
	const Snap__Socket *m = socket_model(open);
	struct stub *stub = stub_of_peer(s->rec, m->peer);
	int number;

	if (inside_socket(stub, open, &number, err) < 0 || bind_name(s, index, stub, number, err) < 0)
		return -1;
	if (socket_state(open) == SNAP__SOCKET__STATE__LISTENING &&
	    inside_listen(stub, number, m->backlog, err) < 0)
		return -1;
	return take(s, index, stub, number, err);
}

static bool is_pair(const struct sockets *s, size_t index)
{
	const Snap__OpenFile *open = model_of(s, index);
	ssize_t peer = socket_by_object(s->rec, open->peer);

	return peer >= 0 && model_of(s, (size_t)peer)->peer == open->object &&
	       !socket_model(open)->local.len && !socket_model(model_of(s, (size_t)peer))->local.len;
}

/* A datagram socket without a name whose peer has been closed: that is there while it is filled. */
static bool is_widowed(const struct sockets *s, size_t index)
{
	const Snap__OpenFile *open = model_of(s, index);

	return open->type == SOCK_DGRAM && open->hung_up && !socket_model(open)->local.len;
}

int unix_make_named(struct sockets *s, struct err *err)
{
	/* A path that has been taken over by a later socket is bound first, and given up to that. */
	for (int unlinked = 1; unlinked >= 0; unlinked--) {
		for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
			const Snap__OpenFile *open = is_unix(s, i) ? model_of(s, i) : NULL;

			if (!open || s->rec->open_fds[i] >= 0 || is_pair(s, i) || is_widowed(s, i) ||
			    socket_model(open)->unlinked != unlinked ||
			    (socket_state(open) != SNAP__SOCKET__STATE__LISTENING &&
			     socket_state(open) != SNAP__SOCKET__STATE__UNCONNECTED))
				continue;
			if (make_one_named(s, i, err) < 0)
				return -1;
		}
	}
	return 0;
}

/* ---- connected ----------------------------------------------------------------------------- */

/* The two ends of a connection; -1: that one is no more. */
struct ends {
	ssize_t client, server;
	const ProtobufCBinaryData *name; /* of the server; empty: a pair */
	struct socket_place place;
};

static bool listens_at(const struct sockets *s, size_t i, const ProtobufCBinaryData *name)
{
	return is_unix(s, i) && socket_state(model_of(s, i)) == SNAP__SOCKET__STATE__LISTENING &&
	       same_bytes(&socket_model(model_of(s, i))->local, name);
}

static ssize_t find_listener(const struct sockets *s, const ProtobufCBinaryData *name)
{
	for (size_t i = 0; name->len && i < s->rec->model->n_open_files; i++)
		if (listens_at(s, i, name) && s->rec->open_fds[i] >= 0)
			return (ssize_t)i;
	return -1;
}

/* Who was connected to by name, who connected? */
static struct ends find_ends(const struct sockets *s, size_t index)
{
	const Snap__OpenFile *open = model_of(s, index);
	const Snap__Socket *m = socket_model(open);
	ssize_t peer = socket_by_object(s->rec, open->peer);
	bool is_client = m->remote.len && (!m->local.len || find_listener(s, &m->remote) >= 0);
	struct ends e = {.client = peer, .server = (ssize_t)index, .name = &m->local};

	if (is_client)
		e = (struct ends){.client = (ssize_t)index, .server = peer, .name = &m->remote};
	e.place.directory = e.server >= 0 ? socket_model(model_of(s, (size_t)e.server))->directory : "";
	return e;
}

static const Snap__Peer *peer_of(const struct sockets *s, ssize_t index)
{
	return index < 0 ? NULL : socket_model(model_of(s, (size_t)index))->peer;
}

static int give_ends(struct sockets *s, size_t index, ssize_t other, int mine, int theirs,
		     struct err *err)
{
	s->rec->open_fds[index] = mine;
	if (other < 0)
		s->slots[index].other = theirs;
	else
		s->rec->open_fds[other] = theirs;
	if (set_early_options(mine, model_of(s, index), err) < 0)
		return -1;
	return other < 0 ? 0 : set_early_options(theirs, model_of(s, (size_t)other), err);
}

static int make_pair(struct sockets *s, size_t index, struct err *err)
{
	const Snap__OpenFile *open = model_of(s, index);
	struct stub *stub = stub_of_peer(s->rec, socket_model(open)->peer);
	int pair[2];

	if (inside_pair(s->rec, stub, open, pair, err) < 0)
		return -1;
	return give_ends(s, index, socket_by_object(s->rec, open->peer), pair[0], pair[1], err);
}

/* A listening socket for one connection, where the real one is no more: who connected sees its maker.
 * *ret -1: the name cannot be had. */
static int make_listener(struct sockets *s, struct ends *e, int *ret, char **ret_path,
			 struct err *err)
{
	size_t any = (size_t)(e->client >= 0 ? e->client : e->server);
	struct stub *stub = stub_of_peer(s->rec, peer_of(s, e->client));
	cleanup_free char *path = unix_path(e->name, e->place.directory);
	const struct hidden *h = path ? hide_name(s, path, NULL) : NULL;
	int number, code;
	struct err why;

	*ret = -1;
	e->place.root = h ? h->root : NULL;
	if (path && !h && clear_path(s, stub, e->name, e->place.directory, path, &why) < 0)
		return 0;
	if (inside_socket(stub, model_of(s, any), &number, err) < 0 ||
	    inside_bind(stub, number, e->name, e->place, &code, err) < 0)
		return -1;
	if (code)
		return inside_close(stub, number, err);
	if (inside_listen(stub, number, 1, err) < 0)
		return -1;
	*ret_path = h ? NULL : steal_ptr(&path);
	*ret = inside_take(stub, number, err);
	return *ret < 0 ? -1 : 0;
}

static int make_client(struct sockets *s, const struct ends *e, int *ret, struct err *err)
{
	struct stub *stub = stub_of_peer(s->rec, peer_of(s, e->server));
	size_t any = (size_t)(e->client >= 0 ? e->client : e->server);
	int number;

	if (inside_socket(stub, model_of(s, any), &number, err) < 0 ||
	    (e->client >= 0 && bind_name(s, (size_t)e->client, stub, number, err) < 0) ||
	    inside_connect(stub, number, e->name, e->place, NULL, err) < 0)
		return -1;
	*ret = inside_take(stub, number, err);
	return *ret < 0 ? -1 : 0;
}

static int connect_through(struct sockets *s, const struct ends *e, int listener, struct err *err)
{
	int client, server;

	if (make_client(s, e, &client, err) < 0)
		return -1;
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (server < 0) {
		close(client);
		return err_sys(err, "accepting a connection of the job");
	}
	if (e->client >= 0)
		return give_ends(s, (size_t)e->client, e->server, client, server, err);
	return give_ends(s, (size_t)e->server, e->client, server, client, err);
}

static int make_connection(struct sockets *s, size_t index, struct err *err)
{
	struct ends e = find_ends(s, index);
	ssize_t at = s->rec->leave_files ? -1 : find_listener(s, e.name);
	cleanup_free char *path = NULL;
	cleanup_fd int temporary = -1;
	char buf[PATH_MAX + 64];
	int result;

	if (e.name->len == 0 || s->rec->leave_files)
		return make_pair(s, index, err);
	if (at >= 0)
		e.place = unix_place(s, at);
	if (at >= 0)
		return connect_through(s, &e, s->rec->open_fds[at], err);
	if (make_listener(s, &e, &temporary, &path, err) < 0)
		return -1;
	if (temporary < 0) {
		log_warn("a connection to %s comes back without that name",
			 address_text(e.name->data, e.name->len, buf, 128));
		return make_pair(s, index, err);
	}
	result = connect_through(s, &e, temporary, err);
	if (path)
		unlink(capsule_path(s->rec, path, buf, sizeof(buf)));
	return result;
}

int unix_make_connected(struct sockets *s, struct err *err)
{
	char label[192];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		int result = 0;

		if (!is_unix(s, i) || s->rec->open_fds[i] >= 0)
			continue;
		if (socket_state(model_of(s, i)) == SNAP__SOCKET__STATE__CONNECTED)
			result = make_connection(s, i, err);
		else if (is_pair(s, i) || is_widowed(s, i))
			result = make_pair(s, i, err);
		if (result < 0)
			return err_wrap(err, "%s", socket_label(s->rec, i, label, sizeof(label)));
	}
	return 0;
}

/* ---- waiting to be accepted ---------------------------------------------------------------- */

static int make_one_pending(struct sockets *s, size_t listener, const Snap__PendingConnection *p,
			    struct err *err)
{
	const Snap__Socket *m = socket_model(model_of(s, listener));
	ssize_t index = socket_by_object(s->rec, p->client);
	struct stub *stub = stub_of_peer(s->rec, p->peer);
	cleanup_fd int gone = -1;
	int number, fd;

	if (inside_socket(stub, model_of(s, listener), &number, err) < 0 ||
	    (index >= 0 && bind_name(s, (size_t)index, stub, number, err) < 0) ||
	    inside_connect(stub, number, &m->local, unix_place(s, (ssize_t)listener), NULL, err) < 0)
		return -1;
	if (index < 0)
		fd = gone = inside_take(stub, number, err);
	else if (take(s, (size_t)index, stub, number, err) == 0)
		fd = s->rec->open_fds[index];
	else
		return -1;
	if (fd < 0 || send_stream(s->rec, fd, p->messages, p->n_messages, err) < 0)
		return -1;
	return 0;
}

int unix_make_pending(struct sockets *s, struct err *err)
{
	char label[192];

	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__Socket *m = socket_model(model_of(s, i));

		for (size_t j = 0; is_unix(s, i) && j < m->n_pending; j++)
			if (make_one_pending(s, i, m->pending[j], err) < 0)
				return err_wrap(err, "%s",
						socket_label(s->rec, i, label, sizeof(label)));
	}
	return 0;
}

/* ---- datagram sockets ---------------------------------------------------------------------- */

static int connect_one(struct sockets *s, size_t index, struct err *err)
{
	const Snap__OpenFile *open = model_of(s, index);
	const Snap__Socket *m = socket_model(open);
	ssize_t peer = socket_by_object(s->rec, open->peer);
	struct stub *stub = stub_of_peer(s->rec, NULL);
	int number, code;

	if (stub_send(s->rec, stub, &s->rec->open_fds[index], 1, &number, err) < 0 ||
	    inside_connect(stub, number, &m->remote, unix_place(s, peer), &code, err) < 0)
		return -1;
	s->slots[index].connected = true;
	if (code && !m->outside)
		return err_code(err, code, "connecting a datagram socket again");
	if (code)
		log_warn("a Unix socket that was connected to a service of the system is not any more: %s",
			 strerror(code));
	return inside_close(stub, number, err);
}

int unix_connect_datagram(struct sockets *s, bool mutual, struct err *err)
{
	for (size_t i = 0; i < s->rec->model->n_open_files; i++) {
		const Snap__OpenFile *open = model_of(s, i);
		ssize_t peer;

		if (!is_unix(s, i) || open->type != SOCK_DGRAM || s->slots[i].connected ||
		    is_pair(s, i) || open->hung_up || socket_model(open)->remote.len == 0)
			continue;
		peer = socket_by_object(s->rec, open->peer);
		if (mutual && (peer < 0 || model_of(s, (size_t)peer)->peer != open->object))
			continue;
		if (connect_one(s, i, err) < 0)
			return -1;
	}
	return 0;
}
