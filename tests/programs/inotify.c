/*
 * inotify.c: watches on a directory, on files in it and below it, on one far away, with numbers
 * that have gaps; an epoll instance that waits for the first, a process that waits in read(2) for
 * the second.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct watches {
	int fd, dir, file, once, far, gone, epoll;
	int gone_fd, others; /* others: an instance that is told what others close in the directory */
	char *path, *inner;
};

static void make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

static int watch(int fd, const char *path, uint32_t mask)
{
	int wd = inotify_add_watch(fd, path, mask);

	CHECK(wd > 0);
	return wd;
}

/* The next event, alone: its wd. */
static int next_event(int fd, uint32_t mask, const char *name)
{
	_Alignas(8) char buf[4096];
	const struct inotify_event *e = (const void *)buf;
	ssize_t n;

	do
		n = read(fd, buf, sizeof(buf));
	while (n < 0 && errno == EINTR);
	CHECK(n >= (ssize_t)sizeof(*e));
	CHECK_EQ(n, (ssize_t)(sizeof(*e) + e->len));
	CHECK_EQ(e->mask, mask);
	CHECK(name ? e->len && strcmp(e->name, name) == 0 : e->len == 0);
	return e->wd;
}

static void set_up(const struct target *t, struct watches *w)
{
	struct epoll_event event = {.events = EPOLLIN};
	char gone[64];

	w->path = target_path(t, "watched");
	w->inner = target_path(t, "watched/inner");
	CHECK(mkdir(w->path, 0700) == 0);
	make_file(w->inner);
	w->fd = inotify_init1(IN_NONBLOCK);
	w->epoll = epoll_create1(0);
	CHECK(w->fd >= 0 && w->epoll >= 0);
	CHECK(epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->fd, &event) == 0);
	CHECK((w->others = inotify_init1(IN_NONBLOCK)) >= 0);
	watch(w->others, w->path, IN_CLOSE_WRITE);
	CHECK_EQ(watch(w->fd, "/etc", IN_CREATE), 1);
	w->dir = watch(w->fd, w->path, IN_CREATE | IN_DELETE | IN_ONLYDIR);
	CHECK(inotify_rm_watch(w->fd, 1) == 0);
	CHECK_EQ(next_event(w->fd, IN_IGNORED, NULL), 1);
	w->file = watch(w->fd, w->inner, IN_CLOSE_WRITE);
	w->far = watch(w->fd, "/usr/lib", IN_CREATE);
	/* Without a name, but open. */
	CHECK((w->gone_fd = open(w->path, O_TMPFILE | O_RDWR, 0600)) >= 0);
	snprintf(gone, sizeof(gone), "/proc/self/fd/%d", w->gone_fd);
	w->gone = watch(w->fd, gone, IN_MODIFY | IN_CLOSE);
	w->once = watch(w->fd, "/", IN_DELETE_SELF | IN_ONESHOT);
}

/* Waits in read for the other instance. */
static void child(const char *path)
{
	int fd = inotify_init1(0), wd = watch(fd, path, IN_ATTRIB);

	CHECK(fd >= 0);
	CHECK_EQ(next_event(fd, IN_ATTRIB, NULL), wd);
	_exit(0);
}

static void check(struct watches *w)
{
	char *made;
	struct epoll_event event;
	char buf[64];

	CHECK_EQ(epoll_wait(w->epoll, &event, 1, 0), 0);
	CHECK(read(w->others, buf, sizeof(buf)) < 0 && errno == EAGAIN);
	CHECK_EQ(write(w->gone_fd, "x", 1), 1);
	CHECK_EQ(next_event(w->fd, IN_MODIFY, NULL), w->gone);
	make_file(w->inner);
	CHECK_EQ(next_event(w->fd, IN_CLOSE_WRITE, NULL), w->file);
	CHECK(asprintf(&made, "%s/made", w->path) > 0);
	make_file(made);
	CHECK_EQ(epoll_wait(w->epoll, &event, 1, 0), 1);
	CHECK_EQ(next_event(w->fd, IN_CREATE, "made"), w->dir);
	CHECK(unlink(made) == 0);
	CHECK_EQ(next_event(w->fd, IN_DELETE, "made"), w->dir);
	/* The same inode has the same watch. */
	CHECK_EQ(watch(w->fd, "/usr/lib", IN_CREATE), w->far);
	CHECK_EQ(watch(w->fd, "/", IN_DELETE_SELF), w->once);
	CHECK_EQ(inotify_add_watch(w->fd, "/nowhere", IN_CREATE), -1);
	CHECK(watch(w->fd, "/tmp", IN_DELETE_SELF) > w->once);
}

int main(int argc, char **argv)
{
	struct watches w;
	struct target t;
	int status;
	pid_t pid;

	target_start(&t, argc, argv);
	set_up(&t, &w);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		child(w.inner);
	target_ready(&t);
	target_wait(&t);
	check(&w);
	CHECK(chmod(w.inner, 0644) == 0);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	return target_pass(&t);
}
