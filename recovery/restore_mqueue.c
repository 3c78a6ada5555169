/* POSIX message queues: made inside the capsule's IPC namespace, and handed out of it to us. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recovery/sysv.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"

static int hand_out(int socket, int fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (char[1]){0}, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control.room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(socket, &msg, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

static int take_over(int socket, int *ret_fd)
{
	char room[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = room,
			     .msg_controllen = sizeof(room)};
	const struct cmsghdr *c;

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != 1)
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	return 0;
}

/* Its mode may forbid to open it: that comes last. */
static int enter_queue(void *ctx, struct err *err)
{
	const struct sysv_making *m = ctx;
	const Snap__PosixQueue *q = m->rec->model->posix_queues[m->index];
	struct mq_attr attr = {.mq_maxmsg = (long)q->most_messages,
			       .mq_msgsize = (long)q->message_size};
	char path[NAME_MAX + 2];
	cleanup_fd int mq = -1;

	snprintf(path, sizeof(path), "/%s", q->name);
	mq = mq_open(path, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &attr);
	if (mq < 0)
		return err_sys(err,
			       "POSIX message queue %s of %llu messages of %llu bytes (see "
			       "mq_overview(7))",
			       path, (unsigned long long)q->most_messages,
			       (unsigned long long)q->message_size);
	if ((q->unlinked && mq_unlink(path) < 0) || hand_out(m->socket, mq) < 0)
		return err_sys(err, "POSIX message queue %s", path);
	return 0;
}

int mqueue_make(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__PosixQueue *q = rec->model->posix_queues[index];
	cleanup_fd int in = -1, out = -1;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "POSIX message queue /%s", q->name);
	in = pair[0];
	out = pair[1];
	if (sysv_inside(rec, index, in, enter_queue, err) < 0)
		return -1;
	if (take_over(out, &rec->queues[index]) < 0)
		return err_sys(err, "taking over POSIX message queue /%s", q->name);
	for (size_t i = 0; i < q->n_messages; i++) {
		const Snap__PosixMessage *m = q->messages[i];

		if (mq_send(rec->queues[index], m->data.len ? (const char *)m->data.data : "",
			    m->data.len, m->priority) < 0)
			return err_sys(err, "POSIX message queue /%s: a message", q->name);
	}
	return 0;
}

int open_mqueue(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__OpenFile *o = rec->model->open_files[index];
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", rec->queues[o->object]);
	fd = open(path, (int)(o->flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC);
	rec->open_fds[index] = fd;
	return fd < 0 ? err_sys(err, "POSIX message queue /%s",
				rec->model->posix_queues[o->object]->name)
		      : 0;
}

int mqueue_finish(struct recovery *rec, size_t index, struct err *err)
{
	const Snap__PosixQueue *q = rec->model->posix_queues[index];
	int mq = rec->queues[index];
	struct stat st;

	if (fstat(mq, &st) < 0)
		return err_sys(err, "POSIX message queue /%s", q->name);
	if ((st.st_uid != q->uid || st.st_gid != q->gid) && fchown(mq, q->uid, q->gid) < 0)
		log_warn("POSIX message queue /%s: its owner is not restored: %s", q->name,
			 strerror(errno));
	if (fchmod(mq, q->mode & 07777) < 0)
		return err_sys(err, "mode of POSIX message queue /%s", q->name);
	return 0;
}
