#include "checkpointer/empty_messages.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while copying what a socket has received");
}

static bool is_empty(const Snap__SocketMessage *m)
{
	return m->data.len == 0;
}

static bool same(const Snap__SocketMessage *a, const Snap__SocketMessage *b)
{
	return a->data.len == b->data.len && memcmp(a->data.data, b->data.data, a->data.len) == 0;
}

static struct seen_queue *find(const struct empty_messages *seen, uint64_t inode)
{
	for (size_t i = 0; i < seen->n; i++)
		if (seen->list[i].inode == inode)
			return &seen->list[i];
	return NULL;
}

/* Whether the queue can begin with all that was seen from `from` on, and then has others. */
static bool may_begin_with(const struct seen_queue *q, size_t from, bool first_is_empty,
			   Snap__SocketMessage *const *shown, size_t n)
{
	size_t at = 0;

	if (from < q->n && is_empty(q->messages[from]) != first_is_empty)
		return false;
	for (size_t i = from; i < q->n; i++) {
		if (is_empty(q->messages[i]))
			continue;
		if (at == n || !same(q->messages[i], shown[at]))
			return false;
		at++;
	}
	return true;
}

static Snap__SocketMessage *copy(const Snap__SocketMessage *m)
{
	size_t len = snap__socket_message__get_packed_size(m);
	cleanup_free uint8_t *packed = malloc(len + 1);

	if (!packed)
		return NULL;
	snap__socket_message__pack(m, packed);
	return snap__socket_message__unpack(NULL, len, packed);
}

static int insert(Snap__SocketMessage ***messages, size_t *n, size_t at, const Snap__SocketMessage *empty,
		  struct err *err)
{
	Snap__SocketMessage *mine, **list;

	if (empty->n_open_files)
		return err_set(err, ERR_UNSUPPORTED, "a message of no bytes with descriptors, seen once already");
	if (!snap_append(messages, n, Snap__SocketMessage, SNAP__SOCKET_MESSAGE__INIT) || !(mine = copy(empty)))
		return no_memory(err);
	list = *messages;
	free(list[*n - 1]);
	memmove(list + at + 1, list + at, (*n - 1 - at) * sizeof(*list));
	list[at] = mine;
	return 0;
}

int empty_messages_add(const struct empty_messages *seen, uint64_t inode, bool first_is_empty,
		       Snap__SocketMessage ***messages, size_t *n, struct err *err)
{
	static const Snap__SocketMessage unknown = SNAP__SOCKET_MESSAGE__INIT;
	const struct seen_queue *q = find(seen, inode);
	size_t from = 0;

	while (q && from < q->n && !may_begin_with(q, from, first_is_empty, *messages, *n))
		from++;
	for (size_t i = from; q && i < q->n; i++)
		if (is_empty(q->messages[i]) && insert(messages, n, i - from, q->messages[i], err) < 0)
			return -1;
	/* Seen by somebody else. */
	if (first_is_empty && (*n == 0 || !is_empty((*messages)[0])))
		return insert(messages, n, 0, &unknown, err);
	return 0;
}

static void forget(struct seen_queue *q)
{
	for (size_t i = 0; i < q->n; i++)
		snap__socket_message__free_unpacked(q->messages[i], NULL);
	free(q->messages);
	q->messages = NULL;
	q->n = 0;
}

static int keep(struct seen_queue *q, Snap__SocketMessage *const *messages, size_t n, struct err *err)
{
	q->messages = calloc(n, sizeof(*q->messages));
	for (; q->messages && q->n < n; q->n++)
		if (!(q->messages[q->n] = copy(messages[q->n])))
			break;
	return q->n == n ? 0 : no_memory(err);
}

int empty_messages_note(struct empty_messages *seen, uint64_t inode, Snap__SocketMessage *const *messages, size_t n,
			struct err *err)
{
	struct seen_queue *q = find(seen, inode);
	bool any = false;

	for (size_t i = 0; i < n; i++)
		any |= is_empty(messages[i]);
	if (q)
		forget(q);
	if (!any) {
		if (q)
			*q = seen->list[--seen->n];
		return 0;
	}
	if (!q) {
		struct seen_queue *more = reallocarray(seen->list, seen->n + 1, sizeof(*more));

		if (!more)
			return no_memory(err);
		seen->list = more;
		q = &more[seen->n++];
		*q = (struct seen_queue){.inode = inode};
	}
	return keep(q, messages, n, err);
}

void empty_messages_clear(struct empty_messages *seen)
{
	for (size_t i = 0; i < seen->n; i++)
		forget(&seen->list[i]);
	free(seen->list);
	*seen = (struct empty_messages){0};
}
