/*
 * sockets.h: the sockets of a recovery under way; for restore_socket*.c. Private to recovery/.
 *
 * All sockets are made in one step, after every other open file (those may be in flight), because two
 * ends, or a listening socket and whoever waits to be accepted, are made together. What a socket remembers
 * of its maker (SO_PEERCRED, credentials with messages, paths as the capsule has them) is made by the
 * process that it was of, everything else by us. Afterwards all are in rec->open_fds.
 */
#ifndef PAWL_RECOVERY_SOCKETS_H
#define PAWL_RECOVERY_SOCKETS_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "checkpointer/tracee/sockdiag.h"
#include "recovery/batch.h"

/* What a name in the file system means: where it starts from. */
struct socket_place {
	const char *root;      /* directory that is "/" for it; NULL: the capsule's root */
	const char *directory; /* of relative names; NULL or empty: as it comes */
};

/* A name bound where nobody sees it. Both as the capsule has them. */
struct hidden {
	char *root;
	char *path; /* root and the name */
};

struct socket_slot {
	char *root;     /* of its place, where it is hidden; NULL: it is not */
	int other;      /* temporary other end of one whose own is gone; -1: none */
	bool bound;     /* we have bound it to its path */
	bool connected; /* datagram sockets */
};

struct sockets {
	struct recovery *rec;
	struct socket_slot *slots; /* as model->open_files */
	struct hidden *hidden;
	size_t n_hidden;
};

/* ---- restore_sockets.c --------------------------------------------------------------------- */

bool is_socket(const struct recovery *rec, size_t index);
/* Never NULL: for a snapshot of a version without it, what it meant. */
const Snap__Socket *socket_model(const Snap__OpenFile *open);
Snap__Socket__State socket_state(const Snap__OpenFile *open);
/* -1: none. */
ssize_t socket_by_object(const struct recovery *rec, uint64_t object);
/* A fresh one with the options that must hold early. -1 with err. */
int make_socket(struct recovery *rec, size_t index, struct err *err);
int set_early_options(int fd, const Snap__OpenFile *open, struct err *err);
/* "open file 12 (127.0.0.1:80)" for messages; buf of 192. */
const char *socket_label(const struct recovery *rec, size_t index, char *buf, size_t len);
void set_int_option(int fd, int level, int name, int value);

/* ---- restore_sockets_inside.c: made and used by a process of the job ----------------------- */

/* The process of that peer, or another one where it is no more. */
struct stub *stub_of_peer(struct recovery *rec, const Snap__Peer *peer);
int inside_socket(struct stub *stub, const Snap__OpenFile *open, int *ret_number, struct err *err);
int inside_pair(struct recovery *rec, struct stub *stub, const Snap__OpenFile *open, int ret[2],
		struct err *err);
/* ret_code (may be NULL): errno of a failure, which is then none. */
int inside_bind(struct stub *stub, int number, const ProtobufCBinaryData *address,
		struct socket_place place, int *ret_code, struct err *err);
int inside_connect(struct stub *stub, int number, const ProtobufCBinaryData *address,
		   struct socket_place place, int *ret_code, struct err *err);
int inside_listen(struct stub *stub, int number, uint32_t backlog, struct err *err);
int inside_close(struct stub *stub, int number, struct err *err);
/* Takes the socket over from the process. -1 with err. */
int inside_take(struct stub *stub, int number, struct err *err);
/* Sends a message from socket `from` (ours) as the process that sent it, to `to` (may be NULL). */
int inside_send(struct recovery *rec, int from, const Snap__SocketMessage *m,
		const ProtobufCBinaryData *to, struct socket_place place, int *ret_code, struct err *err);

/* ---- restore_sockets_hidden.c -------------------------------------------------------------- */

/* A root below `in` (a directory; NULL: of temporary files) in which `path` is free and has its directory. NULL: cannot
 * be had, as where there is no capsule. Valid until the next one. */
const struct hidden *hide_name(struct sockets *s, const char *path, const char *in);
/* And frees s->hidden. */
void remove_hidden_names(struct sockets *s);

/* ---- restore_sockets_unix.c ---------------------------------------------------------------- */

/* In this order. */
int unix_make_named(struct sockets *s, struct err *err);
int unix_make_connected(struct sockets *s, struct err *err);
int unix_make_pending(struct sockets *s, struct err *err);
int unix_connect_datagram(struct sockets *s, bool mutual, struct err *err);
/* The path of a bound socket, whole, as the job knows it; NULL: abstract or no name. malloc'ed. */
char *unix_path(const ProtobufCBinaryData *address, const char *directory);
/* Where its local name is to be looked for; index -1: none of the job's. */
struct socket_place unix_place(const struct sockets *s, ssize_t index);
/* Paths that led nowhere any more. */
int unix_finish_paths(struct sockets *s, struct err *err);

/* ---- restore_sockets_inet.c ---------------------------------------------------------------- */

int inet_make_connected(struct sockets *s, struct err *err);
int inet_make_others(struct sockets *s, struct err *err);
int inet_make_pending(struct sockets *s, struct err *err);
int inet_connect_datagram(struct sockets *s, struct err *err);
/* Waits for what earlier connections still hold, unless at_once. ERR_BUSY names the port and what can be done. */
int bind_address(int fd, int protocol, const ProtobufCBinaryData *address, bool at_once, struct err *err);
/* A socket in open_fds to the address that it had. What it was allowed then and not any more it is allowed for
 * this: IP_FREEBIND, and to share its port with other sockets of the job, which holds until end_sharing. */
int bind_as_before(struct recovery *rec, size_t index, struct err *err);
void end_sharing(int fd, const Snap__OpenFile *open);
uint16_t port_of(const ProtobufCBinaryData *address);
bool has_address(int fd, const ProtobufCBinaryData *address);
/* Instead, before connect(2) from that address: other connections, ended ones too, may hold the port that a
 * connection went out from. bind(2) then refuses it; connect(2), where it has no other to choose, does not.
 * -1 where the kernel cannot do that (before Linux 6.3); it takes another port where this one is not among
 * those it would choose. */
int choose_port(int fd, const ProtobufCBinaryData *address);
/* After connect(2). */
void forget_choice(int fd);

/* ---- restore_sockets_multicast.c ----------------------------------------------------------- */

/* What cannot be joined on this machine is said. */
void join_groups(int fd, const Snap__Socket *s);

/* ---- restore_socket_queues.c --------------------------------------------------------------- */

int fill_streams(struct sockets *s, struct err *err);
int fill_datagrams(struct sockets *s, struct err *err);
/* Bytes of a stream from `from`, in order. */
int send_stream(struct recovery *rec, int from, Snap__SocketMessage **messages, size_t n,
		struct err *err);
uint64_t queued_bytes(const Snap__OpenFile *open);
/* As family (AF_INET or AF_INET6) writes it. */
void socket_address(const struct inet_address *a, int family, struct sockaddr_in6 *ret);

#endif
