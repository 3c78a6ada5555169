/*
 * mqueue.c: POSIX message queues. Messages of several priorities in a queue that is open, in one
 * that nobody has open, in one without a name, behind a descriptor that only writes; a receiver
 * that waits.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct queues {
	char open[64], lonely[64], waited[64];
	mqd_t reader, writer, gone, waiting;
};

static mqd_t make(const char *name, long most, long size, mode_t mode)
{
	struct mq_attr attr = {.mq_maxmsg = most, .mq_msgsize = size};
	mqd_t mq = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attr);

	if (mq < 0 && errno == ENOSYS)
		target_skip("no POSIX message queues");
	CHECK(mq >= 0 && fchmod(mq, mode) == 0);
	return mq;
}

static void put(mqd_t mq, const char *text, unsigned priority)
{
	CHECK(mq_send(mq, text, strlen(text), priority) == 0);
}

static void take(mqd_t mq, const char *text, unsigned priority)
{
	char buf[100];
	unsigned found;
	ssize_t n;

	do
		n = mq_receive(mq, buf, sizeof(buf), &found);
	while (n < 0 && errno == EINTR);
	CHECK_EQ(n, strlen(text));
	CHECK(memcmp(buf, text, (size_t)n) == 0);
	CHECK_EQ(found, priority);
}

static void set_up(struct queues *q)
{
	snprintf(q->open, sizeof(q->open), "/open-%d", (int)getuid());
	snprintf(q->lonely, sizeof(q->lonely), "/lonely-%d", (int)getuid());
	snprintf(q->waited, sizeof(q->waited), "/waited-%d", (int)getuid());
	q->gone = make(q->open, 4, 50, 0600);
	CHECK(mq_unlink(q->open) == 0);
	put(q->gone, "gone", 7);
	q->reader = make(q->open, 7, 100, 0640);
	put(q->reader, "last", 1);
	put(q->reader, "first", 9);
	put(q->reader, "second", 9);
	put(q->reader, "", 5);
	q->writer = mq_open(q->open, O_WRONLY);
	CHECK(q->writer >= 0);
	q->waiting = make(q->waited, 2, 100, 0600);
	put(q->waiting, "there", 0);
	take(q->waiting, "there", 0);
	CHECK(mq_close(make(q->lonely, 3, 100, 0200)) == 0);
}

static void child(const struct queues *q)
{
	mqd_t mq = mq_open(q->waited, O_RDONLY);

	CHECK(mq >= 0);
	take(mq, "go on", 3);
	_exit(0);
}

static void check_open(const struct queues *q)
{
	struct mq_attr attr;
	struct stat st;
	mqd_t again;

	CHECK(mq_getattr(q->reader, &attr) == 0 && fstat(q->reader, &st) == 0);
	CHECK_EQ(attr.mq_maxmsg, 7);
	CHECK_EQ(attr.mq_msgsize, 100);
	CHECK_EQ(attr.mq_curmsgs, 4);
	CHECK_EQ(attr.mq_flags, O_NONBLOCK);
	CHECK_EQ(st.st_mode & 0777, 0640);
	CHECK(mq_getattr(q->writer, &attr) == 0 && attr.mq_flags == 0);
	put(q->writer, "third", 8);
	take(q->reader, "first", 9);
	take(q->reader, "second", 9);
	take(q->reader, "third", 8);
	take(q->reader, "", 5);
	take(q->reader, "last", 1);
	again = mq_open(q->open, O_RDONLY);
	CHECK(again >= 0 && mq_close(again) == 0);
	take(q->gone, "gone", 7);
	CHECK(fstat(q->gone, &st) == 0 && st.st_nlink == 0);
}

static void check_lonely(const struct queues *q)
{
	struct mq_attr attr;
	mqd_t mq = mq_open(q->lonely, O_WRONLY);

	CHECK(mq >= 0 && mq_getattr(mq, &attr) == 0);
	CHECK_EQ(attr.mq_maxmsg, 3);
	CHECK(mq_unlink(q->lonely) == 0);
}

int main(int argc, char **argv)
{
	struct queues q = {0};
	struct target t;
	int status;
	pid_t pid;

	target_start(&t, argc, argv);
	set_up(&q);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		child(&q);
	target_ready(&t);
	target_wait(&t);
	check_open(&q);
	check_lonely(&q);
	put(q.waiting, "go on", 3);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(mq_unlink(q.open) == 0 && mq_unlink(q.waited) == 0);
	return target_pass(&t);
}
