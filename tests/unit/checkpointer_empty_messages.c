/*
 * Messages of no bytes that MSG_PEEK shows once: where they stand is told from what was seen the last time. In the
 * texts here a letter is a message, '.' one of no bytes.
 */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "checkpointer/empty_messages.h"

#define INODE 4711

static struct err err;

struct queue {
	Snap__SocketMessage **messages;
	size_t n;
};

static struct queue queue_of(const char *text)
{
	struct queue q = {0};

	for (; *text; text++) {
		Snap__SocketMessage *m =
			snap_append(&q.messages, &q.n, Snap__SocketMessage, SNAP__SOCKET_MESSAGE__INIT);

		assert_int_equal(snap_set_bytes(&m->data, text, *text != '.'), 0);
		/* Which of the empty ones it is. */
		assert_int_equal(snap_set_bytes(&m->from, &q.n, sizeof(q.n)), 0);
	}
	return q;
}

static void queue_free(struct queue *q)
{
	for (size_t i = 0; i < q->n; i++)
		snap__socket_message__free_unpacked(q->messages[i], NULL);
	free(q->messages);
}

static void note(struct empty_messages *seen, const char *text)
{
	struct queue q = queue_of(text);

	assert_int_equal(empty_messages_note(seen, INODE, q.messages, q.n, &err), 0);
	queue_free(&q);
}

/* before: what was seen; shown: what is shown now; the queue as it must be then. */
static void check(const char *before, const char *shown, bool first_is_empty, const char *expected)
{
	struct empty_messages seen = {0};
	struct queue q = queue_of(shown);
	char got[32] = "";

	note(&seen, before);
	assert_int_equal(empty_messages_add(&seen, INODE, first_is_empty, &q.messages, &q.n, &err), 0);
	for (size_t i = 0; i < q.n; i++)
		got[i] = q.messages[i]->data.len ? (char)q.messages[i]->data.data[0] : '.';
	assert_string_equal(got, expected);
	queue_free(&q);
	empty_messages_clear(&seen);
}

static void test_nothing_read(void **state)
{
	check("a.b", "ab", false, "a.b");
	check("a.b", "abc", false, "a.bc");
	check("a.b", "ab.", false, "a.b."); /* another one, shown for the first time */
	check("ab.", "ab", false, "ab.");
	check(".a..b", "ab", true, ".a..b");
	check("a", "ab", false, "ab");
}

static void test_some_read(void **state)
{
	check("ab.c", "bc", false, "b.c");
	check("a.b", "b", true, ".b");
	check("a.b", "b", false, "b");
	check("a.b", "bc", false, "bc");
	check("a..b", "b", true, "..b"); /* one may have been read, too */
	check("x.x.x", "xx", false, "x.x");
	check("a.", "", true, ".");
	check("a.b", "c", false, "c");
}

static void test_never_seen(void **state)
{
	check("", "a", true, ".a"); /* whoever has seen it was not us */
	check("", ".a", true, ".a");
	check("", "", true, ".");
	check("", "ab", false, "ab");
}

static void test_forgets(void **state)
{
	struct empty_messages seen = {0};
	struct queue q = queue_of("ab");

	note(&seen, "a.b");
	assert_int_equal(seen.n, 1);
	assert_int_equal(empty_messages_add(&seen, INODE + 1, false, &q.messages, &q.n, &err), 0);
	assert_int_equal(q.n, 2); /* another socket */
	note(&seen, "ab");
	assert_int_equal(seen.n, 0);
	empty_messages_clear(&seen);
	queue_free(&q);
}

/* What belongs to it comes back with it, but descriptors cannot. */
static void test_brings_back_what_it_had(void **state)
{
	struct queue before = queue_of("a.b"), q = queue_of("ab"), again = queue_of("ab");
	struct empty_messages seen = {0};
	size_t which = 2;

	assert_int_equal(empty_messages_note(&seen, INODE, before.messages, before.n, &err), 0);
	assert_int_equal(empty_messages_add(&seen, INODE, false, &q.messages, &q.n, &err), 0);
	assert_int_equal(q.n, 3);
	assert_memory_equal(q.messages[1]->from.data, &which, sizeof(which));
	before.messages[1]->open_files = calloc(1, sizeof(int32_t));
	before.messages[1]->n_open_files = 1;
	assert_int_equal(empty_messages_note(&seen, INODE, before.messages, before.n, &err), 0);
	assert_int_equal(empty_messages_add(&seen, INODE, false, &again.messages, &again.n, &err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	empty_messages_clear(&seen);
	queue_free(&before);
	queue_free(&q);
	queue_free(&again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_read),	       cmocka_unit_test(test_some_read),
		cmocka_unit_test(test_never_seen),	       cmocka_unit_test(test_forgets),
		cmocka_unit_test(test_brings_back_what_it_had),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
