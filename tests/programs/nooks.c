/*
 * nooks.c: what descriptors and processes have beside what they are for: flags of each end of a pipe, that a memfd
 * which is open for writing can be executed, a symbolic link that is gone, who took a lock, two that are in the same
 * removed directory, two pidfds of the same ended process, registrations with membarrier(2), a file that
 * nobody may open any more, memory that the kernel may drop, a thread with a working directory of its own.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

struct nooks {
	struct target target;
	int pipe[2], other_write, both; /* its ends; another description of one; one that reads and writes another */
	int memfd;
	void *memory, *droppable;
	unsigned long long made_at;
	int link, locked, closed, pidfd[2], dir;
	pid_t locker;
	pthread_t apart;
	pthread_barrier_t barrier;
	int told[2];
};

/* ---- pipes, memfds, links ------------------------------------------------------------------ */

static int open_again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags);
}

static void set_up_ends(struct nooks *n)
{
	int other[2];

	CHECK(pipe(n->pipe) == 0 && (n->other_write = open_again(n->pipe[1], O_WRONLY)) >= 0);
	CHECK(fcntl(n->pipe[1], F_SETFL, O_NONBLOCK) == 0);
	/* The descriptor that writes comes first. */
	CHECK(dup2(n->pipe[0], 200) == 200 && close(n->pipe[0]) == 0);
	n->pipe[0] = 200;
	CHECK(pipe(other) == 0 && write(other[1], "kept", 4) == 4 && (n->both = open_again(other[0], O_RDWR)) >= 0);
	CHECK(close(other[0]) == 0 && close(other[1]) == 0);
}

static void check_ends(struct nooks *n)
{
	char buf[8];

	CHECK(fcntl(n->pipe[1], F_GETFL) & O_NONBLOCK);
	CHECK(!(fcntl(n->other_write, F_GETFL) & O_NONBLOCK) && !(fcntl(n->pipe[0], F_GETFL) & O_NONBLOCK));
	CHECK_EQ(fcntl(n->both, F_GETFL) & O_ACCMODE, O_RDWR);
	CHECK(read(n->both, buf, sizeof(buf)) == 4 && memcmp(buf, "kept", 4) == 0);
	CHECK(write(n->both, "more", 4) == 4 && read(n->both, buf, sizeof(buf)) == 4);
}

/* When this process was made (proc(5), /proc/PID/stat): later, where it has been recovered. */
static unsigned long long made_at(void)
{
	char text[1024] = "", *at;
	unsigned long long ticks;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && close(fd) == 0);
	CHECK((at = strrchr(text, ')')) != NULL);
	CHECK(sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) == 1);
	return ticks;
}

static void set_up_memfd(struct nooks *n)
{
	static const char script[] = "#!/bin/true\n";

	CHECK((n->memfd = memfd_create("script", 0)) >= 0);
	CHECK(write(n->memfd, script, sizeof(script) - 1) == sizeof(script) - 1);
	n->memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, n->memfd, 0);
	n->droppable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	if (n->droppable == MAP_FAILED)
		n->droppable = NULL; /* before Linux 6.11 */
	else
		*(volatile int *)n->droppable = 4711;
	n->made_at = made_at();
	CHECK(n->memory != MAP_FAILED && fcntl(n->memfd, F_SETFL, O_APPEND) == 0);
}

static void check_memfd(struct nooks *n)
{
	pid_t pid;
	int status;

	/* No copy of it may exist. */
	CHECK(!n->droppable || made_at() == n->made_at || *(volatile int *)n->droppable == 0);

	CHECK_EQ(lseek(n->memfd, 0, SEEK_CUR), 12);
	CHECK(fcntl(n->memfd, F_GETFL) & O_APPEND);
	CHECK((pid = fork()) >= 0);
	if (!pid) {
		syscall(SYS_execveat, n->memfd, "", (char *[]){"true", NULL}, (char *[]){NULL}, AT_EMPTY_PATH);
		_exit(errno);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0);
}

static void set_up_link(struct nooks *n)
{
	char *path = target_path(&n->target, "link");

	CHECK(symlink("no/where", path) == 0 && (n->link = open(path, O_PATH | O_NOFOLLOW)) >= 0);
	CHECK(unlink(path) == 0);
	free(path);
}

static void check_link(struct nooks *n)
{
	char text[32];
	struct stat st;

	CHECK(fstat(n->link, &st) == 0 && S_ISLNK(st.st_mode));
	CHECK(readlinkat(n->link, "", text, sizeof(text)) == 8 && memcmp(text, "no/where", 8) == 0);
}

/* ---- owners -------------------------------------------------------------------------------- */

/* Who took the flock, by what /proc shows. */
static int owner_of(int fd)
{
	char path[64], line[256];
	int pid = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	CHECK((f = fopen(path, "r")) != NULL);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "FLOCK"))
			CHECK(sscanf(line, "lock: %*d: FLOCK ADVISORY WRITE %d", &pid) == 1);
	fclose(f);
	return pid;
}

static void set_up_owners(struct nooks *n)
{
	char *path = target_path(&n->target, "locked");
	char byte;

	CHECK((n->locked = open(path, O_RDWR | O_CREAT, 0600)) >= 0 && pipe(n->told) == 0);
	free(path);
	CHECK((n->locker = fork()) >= 0);
	if (!n->locker) {
		CHECK(flock(n->locked, LOCK_EX) == 0 && write(n->told[1], "l", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(read(n->told[0], &byte, 1) == 1);
	CHECK_EQ(owner_of(n->locked), n->locker);
}

static void set_up_closed(struct nooks *n)
{
	char *path = target_path(&n->target, "closed");

	CHECK((n->closed = open(path, O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0 && write(n->closed, "text", 4) == 4);
	CHECK(fchmod(n->closed, 0) == 0);
	free(path);
}

static void check_closed(struct nooks *n)
{
	struct stat st;
	char buf[8];

	CHECK(pread(n->closed, buf, sizeof(buf), 0) == 4 && memcmp(buf, "text", 4) == 0);
	CHECK(fstat(n->closed, &st) == 0 && (st.st_mode & 0777) == 0);
}

static void check_owners(struct nooks *n)
{
	CHECK_EQ(owner_of(n->locked), n->locker);
	CHECK(kill(n->locker, SIGKILL) == 0 && waitpid(n->locker, NULL, 0) == n->locker);
}

/* ---- what has gone ------------------------------------------------------------------------- */

static void set_up_gone(struct nooks *n)
{
	char *path = target_path(&n->target, "gone");
	pid_t pid;

	CHECK(mkdir(path, 0700) == 0 && chdir(path) == 0 && (n->dir = open(".", O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK(rmdir(path) == 0);
	free(path);
	CHECK((pid = fork()) >= 0);
	if (!pid)
		_exit(0);
	for (int i = 0; i < 2; i++)
		CHECK((n->pidfd[i] = (int)syscall(SYS_pidfd_open, pid, 0)) >= 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
}

static void check_same(const struct stat *a, const char *path)
{
	struct stat b;

	CHECK(stat(path, &b) == 0);
	CHECK_EQ(a->st_ino, b.st_ino);
	CHECK_EQ(a->st_dev, b.st_dev);
}

static void check_gone(struct nooks *n)
{
	struct stat st, other;
	char path[64];

	CHECK(fstat(n->dir, &st) == 0 && st.st_nlink == 0);
	check_same(&st, ".");
	snprintf(path, sizeof(path), "/proc/%d/cwd", n->locker);
	check_same(&st, path);
	CHECK(fstat(n->pidfd[0], &st) == 0 && fstat(n->pidfd[1], &other) == 0);
	CHECK_EQ(st.st_ino, other.st_ino);
	CHECK(syscall(SYS_pidfd_send_signal, n->pidfd[1], 0, NULL, 0) < 0 && errno == ESRCH);
}

/* ---- a thread apart ------------------------------------------------------------------------ */

static void *apart_main(void *arg)
{
	struct nooks *n = arg;
	char path[64];

	CHECK(unshare(CLONE_FS) == 0 && chdir("/usr") == 0);
	umask(012);
	pthread_barrier_wait(&n->barrier); /* ready */
	pthread_barrier_wait(&n->barrier); /* saved, perhaps */
	CHECK(getcwd(path, sizeof(path)) && strcmp(path, "/usr") == 0);
	CHECK_EQ(umask(0), 012);
	return NULL;
}

static void set_up_apart(struct nooks *n)
{
	pthread_barrier_init(&n->barrier, NULL, 2);
	CHECK(pthread_create(&n->apart, NULL, apart_main, n) == 0);
	pthread_barrier_wait(&n->barrier);
	umask(021);
}

static void check_apart(struct nooks *n)
{
	pthread_barrier_wait(&n->barrier);
	CHECK(pthread_join(n->apart, NULL) == 0);
	CHECK_EQ(umask(0), 021);
}

int main(int argc, char **argv)
{
	struct nooks n;

	target_start(&n.target, argc, argv);
	CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
	set_up_ends(&n);
	set_up_memfd(&n);
	set_up_link(&n);
	set_up_closed(&n);
	set_up_gone(&n);
	set_up_owners(&n);
	set_up_apart(&n);
	target_ready(&n.target);
	target_wait(&n.target);
	CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
	check_ends(&n);
	check_memfd(&n);
	check_link(&n);
	check_closed(&n);
	check_gone(&n);
	check_owners(&n);
	check_apart(&n);
	return target_pass(&n.target);
}
