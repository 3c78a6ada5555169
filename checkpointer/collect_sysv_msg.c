/* System V message queues. */
#include "checkpointer/sysv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

#include "store/base/cleanup.h"

#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13 /* Linux 4.17 */
#endif
#ifndef MSG_COPY
#define MSG_COPY 040000 /* Linux 3.8 with CONFIG_CHECKPOINT_RESTORE */
#endif

#define WHAT "a System V message queue"

struct message {
	long type;
	char data[];
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing " WHAT);
}

static int add_message(Snap__SysvQueue *q, const struct message *message, size_t len,
		       struct err *err)
{
	Snap__SysvMessage *m = snap_append(&q->messages, &q->n_messages, Snap__SysvMessage,
					   SNAP__SYSV_MESSAGE__INIT);

	if (!m || snap_set_bytes(&m->data, message->data, len) < 0)
		return no_memory(err);
	m->type = message->type;
	return 0;
}

/* No message is larger than all together. */
static int read_messages(Snap__SysvQueue *q, const struct msqid_ds *ds, int id, struct err *err)
{
	size_t room = ds->__msg_cbytes;
	cleanup_free struct message *message = malloc(sizeof(*message) + room + 1);

	if (!message)
		return no_memory(err);
	for (long i = 0; i < (long)ds->msg_qnum; i++) {
		ssize_t n = msgrcv(id, message, room, i, MSG_COPY | IPC_NOWAIT);

		if (n < 0)
			return sysv_refuse(&ds->msg_perm, id, WHAT,
					   errno == ENOSYS || errno == EINVAL
						   ? "this kernel does not let messages be copied "
						     "(CONFIG_CHECKPOINT_RESTORE)"
						   : strerror(errno),
					   err);
		if (add_message(q, message, (size_t)n, err) < 0)
			return -1;
	}
	return 0;
}

static int add_queue(struct sysv_look *look, const struct msqid_ds *ds, int id, struct err *err)
{
	Snap__Snapshot *m = look->c->model;
	Snap__SysvQueue *q;

	if (look->shared && !sysv_member(look->c, ds->msg_lspid) &&
	    !sysv_member(look->c, ds->msg_lrpid))
		return 0;
	q = snap_append(&m->queues, &m->n_queues, Snap__SysvQueue, SNAP__SYSV_QUEUE__INIT);
	if (!q)
		return no_memory(err);
	if (sysv_object(&ds->msg_perm, id, &q->object, err) < 0)
		return -1;
	q->most_bytes = ds->msg_qbytes;
	return read_messages(q, ds, id, err);
}

int sysv_collect_queues(struct sysv_look *look, struct err *err)
{
	struct msginfo info;
	struct msqid_ds ds;
	int most = msgctl(0, MSG_INFO, (struct msqid_ds *)(void *)&info);

	if (most < 0)
		return errno == ENOSYS ? 0 : err_sys(err, "listing System V message queues");
	for (int i = 0; i <= most; i++) {
		int id = msgctl(i, MSG_STAT_ANY, &ds);

		if (id >= 0 &&
		    refusals_go_on(&look->c->refusals, add_queue(look, &ds, id, err), err) < 0)
			return -1;
	}
	return 0;
}
