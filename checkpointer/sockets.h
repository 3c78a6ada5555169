/*
 * sockets.h: the sockets of a frozen job; for collect_socket*.c.
 *
 * Sockets are described when the descriptors of all processes are known, because most of what there is to
 * say of one is said about two: who is connected to whom, and whether that is the job itself. Each is
 * looked at through a duplicate (pidfd_getfd(2), Linux 5.6), which is the very same socket: what is asked
 * of it, and changed for a moment to be able to ask, is changed for the job. So everything is put back before
 * the job runs again, and nothing is read but with MSG_PEEK, with the one exception of tcp_settle.
 */
#ifndef PAWL_CHECKPOINTER_SOCKETS_H
#define PAWL_CHECKPOINTER_SOCKETS_H

#include <sys/types.h>

#include "checkpointer/collect.h"
#include "checkpointer/descriptor.h"
#include "checkpointer/tracee/sockdiag.h"
#include "checkpointer/tracee/sockopts.h"

struct socket_note {
	size_t open_file;  /* index into model->open_files */
	struct collected_process *holder; /* one of those that have it, and its number there */
	int number;
	bool flying;       /* nobody has it: it is in flight to the holder's `number` */
	bool inherited;    /* from pawl's caller */
	int fd;            /* our duplicate */
	struct unix_info unix_info;
	int tcp_state;     /* net/tcp_states.h, of TCP sockets */
	struct inet_address local, remote; /* of Internet sockets */
	uint32_t inode;
};

/* A descriptor that is in a message, not in a process. */
struct flying_fd {
	int fd;            /* installed here by peeking */
	int32_t open_file;
};

struct socket_notes {
	struct socket_note *list;
	size_t n;
	struct numbers by_inode; /* of the list */
	/* What the options of a fresh socket of a kind are, as socket_options. */
	struct usual_options {
		int domain, type, protocol;
		struct {
			int len; /* 1 + it; 0: it cannot be asked */
			char bytes[SOCKET_OPTION_MOST];
		} values[SOCKET_OPTIONS_MOST];
	} *usual;
	size_t n_usual;
	struct flying_fd *flying;
	size_t n_flying;
	struct unix_info *unix_list; /* of the whole network namespace, where many are asked for: see look_up */
	size_t n_unix;
	struct numbers unix_by_inode;
	struct inet_info *tcp, *udp[2]; /* of the whole network namespace; NULL until asked for; [1]: UDP-Lite */
	size_t n_tcp, n_udp[2];
};

/* Shorthands; valid until the next open file is added. */
Snap__OpenFile *note_open_file(const struct collection *c, const struct socket_note *note);
Snap__Socket *note_socket(const struct collection *c, const struct socket_note *note);
/* ERR_UNSUPPORTED naming process, descriptor and what it is. */
int note_refuse(const struct socket_note *note, struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Says that a waiting connection without a client in the job will be gone (CONNECTIONS_RESET). */
void note_dropped(const struct socket_note *listener);
struct socket_note *note_by_inode(const struct collection *c, uint64_t inode);
int get_int_option(int fd, int level, int name); /* -1: it has none */
/* Whether an event is due now (poll(2)). */
bool has_event(int fd, short events, short wanted);
/* A descriptor that has been found in flight to `receiver`, installed here as fd: the open file that it is.
 * Takes fd over; on failure it stays the caller's. */
int collect_flying(struct collection *c, struct socket_note receiver, int fd, int32_t *ret_open_file,
		   struct err *err);
/* A process by the pid that we see; what the job sees in *ret->pid, 0: not of the job. */
int describe_peer(const struct collection *c, pid_t pid, uid_t uid, gid_t gid, Snap__Peer **ret,
		  struct err *err);

/* ---- collect_sockets_unix.c ---------------------------------------------------------------- */

int describe_unix(struct collection *c, size_t index, struct err *err);
/* With all sockets described: who is connected to whom. */
int relate_unix(struct collection *c, struct err *err);

/* ---- collect_sockets_inet.c ---------------------------------------------------------------- */

/* From the model's socket into the note. */
void inet_take_addresses(struct socket_note *note, const Snap__Socket *s);
/* Whether this machine has the address. */
bool inet_is_local(const struct inet_address *a);
/* Bound to an address that this machine does not have, which IP_FREEBIND allows, but has been taken back since. */
void describe_free_bind(const struct socket_note *note, Snap__Socket *s);
/* NULL: none of the list. */
const struct inet_info *inet_info_by_inode(const struct inet_info *list, size_t n, uint32_t inode);
int describe_udp(struct collection *c, size_t index, struct err *err);
/* An ICMP socket of ordinary users (icmp(7)): its port is the identifier. */
int describe_ping(struct collection *c, size_t index, struct err *err);
int describe_netlink(struct collection *c, size_t index, struct err *err);

/* ---- collect_sockets_tcp.c ----------------------------------------------------------------- */

int describe_tcp(struct collection *c, size_t index, struct err *err);
int relate_tcp(struct collection *c, struct err *err);

/* ---- collect_sockets_multicast.c ----------------------------------------------------------- */

int describe_memberships(struct collection *c, const struct socket_note *note, struct err *err);

/* ---- collect_sockets_tcp_queue.c ----------------------------------------------------------- */

/* All bytes on their way from `from` into the receive queue of `to`, whose queue is then saved. Where the
 * queue has no room for all of them, it is read empty and the same bytes are sent again the same way:
 * their order is kept, and the job, which stands still, cannot see it. */
int tcp_settle(struct collection *c, struct socket_note *from, struct socket_note *to,
	       struct err *err);
/* Looks at what has been received, from its beginning, wherever the job itself peeks. As recv(2). */
ssize_t tcp_peek(const struct socket_note *note, void *buf, size_t len);
/* The queue of a socket that nobody sends to any more. */
int tcp_copy_queue(struct collection *c, struct socket_note *note, struct err *err);

/* ---- collect_sockets_waiting.c ------------------------------------------------------------- */

/* Whether a connection that waits to be accepted can be taken out of its queue and put back. */
bool tcp_can_be_put_back(const struct collection *c, const struct inet_info *info);
/* The n connections that wait at `listener`, all of which can be put back: taken out, described with what
 * they have received, put back. */
int tcp_save_waiting(struct collection *c, struct socket_note *listener, size_t n, struct err *err);

/* ---- collect_socket_queues.c --------------------------------------------------------------- */

/* Messages received and not read, with descriptors in flight (which may add notes). */
int copy_messages(struct collection *c, size_t index, struct err *err);
/* The same of a socket `fd` of ours, into *messages. */
int copy_messages_of(struct collection *c, size_t index, int fd, Snap__SocketMessage ***messages,
		     size_t *n, struct err *err);

#endif
