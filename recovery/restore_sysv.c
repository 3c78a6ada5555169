/*
 * System V objects, empty or filled, under their old ids. The times and the numbers of processes
 * that ipcs(1) shows begin anew.
 */
#include "recovery/sysv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/tracee/inside.h"
#include "checkpointer/tracee/ipc_limits.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

int sysv_inside(struct recovery *rec, size_t index, int socket,
		int (*work)(void *making, struct err *err), struct err *err)
{
	struct sysv_making making = {rec, index, socket};

	if (rec->host->new_ids || !rec->host->init)
		return err_set(
			err, ERR_UNSUPPORTED,
			"System V objects and message queues cannot come back without a capsule");
	return inside_run(rec->host->init, work, &making, err);
}

int sysv_choose_id(const char *kind, int32_t id, struct err *err)
{
	char name[64], text[16];

	snprintf(name, sizeof(name), "kernel/%s_next_id", kind);
	snprintf(text, sizeof(text), "%d", id);
	if (ipc_sysctl_write(name, text) == 0)
		return 0;
	return err_set(err, errno == ENOENT ? ERR_UNSUPPORTED : ERR_SYSTEM,
		       "/proc/sys/%s: %s: without it no System V object comes back under its id "
		       "(CONFIG_CHECKPOINT_RESTORE)",
		       name, strerror(errno));
}

/* The creator's ids are the caller's, once and for all. The C library's setresuid(2) would speak to
 * all threads; only this task is meant. -1: unchanged. */
static int become(uint32_t uid, uint32_t gid)
{
	if ((gid != getegid() && syscall(SYS_setresgid, -1, gid, -1) < 0) ||
	    (uid != geteuid() && syscall(SYS_setresuid, -1, uid, -1) < 0))
		return -1;
	return 0;
}

int sysv_create(const Snap__SysvObject *object, const char *what,
		int (*make)(const void *ctx, key_t key, int flags), const void *ctx,
		struct err *err)
{
	uint32_t uid = geteuid(), gid = getegid();
	int id, code;

	if (become(object->creator_uid, object->creator_gid) < 0)
		log_warn("%s %d: its creator is not restored: %s", what, object->id,
			 strerror(errno));
	id = make(ctx, (key_t)object->key, IPC_CREAT | IPC_EXCL | 0600);
	code = errno;
	if (become(uid, gid) < 0)
		return err_sys(err, "%s %d: own identity", what, object->id);
	if (id < 0)
		return err_code(err, code, "%s %d, key 0x%x", what, object->id, object->key);
	if (id != object->id)
		return err_set(err, ERR_SYSTEM, "%s %d: it was given id %d", what, object->id, id);
	return 0;
}

void sysv_fill_perm(struct ipc_perm *perm, const Snap__SysvObject *object)
{
	perm->uid = object->uid;
	perm->gid = object->gid;
	perm->mode = object->mode & 0777;
}

/* ---- limits -------------------------------------------------------------------------------- */

static int set_limit(void *ctx, struct err *err)
{
	const struct sysv_making *m = ctx;
	const Snap__IpcLimit *l = m->rec->model->ipc_limits[m->index];
	char path[96], now[128] = "";
	cleanup_file FILE *file = NULL;

	snprintf(path, sizeof(path), "/proc/sys/%s", l->name);
	file = fopen(path, "re");
	if (file && fgets(now, sizeof(now), file))
		now[strcspn(now, "\n")] = '\0';
	(void)err;
	if (strcmp(now, l->value) != 0 && ipc_sysctl_write(l->name, l->value) < 0)
		log_warn("%s: %s is not restored: %s", path, l->value, strerror(errno));
	return 0;
}

int ipc_set_limit(struct recovery *rec, size_t index, struct err *err)
{
	return sysv_inside(rec, index, -1, set_limit, err);
}

/* ---- shared memory ------------------------------------------------------------------------- */

static int make_segment(const void *ctx, key_t key, int flags)
{
	const Snap__SysvSegment *s = ctx;
	int id = shmget(key, s->size, flags);

	/* Nothing tells whether it was made without a reservation. */
	return id < 0 && errno == ENOMEM ? shmget(key, s->size, flags | SHM_NORESERVE) : id;
}

static int set_segment(const Snap__SysvSegment *s, struct err *err)
{
	struct shmid_ds ds;

	if (shmctl(s->object->id, IPC_STAT, &ds) < 0)
		return err_sys(err, "System V shared memory %d", s->object->id);
	sysv_fill_perm(&ds.shm_perm, s->object);
	if (shmctl(s->object->id, IPC_SET, &ds) < 0)
		return err_sys(err, "owner and mode of System V shared memory %d", s->object->id);
	if (s->locked && shmctl(s->object->id, SHM_LOCK, NULL) < 0)
		log_warn("System V shared memory %d: not locked into memory: %s", s->object->id,
			 strerror(errno));
	return 0;
}

/* Attached to us, it can be filled. */
static int enter_segment(void *ctx, struct err *err)
{
	const struct sysv_making *m = ctx;
	const Snap__SysvSegment *s = m->rec->model->segments[m->index];
	void *at;

	if (sysv_choose_id("shm", s->object->id, err) < 0 ||
	    sysv_create(s->object, "System V shared memory", make_segment, s, err) < 0)
		return -1;
	at = shmat(s->object->id, NULL, 0);
	if (at == (void *)-1)
		return err_sys(err, "attaching System V shared memory %d", s->object->id);
	m->rec->segments[m->index] = at;
	return set_segment(s, err);
}

int segment_make(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__SysvSegment *s = rec->model->segments[index];
	const struct stored_content content = {.store = rec->store,
					       .root = rec->model->files[s->file]->content_root,
					       .size = s->size};

	if (sysv_inside(rec, index, -1, enter_segment, err) < 0)
		return -1;
	if (content_load(&content, rec->segments[index], err) < 0)
		return err_wrap(err, "System V shared memory %d", s->object->id);
	return 0;
}

static int remove_segment(void *ctx, struct err *err)
{
	const struct sysv_making *m = ctx;
	const Snap__SysvSegment *s = m->rec->model->segments[m->index];

	if (shmctl(s->object->id, IPC_RMID, NULL) < 0)
		return err_sys(err, "removing System V shared memory %d", s->object->id);
	return 0;
}

void segment_let_go(struct recovery *rec, size_t index)
{
	if (rec->segments[index])
		shmdt(rec->segments[index]);
	rec->segments[index] = NULL;
}

int segment_finish(struct recovery *rec, size_t index, struct err *err)
{
	if (rec->model->segments[index]->removed &&
	    sysv_inside(rec, index, -1, remove_segment, err) < 0)
		return -1;
	segment_let_go(rec, index);
	return 0;
}

/* ---- message queues ------------------------------------------------------------------------ */

struct message {
	long type;
	char data[];
};

static int make_queue(const void *ctx, key_t key, int flags)
{
	(void)ctx;
	return msgget(key, flags);
}

static int put_message(const Snap__SysvQueue *q, const Snap__SysvMessage *m, struct err *err)
{
	cleanup_free struct message *message = malloc(sizeof(*message) + m->data.len);

	if (!message)
		return err_set(err, ERR_SYSTEM, "out of memory");
	message->type = (long)m->type;
	if (m->data.len)
		memcpy(message->data, m->data.data, m->data.len);
	if (msgsnd(q->object->id, message, m->data.len, IPC_NOWAIT) < 0)
		return err_sys(err, "System V message queue %d: a message of %zu bytes",
			       q->object->id, m->data.len);
	return 0;
}

static int set_queue(const Snap__SysvQueue *q, uint64_t most_bytes, struct err *err)
{
	struct msqid_ds ds;
	uint64_t now;

	if (msgctl(q->object->id, IPC_STAT, &ds) < 0)
		return err_sys(err, "System V message queue %d", q->object->id);
	sysv_fill_perm(&ds.msg_perm, q->object);
	now = ds.msg_qbytes;
	ds.msg_qbytes = most_bytes > now ? most_bytes : now;
	if (msgctl(q->object->id, IPC_SET, &ds) == 0)
		return 0;
	/* Above the namespace's limit only root of the machine may go. */
	if (errno == EPERM && most_bytes > now) {
		ds.msg_qbytes = now;
		if (msgctl(q->object->id, IPC_SET, &ds) == 0) {
			log_warn("System V message queue %d may hold %" PRIu64 " bytes here, not %" PRIu64,
				 q->object->id, now, most_bytes);
			return 0;
		}
	}
	return err_sys(err, "owner, mode and size of System V message queue %d", q->object->id);
}

/* It may hold more than was allowed later: made small only when full. */
static int shrink_queue(const Snap__SysvQueue *q, struct err *err)
{
	struct msqid_ds ds;

	if (msgctl(q->object->id, IPC_STAT, &ds) < 0)
		return err_sys(err, "System V message queue %d", q->object->id);
	if (ds.msg_qbytes <= q->most_bytes)
		return 0;
	ds.msg_qbytes = q->most_bytes;
	if (msgctl(q->object->id, IPC_SET, &ds) < 0)
		return err_sys(err, "size of System V message queue %d", q->object->id);
	return 0;
}

static int enter_queue(void *ctx, struct err *err)
{
	const struct sysv_making *m = ctx;
	const Snap__SysvQueue *q = m->rec->model->queues[m->index];

	if (sysv_choose_id("msg", q->object->id, err) < 0 ||
	    sysv_create(q->object, "System V message queue", make_queue, q, err) < 0 ||
	    set_queue(q, q->most_bytes, err) < 0)
		return -1;
	for (size_t i = 0; i < q->n_messages; i++)
		if (put_message(q, q->messages[i], err) < 0)
			return -1;
	return shrink_queue(q, err);
}

int sysv_queue_make(struct recovery *rec, size_t index, struct err *err)
{
	return sysv_inside(rec, index, -1, enter_queue, err);
}
