/*
 * empty_messages.h: messages of no bytes among those that a socket has not read.
 *
 * MSG_PEEK shows such a one behind others once and then never again: it is marked as seen, and passed over from then on
 * (`peeked` in __skb_try_recv_from_queue(), net/core/datagram.c). Only as the first of the queue, and without SO_PEEK_OFF,
 * is it shown each time. So what has been seen of a socket with such messages is kept until the next look, when what is
 * left of it tells where they stand. Where equal messages leave that open, the fewest are taken to have been read.
 */
#ifndef PAWL_CHECKPOINTER_EMPTY_MESSAGES_H
#define PAWL_CHECKPOINTER_EMPTY_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/snapshot.h"

struct empty_messages { /* starts as {0} */
	struct seen_queue {
		uint64_t inode;
		Snap__SocketMessage **messages; /* all of them, in order */
		size_t n;
	} * list;
	size_t n;
};

/* messages: what MSG_PEEK shows of the socket's queue, one after the other; those that it does not show are put among
 * them. first_is_empty: what is first in the queue has no bytes. ERR_UNSUPPORTED: such a one has descriptors, which
 * cannot be seen again. */
int empty_messages_add(const struct empty_messages *seen, uint64_t inode, bool first_is_empty,
		       Snap__SocketMessage ***messages, size_t *n, struct err *err);
/* Keeps a copy of them for the next time, if there is need. */
int empty_messages_note(struct empty_messages *seen, uint64_t inode, Snap__SocketMessage *const *messages, size_t n,
			struct err *err);
void empty_messages_clear(struct empty_messages *seen);

#endif
