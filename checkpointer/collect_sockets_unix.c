#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "checkpointer/sockets.h"
#include "store/base/cleanup.h"

#define LISTED_FROM 16u /* sockets: that many are looked for among all of the machine's at once */
#define BOTH_HALVES (SOCKET_SHUT_RD | SOCKET_SHUT_WR)

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing a Unix socket");
}

/* ---- the file it is bound to --------------------------------------------------------------- */

/* The name as bind(2) was given it; NULL: it has none in the file system. */
static char *bound_path(const Snap__Socket *s)
{
	size_t at = offsetof(struct sockaddr_un, sun_path);

	if (s->local.len <= at || s->local.data[at] == '\0')
		return NULL;
	return strndup((const char *)s->local.data + at, s->local.len - at);
}

static bool leads_to(const struct socket_note *note, const char *path, struct stat *st)
{
	return lstat(path, st) == 0 && S_ISSOCK(st->st_mode) &&
	       (uint32_t)st->st_ino == note->unix_info.file_inode;
}

/* A relative name means something in some process's directory: whose? */
static int find_directory(const struct collection *c, const struct socket_note *note,
			  const char *name, struct stat *st, char **ret, struct err *err)
{
	*ret = NULL;
	for (size_t i = 0; i < c->n && !*ret; i++) {
		cleanup_free char *path = NULL;
		char link[64], dir[4096];
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/%d/cwd", c->processes[i].frozen->pid);
		if (asprintf(&path, "%s/%s", link, name) < 0)
			return no_memory(err);
		if (!leads_to(note, path, st) || (n = readlink(link, dir, sizeof(dir) - 1)) < 0)
			continue;
		*ret = strndup(dir, (size_t)n);
		if (!*ret)
			return no_memory(err);
	}
	return 0;
}

/* A program may have bound a name for the moment and then renamed it to the one that is looked for: in the same
 * directory. */
static int find_moved(const struct socket_note *note, const char *name, Snap__Socket *s, struct stat *st, struct err *err)
{
	char dir[PATH_MAX + 64], path[2 * PATH_MAX], whole[PATH_MAX];
	pid_t pid = note->holder->frozen->pid;
	cleanup_dir DIR *entries = NULL;
	struct dirent *entry;
	ssize_t n;

	snprintf(dir, sizeof(dir), "/proc/%d/%s/%s", pid, name[0] == '/' ? "root" : "cwd", name);
	*strrchr(dir, '/') = '\0';
	entries = opendir(dir);
	while (entries && (entry = readdir(entries))) {
		if ((uint32_t)entry->d_ino != note->unix_info.file_inode)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		if (!leads_to(note, path, st))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", dirfd(entries));
		n = readlink(path, whole, sizeof(whole) - 1);
		if (n < 0)
			return err_sys(err, "%s", dir);
		snprintf(path, sizeof(path), "%.*s/%s", (int)n, whole, entry->d_name);
		return snap_set_string(&s->moved_to, path) < 0 ? no_memory(err) : 0;
	}
	return 0;
}

static int describe_file(const struct collection *c, const struct socket_note *note,
			 Snap__Socket *s, struct err *err)
{
	cleanup_free char *name = bound_path(s), *path = NULL, *directory = NULL;
	struct stat st;

	if (!name || !note->unix_info.has_file)
		return 0;
	if (name[0] == '/') {
		if (asprintf(&path, "/proc/%d/root%s", note->holder->frozen->pid, name) < 0)
			return no_memory(err);
		s->unlinked = !leads_to(note, path, &st);
	} else {
		if (find_directory(c, note, name, &st, &directory, err) < 0)
			return -1;
		s->unlinked = !directory;
		if (directory && snap_set_string(&s->directory, directory) < 0)
			return no_memory(err);
	}
	if (s->unlinked && find_moved(note, name, s, &st, err) < 0)
		return -1;
	if (s->unlinked && !(s->moved_to && *s->moved_to))
		return 0;
	s->mode = st.st_mode & 07777;
	s->uid = st.st_uid;
	s->gid = st.st_gid;
	return 0;
}

/* ---- one socket ---------------------------------------------------------------------------- */

static int describe_creator(const struct collection *c, const struct socket_note *note,
			    Snap__Socket *s, struct err *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(note->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid <= 0)
		return 0;
	return describe_peer(c, peer.pid, peer.uid, peer.gid, &s->peer, err);
}

/* Its other end is outside, or will be gone: it comes back as one whose peer has been closed. */
static void hang_up(struct socket_note *note, Snap__OpenFile *o)
{
	o->peer = 0;
	if (o->type == SOCK_DGRAM)
		return;
	o->hung_up = true;
	o->socket->state = SNAP__SOCKET__STATE__CONNECTED;
	note->unix_info.shutdown = BOTH_HALVES;
}

static void describe_state(struct socket_note *note, Snap__OpenFile *o)
{
	const struct unix_info *info = &note->unix_info;
	Snap__Socket *s = o->socket;

	s->shutdown = info->shutdown;
	o->peer = info->peer;
	/* Sending to it is refused, until that has been said once: then it has no peer (unix_dgram_sendmsg). */
	if (o->type == SOCK_DGRAM)
		o->hung_up = info->has_peer && info->peer == 0;
	if (info->state == TCP_LISTEN) {
		s->state = SNAP__SOCKET__STATE__LISTENING;
		s->backlog = info->limit;
	} else if (o->type != SOCK_DGRAM && info->state == TCP_ESTABLISHED) {
		s->state = SNAP__SOCKET__STATE__CONNECTED;
		/* The other end without a descriptor is either closed or not accepted yet (relate_unix). */
		o->hung_up = info->peer == 0 && info->shutdown == BOTH_HALVES;
		s->reset = has_event(note->fd, 0, POLLERR);
	}
}

/* Of all sockets, before the first of many is looked for. */
static int list_all(struct socket_notes *notes, struct err *err)
{
	if (notes->n < LISTED_FROM || notes->unix_list)
		return 0;
	if (sockdiag_list_unix(&notes->unix_list, &notes->n_unix, err) < 0)
		return -1;
	for (size_t i = 0; i < notes->n_unix; i++)
		if (numbers_add(&notes->unix_by_inode, notes->unix_list[i].inode, (int32_t)i, err) < 0)
			return -1;
	return 0;
}

static int look_up(struct socket_notes *notes, struct socket_note *note, struct err *err)
{
	int32_t i;

	if (list_all(notes, err) < 0)
		return -1;
	i = numbers_next(&notes->unix_by_inode, note->inode, -1);
	if (i < 0)
		return sockdiag_unix(note->inode, &note->unix_info, err);
	note->unix_info = notes->unix_list[i];
	notes->unix_list[i].icons = NULL; /* the note's */
	return 0;
}

int describe_unix(struct collection *c, size_t index, struct err *err)
{
	struct socket_note *note = &c->sockets->list[index];
	Snap__OpenFile *o = note_open_file(c, note);
	struct err why;

	if (look_up(c->sockets, note, &why) < 0)
		return note_refuse(note, err, "a Unix socket that cannot be looked up (%s)", why.msg);
	describe_state(note, o);
	if (note->inherited)
		hang_up(note, o);
	if (describe_file(c, note, o->socket, err) < 0 ||
	    describe_creator(c, note, o->socket, err) < 0)
		return -1;
	if (o->socket->state == SNAP__SOCKET__STATE__LISTENING)
		return 0;
	return copy_messages(c, index, err);
}

/* ---- who is connected to whom -------------------------------------------------------------- */

static struct socket_note *listener_of(const struct collection *c, uint32_t client)
{
	for (size_t i = 0; i < c->sockets->n; i++) {
		struct socket_note *note = &c->sockets->list[i];

		for (size_t j = 0; j < note->unix_info.n_icons; j++)
			if (note->unix_info.icons[j] == client)
				return note;
	}
	return NULL;
}

static int refuse_outside(const struct collection *c, struct socket_note *note, struct err *err)
{
	Snap__OpenFile *o = note_open_file(c, note);
	const ProtobufCBinaryData *remote = &o->socket->remote;
	char where[128];

	if (c->config->connections == CONNECTIONS_RESET) {
		hang_up(note, o);
		o->socket->outside = true;
		return 0;
	}
	if (remote->len == 0)
		return note_refuse(note, err, "a Unix socket whose other end is outside the job");
	return note_refuse(note, err,
			   "a Unix socket connected to %s outside the job (see --connections)",
			   address_text(remote->data, remote->len, where, sizeof(where)));
}

/* Datagram sockets connected to a service of the system (a log daemon, say) find it again by name. */
static int relate_datagram(const struct collection *c, struct socket_note *note, struct err *err)
{
	Snap__OpenFile *o = note_open_file(c, note);

	if (!o->peer || note_by_inode(c, o->peer))
		return 0;
	if (o->socket->remote.len == 0)
		return refuse_outside(c, note, err);
	o->peer = 0;
	o->socket->outside = true;
	return 0;
}

static int relate_one(const struct collection *c, struct socket_note *note, struct err *err)
{
	Snap__OpenFile *o = note_open_file(c, note);

	if (o->type == SOCK_DGRAM)
		return relate_datagram(c, note, err);
	if (o->socket->state != SNAP__SOCKET__STATE__CONNECTED || o->hung_up)
		return 0;
	if (o->peer)
		return note_by_inode(c, o->peer) ? 0 : refuse_outside(c, note, err);
	if (!listener_of(c, note->inode))
		return refuse_outside(c, note, err);
	o->socket->state = SNAP__SOCKET__STATE__PENDING;
	return 0;
}

/* ---- connections that wait to be accepted -------------------------------------------------- */

static int add_pending(const struct collection *c, Snap__Socket *listener,
		       const struct socket_note *client, struct err *err)
{
	const Snap__Socket *s = note_socket(c, client);
	Snap__PendingConnection *p = snap_append(&listener->pending, &listener->n_pending,
						 Snap__PendingConnection,
						 SNAP__PENDING_CONNECTION__INIT);

	if (!p || snap_set_bytes(&p->address, s->local.data, s->local.len) < 0)
		return no_memory(err);
	p->client = client->inode;
	p->shutdown = s->shutdown;
	return describe_peer(c, client->holder->frozen->pid, client->holder->frozen->status.uid[1],
			     client->holder->frozen->status.gid[1], &p->peer, err);
}

static int relate_listener(struct collection *c, struct socket_note *note, struct err *err)
{
	const struct unix_info *info = &note->unix_info;

	if (info->queued != info->n_icons)
		return note_refuse(note, err, "a Unix socket with more connections waiting than can be "
					      "listed");
	for (size_t i = 0; i < info->n_icons; i++) {
		const struct socket_note *client =
			info->icons[i] ? note_by_inode(c, info->icons[i]) : NULL;
		int unread = 0;

		if (!client && c->config->connections == CONNECTIONS_RESET) {
			note_dropped(note);
			continue;
		}
		if (!client)
			return note_refuse(note, err,
					   "a listening Unix socket with a connection waiting that %s",
					   info->icons[i] ? "comes from outside the job (see --connections)"
							  : "its client has closed already");
		if (ioctl(client->fd, SIOCOUTQ, &unread) == 0 && unread > 0) {
			c->passing = true;
			return note_refuse(client, err,
					   "a Unix socket that has sent data on a connection not accepted yet");
		}
		if (add_pending(c, note_socket(c, note), client, err) < 0)
			return -1;
	}
	return 0;
}

int relate_unix(struct collection *c, struct err *err)
{
	for (size_t i = 0; i < c->sockets->n; i++) {
		struct socket_note *note = &c->sockets->list[i];
		const Snap__OpenFile *o = note_open_file(c, note);

		if (o->domain != AF_UNIX || note->inherited)
			continue;
		if (relate_one(c, note, err) < 0)
			return -1;
		if (o->socket->state == SNAP__SOCKET__STATE__LISTENING &&
		    relate_listener(c, note, err) < 0)
			return -1;
	}
	return 0;
}
