/*
 * POSIX message queues: those that processes have open, and in a capsule's own namespace all that
 * have a name. Messages cannot be looked at without being received: while the job stands still all
 * are received and sent again, in the order in which they came.
 */
#include "checkpointer/sysv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "checkpointer/descriptor.h"
#include "store/base/cleanup.h"

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing POSIX message queues");
}

static int refuse(const Snap__PosixQueue *q, const char *why, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "a POSIX message queue: /%s: %s", q->name, why);
}

/* ---- messages ------------------------------------------------------------------------------ */

static int take_one(Snap__PosixQueue *q, mqd_t mq, char *buf, struct err *err)
{
	Snap__PosixMessage *m;
	unsigned priority;
	ssize_t n = mq_receive(mq, buf, q->message_size, &priority);

	if (n < 0)
		return err_sys(err, "POSIX message queue /%s", q->name);
	m = snap_append(&q->messages, &q->n_messages, Snap__PosixMessage,
			SNAP__POSIX_MESSAGE__INIT);
	if (!m || snap_set_bytes(&m->data, buf, (size_t)n) < 0)
		return no_memory(err);
	m->priority = priority;
	return 0;
}

static int put_back(const Snap__PosixQueue *q, mqd_t mq, struct err *err)
{
	for (size_t i = 0; i < q->n_messages; i++) {
		const Snap__PosixMessage *m = q->messages[i];

		if (mq_send(mq, m->data.len ? (const char *)m->data.data : "", m->data.len,
			    m->priority) < 0)
			return err_sys(err, "POSIX message queue /%s: a message cannot be put back",
				       q->name);
	}
	return 0;
}

static int read_messages(Snap__PosixQueue *q, mqd_t mq, long n, struct err *err)
{
	cleanup_free char *buf = malloc(q->message_size);
	struct err back;
	int result = buf ? 0 : no_memory(err);

	for (long i = 0; i < n && result == 0; i++)
		result = take_one(q, mq, buf, err);
	if (put_back(q, mq, &back) < 0 && result == 0) {
		*err = back;
		result = -1;
	}
	return result;
}

/* "QSIZE:129        NOTIFY:0     SIGNO:10    NOTIFY_PID:8260" (ipc/mqueue.c, mqueue_read_file).
 * What a registration is to tell is not shown, and a message that arrives would use it up. */
static bool is_somebody_registered(mqd_t mq)
{
	char text[160];
	ssize_t n = pread(mq, text, sizeof(text) - 1, 0);
	const char *at;

	if (n < 0)
		return false;
	text[n] = '\0';
	at = strstr(text, "NOTIFY_PID:");
	return at && atoi(at + strlen("NOTIFY_PID:")) != 0;
}

/* mq: to read and write, O_NONBLOCK. */
static int fill_queue(Snap__PosixQueue *q, mqd_t mq, struct err *err)
{
	struct mq_attr attr;
	struct stat st;

	if (mq_getattr(mq, &attr) < 0 || fstat(mq, &st) < 0)
		return err_sys(err, "POSIX message queue /%s", q->name);
	q->unlinked = st.st_nlink == 0;
	q->inode = st.st_ino;
	q->mode = st.st_mode & 07777;
	q->uid = st.st_uid;
	q->gid = st.st_gid;
	q->most_messages = (uint64_t)attr.mq_maxmsg;
	q->message_size = (uint64_t)attr.mq_msgsize;
	if (is_somebody_registered(mq))
		return refuse(q, "a process is registered with mq_notify", err);
	return read_messages(q, mq, attr.mq_curmsgs, err);
}

static int add_queue(struct collection *c, const char *name, mqd_t mq, struct err *err)
{
	Snap__PosixQueue *q = snap_append(&c->model->posix_queues, &c->model->n_posix_queues,
					  Snap__PosixQueue, SNAP__POSIX_QUEUE__INIT);

	if (!q || snap_set_string(&q->name, name) < 0)
		return no_memory(err);
	return fill_queue(q, mq, err);
}

static int64_t find_queue(const struct collection *c, uint64_t inode)
{
	for (size_t i = 0; i < c->model->n_posix_queues; i++)
		if (c->model->posix_queues[i]->inode == inode)
			return (int64_t)i;
	return -1;
}

/* ---- open ones ----------------------------------------------------------------------------- */

/* "/name", or below where the file system is mounted; " (deleted)" behind it. */
static void name_of(const struct descriptor *d, char *name, size_t len)
{
	const char *slash = strrchr(d->link, '/');
	char *end;

	snprintf(name, len, "%s", slash ? slash + 1 : d->link);
	end = d->st.st_nlink == 0 ? strstr(name, " (deleted)") : NULL;
	if (end)
		*end = '\0';
}

int describe_mqueue(struct collection *c, const struct collected_process *p,
		    const struct descriptor *d, Snap__OpenFile *o, struct err *err)
{
	int64_t known = find_queue(c, d->st.st_ino);
	cleanup_fd int mq = -1;
	char name[sizeof(d->link)];

	o->kind = SNAP__OPEN_FILE__KIND__MESSAGE_QUEUE;
	if (known < 0) {
		mq = open(d->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (mq < 0)
			return descriptor_refuse(
				p, d, "a POSIX message queue that its user may not read and write",
				err);
		name_of(d, name, sizeof(name));
		known = (int64_t)c->model->n_posix_queues;
		if (add_queue(c, name, mq, err) < 0)
			return err->kind == ERR_UNSUPPORTED
				       ? err_wrap(err, "process %d (%s): fd %d", p->frozen->vpid,
						  p->frozen->stat.comm, d->fd)
				       : -1;
	}
	o->object = (uint64_t)known;
	return 0;
}

/* ---- those with a name --------------------------------------------------------------------- */

static int add_named(struct collection *c, const char *name, struct err *err)
{
	cleanup_free char *path = NULL;
	cleanup_fd int mq = -1;
	struct stat st;

	if (asprintf(&path, "/%s", name) < 0)
		return no_memory(err);
	mq = mq_open(path, O_RDWR | O_NONBLOCK);
	if (mq < 0 || fstat(mq, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(err, "POSIX message queue %s", path);
	return find_queue(c, st.st_ino) >= 0 ? 0 : add_queue(c, name, mq, err);
}

/* The namespace's file system, mounted nowhere (fsopen(2), Linux 5.2). NULL: there is none. */
static DIR *open_all(void)
{
	cleanup_fd int fs = fsopen("mqueue", FSOPEN_CLOEXEC), mount = -1;
	DIR *all;
	int fd;

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return NULL;
	mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	fd = mount < 0 ? -1 : openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	all = fd < 0 ? NULL : fdopendir(fd);
	if (!all && fd >= 0)
		close(fd);
	return all;
}

int mqueue_collect(struct sysv_look *look, struct err *err)
{
	cleanup_dir DIR *all = look->shared ? NULL : open_all();
	struct dirent *e;

	while (all && (e = readdir(all)))
		if (e->d_name[0] != '.' &&
		    refusals_go_on(&look->c->refusals, add_named(look->c, e->d_name, err), err) < 0)
			return -1;
	return 0;
}
