/*
 * descriptors.c: descriptors that are no plain files: FIFOs with content, with one end, removed; pipes in
 * packet mode; O_PATH; directories being read; files of /proc; namespaces; pidfds of a living, an ended and a
 * waited-for process; leases; owners of signals; flags; files with another name than they were opened by.
 */
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct descriptors {
	struct target target;
	char *fifo, *link, *file, *leased;
	int fifo_in, fifo_out, fifo_alone, fifo_gone_in, fifo_gone_out;
	int packets[2];
	int link_fd, path_fd, dir_path;
	DIR *dir;
	int status, mem, ns;
	int alive, zombie, reaped;
	pid_t child, dead;
	int lease;
	int owned[2];
	int append, other_name;
	int null, urandom, full;
	int unnamed;
	int locked, locked_read;
};

static char *path_of(const struct descriptors *d, const char *name)
{
	return target_path(&d->target, name);
}

static void set_up_fifos(struct descriptors *d)
{
	char *alone = path_of(d, "alone"), *gone = path_of(d, "gone");

	d->fifo = path_of(d, "fifo");
	CHECK(mkfifo(d->fifo, 0640) == 0 && mkfifo(alone, 0600) == 0 && mkfifo(gone, 0600) == 0);
	d->fifo_out = open(d->fifo, O_RDONLY | O_NONBLOCK);
	d->fifo_in = open(d->fifo, O_WRONLY);
	CHECK(d->fifo_in >= 0 && d->fifo_out >= 0);
	CHECK_EQ(write(d->fifo_in, "named content", 13), 13);
	d->fifo_alone = open(alone, O_RDONLY | O_NONBLOCK);
	d->fifo_gone_out = open(gone, O_RDONLY | O_NONBLOCK);
	d->fifo_gone_in = open(gone, O_WRONLY);
	CHECK(d->fifo_alone >= 0 && d->fifo_gone_out >= 0 && d->fifo_gone_in >= 0);
	CHECK_EQ(write(d->fifo_gone_in, "gone", 4), 4);
	CHECK(unlink(gone) == 0);
	CHECK(pipe2(d->packets, O_DIRECT | O_NONBLOCK) == 0);
	CHECK_EQ(write(d->packets[1], "first packet", 12), 12);
	CHECK_EQ(write(d->packets[1], "2nd", 3), 3);
	CHECK_EQ(write(d->packets[1], "the third", 9), 9);
}

static void expect(int fd, size_t room, const char *text)
{
	char buf[64] = {0};

	CHECK_EQ(read(fd, buf, room), strlen(text));
	CHECK(strcmp(buf, text) == 0);
}

static void check_fifos(struct descriptors *d)
{
	struct pollfd alone = {.fd = d->fifo_alone, .events = POLLIN};
	char byte;

	expect(d->fifo_out, 60, "named content");
	CHECK(read(d->fifo_out, &byte, 1) < 0 && errno == EAGAIN);
	CHECK_EQ(write(d->fifo_in, "more", 4), 4);
	expect(d->fifo_out, 60, "more");
	CHECK(close(d->fifo_in) == 0);
	CHECK_EQ(read(d->fifo_out, &byte, 1), 0);
	CHECK(poll(&alone, 1, 0) == 0);
	CHECK_EQ(read(d->fifo_alone, &byte, 1), 0);
	expect(d->fifo_gone_out, 60, "gone");
	CHECK_EQ(write(d->fifo_gone_in, "x", 1), 1);
	expect(d->fifo_gone_out, 60, "x");
	expect(d->packets[0], 5, "first");
	expect(d->packets[0], 60, "2nd");
	expect(d->packets[0], 60, "the third");
	CHECK(read(d->packets[0], &byte, 1) < 0 && errno == EAGAIN);
	CHECK_EQ(write(d->packets[1], "ab", 2), 2);
	CHECK_EQ(write(d->packets[1], "cd", 2), 2);
	expect(d->packets[0], 60, "ab");
	expect(d->packets[0], 60, "cd");
}

static void set_up_paths(struct descriptors *d)
{
	char *dir = path_of(d, "dir"), name[4096], other[4100];

	d->link = path_of(d, "link");
	d->file = path_of(d, "file");
	CHECK(symlink("nowhere", d->link) == 0);
	d->link_fd = open(d->link, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	d->append = open(d->file, O_RDWR | O_CREAT | O_APPEND | O_SYNC | O_NOATIME, 0600);
	CHECK_EQ(write(d->append, "0123456789", 10), 10);
	CHECK_EQ(lseek(d->append, 3, SEEK_SET), 3);
	d->path_fd = open(d->file, O_PATH);
	CHECK(d->link_fd >= 0 && d->append >= 0 && d->path_fd >= 0);
	CHECK(mkdir(dir, 0700) == 0);
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "%s/entry%d", dir, i);
		close(open(name, O_CREAT | O_WRONLY, 0600));
	}
	d->dir = opendir(dir);
	d->dir_path = open(dir, O_PATH | O_DIRECTORY);
	CHECK(d->dir && d->dir_path >= 0);
	snprintf(name, sizeof(name), "%s/named", dir);
	d->other_name = open(name, O_RDWR | O_CREAT, 0600);
	CHECK(d->other_name >= 0);
	CHECK_EQ(write(d->other_name, "linked", 6), 6);
	/* Its only name now is in another directory. */
	snprintf(other, sizeof(other), "%s/elsewhere", d->target.dir);
	CHECK(link(name, other) == 0 && unlink(name) == 0);
	d->unnamed = open(d->target.dir, O_TMPFILE | O_RDWR, 0600);
	CHECK(d->unnamed < 0 || write(d->unnamed, "unnamed", 7) == 7);
	d->null = open("/dev/null", O_RDWR);
	d->urandom = open("/dev/urandom", O_RDONLY);
	d->full = open("/dev/full", O_WRONLY);
}

static void check_paths(struct descriptors *d)
{
	struct stat st;
	char buf[64] = {0};
	int fd, flags;

	CHECK_EQ(readlinkat(d->link_fd, "", buf, sizeof(buf)), 7);
	CHECK(fcntl(d->link_fd, F_GETFD) == FD_CLOEXEC && fcntl(d->path_fd, F_GETFD) == 0);
	CHECK(fcntl(d->path_fd, F_GETFL) & O_PATH);
	CHECK(read(d->path_fd, buf, 1) < 0 && errno == EBADF);
	snprintf(buf, sizeof(buf), "/proc/self/fd/%d", d->path_fd);
	fd = open(buf, O_RDONLY);
	CHECK(fd >= 0);
	flags = fcntl(d->append, F_GETFL);
	CHECK((flags & (O_APPEND | O_NOATIME | O_ACCMODE)) == (O_APPEND | O_NOATIME | O_RDWR));
	CHECK((flags & O_SYNC) == O_SYNC);
	CHECK_EQ(lseek(d->append, 0, SEEK_CUR), 3);
	CHECK_EQ(write(d->append, "ab", 2), 2);
	CHECK_EQ(pread(fd, buf, 60, 0), 12);
	CHECK(fstatat(d->dir_path, "entry7", &st, 0) == 0);
	CHECK_EQ(pread(d->other_name, buf, 60, 0), 6);
	CHECK(fstat(d->other_name, &st) == 0 && st.st_nlink == 1);
	CHECK(d->unnamed < 0 || pread(d->unnamed, buf, 60, 0) == 7);
	CHECK_EQ(write(d->null, "x", 1), 1);
	CHECK_EQ(read(d->urandom, buf, 8), 8);
	CHECK(write(d->full, "x", 1) < 0 && errno == ENOSPC);
}

static void set_up_processes(struct descriptors *d)
{
	pid_t gone;

	d->child = fork();
	if (d->child == 0)
		for (;;)
			pause();
	d->alive = (int)syscall(SYS_pidfd_open, d->child, O_NONBLOCK);
	gone = fork();
	if (gone == 0)
		_exit(3);
	d->reaped = (int)syscall(SYS_pidfd_open, gone, 0);
	CHECK(waitpid(gone, NULL, 0) == gone);
	CHECK(d->alive >= 0 && d->reaped >= 0);
	d->status = open("/proc/self/status", O_RDONLY);
	d->mem = open("/proc/self/mem", O_RDWR);
	d->ns = open("/proc/self/ns/mnt", O_RDONLY);
	CHECK(d->status >= 0 && d->mem >= 0 && d->ns >= 0);
}

static void check_processes(struct descriptors *d)
{
	struct pollfd p[2] = {{.fd = d->alive, .events = POLLIN}, {.fd = d->reaped, .events = POLLIN}};
	static volatile int value = 17;
	char text[4096] = {0}, expected[64];
	int changed = 18, status;
	struct stat a, b;

	CHECK_EQ(poll(p, 2, 0), 1);
	CHECK(p[1].revents & POLLIN);
	CHECK(fcntl(d->alive, F_GETFL) & O_NONBLOCK);
	CHECK(syscall(SYS_pidfd_send_signal, d->reaped, 0, NULL, 0) < 0 && errno == ESRCH);
	CHECK(syscall(SYS_pidfd_send_signal, d->alive, SIGTERM, NULL, 0) == 0);
	CHECK(waitpid(d->child, &status, 0) == d->child && WTERMSIG(status) == SIGTERM);
	CHECK(pread(d->status, text, sizeof(text) - 1, 0) > 0);
	snprintf(expected, sizeof(expected), "\nPid:\t%d\n", getpid());
	CHECK(strstr(text, expected));
	CHECK_EQ(pwrite(d->mem, &changed, sizeof(changed), (off_t)(uintptr_t)&value), sizeof(changed));
	CHECK_EQ(value, 18);
	CHECK(fstat(d->ns, &a) == 0 && stat("/proc/self/ns/mnt", &b) == 0 && a.st_ino == b.st_ino);
}

static void set_up_signals(struct descriptors *d)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	sigaddset(&set, SIGRTMIN + 3);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	d->leased = path_of(d, "leased");
	d->lease = open(d->leased, O_RDWR | O_CREAT, 0600);
	CHECK_EQ(write(d->lease, "leased", 6), 6);
	CHECK(fcntl(d->lease, F_SETLEASE, F_WRLCK) == 0 && fcntl(d->lease, F_SETSIG, SIGRTMIN + 3) == 0);
	CHECK(pipe(d->owned) == 0);
	CHECK(fcntl(d->owned[0], F_SETOWN, getpid()) == 0);
	CHECK(fcntl(d->owned[0], F_SETSIG, SIGRTMIN + 2) == 0);
	CHECK(fcntl(d->owned[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
	d->locked_read = open(d->file, O_RDONLY);
	d->locked = open(d->file, O_RDWR);
	CHECK(fcntl(d->locked, F_SETLK, &lock) == 0);
}

static void take_signal(int signo, int fd)
{
	const struct timespec second = {1, 0};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo);
	CHECK_EQ(sigtimedwait(&set, &info, &second), signo);
	CHECK_EQ(info.si_fd, fd);
}

static void check_signals(struct descriptors *d)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	int status;
	pid_t pid;

	CHECK_EQ(fcntl(d->lease, F_GETLEASE), F_WRLCK);
	CHECK(open(d->leased, O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
	take_signal(SIGRTMIN + 3, d->lease);
	CHECK(fcntl(d->lease, F_SETLEASE, F_UNLCK) == 0);
	CHECK_EQ(fcntl(d->owned[0], F_GETOWN), getpid());
	CHECK_EQ(write(d->owned[1], "x", 1), 1);
	take_signal(SIGRTMIN + 2, d->owned[0]);
	pid = fork();
	if (pid == 0)
		_exit(fcntl(d->locked, F_SETLK, &lock) < 0 && errno == EAGAIN ? 0 : 1);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void count_entries(struct descriptors *d, int *count, int most)
{
	while (*count < most && readdir(d->dir))
		(*count)++;
}

int main(int argc, char **argv)
{
	struct descriptors d = {0};
	int entries = 0;

	target_start(&d.target, argc, argv);
	set_up_fifos(&d);
	set_up_paths(&d);
	set_up_processes(&d);
	set_up_signals(&d);
	count_entries(&d, &entries, 20);
	target_ready(&d.target);
	target_wait(&d.target);
	count_entries(&d, &entries, 1000);
	CHECK_EQ(entries, 52); /* with . and .. and one more file */
	check_paths(&d);
	check_processes(&d);
	check_fifos(&d);
	check_signals(&d);
	return target_pass(&d.target);
}
