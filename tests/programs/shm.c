/*
 * shm.c: POSIX shared memory and semaphores in /dev/shm: named and open, named and mapped only, named and
 * neither, unlinked and mapped only (as multiprocessing makes its semaphores), unlinked and partly mapped,
 * hard links, symbolic links and directories; shared between two processes, and still writable.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE 65536

struct shared {
	int open_fd, gone_fd;
	char *open_map, *mapped, *gone, *part, *gone_file;
	char *gone_path;
	sem_t *semaphore, *gone_semaphore;
};

static char *map(int fd, size_t len, off_t offset)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	CHECK(p != MAP_FAILED);
	return p;
}

static int make(const char *name, uint64_t seed)
{
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
	char *p;

	CHECK(fd >= 0);
	CHECK(ftruncate(fd, SIZE) == 0);
	p = map(fd, SIZE, 0);
	pattern_fill(p, SIZE, seed);
	CHECK(munmap(p, SIZE) == 0);
	return fd;
}

static void set_up_names(void)
{
	CHECK(mkdir("/dev/shm/below", 0750) == 0);
	CHECK(symlink("plain", "/dev/shm/link") == 0);
	close(make("/plain", 3));
	CHECK(link("/dev/shm/plain", "/dev/shm/below/other") == 0);
	CHECK(chmod("/dev/shm/below", 0550) == 0);
	close(make("/empty", 9));
	CHECK(truncate("/dev/shm/empty", 0) == 0);
}

static void set_up(struct target *t, struct shared *s)
{
	int fd;

	s->open_fd = make("/open", 1);
	s->open_map = map(s->open_fd, SIZE, 0);
	fd = make("/mapped", 2);
	s->mapped = map(fd, SIZE, 0);
	close(fd);
	fd = make("/gone", 4);
	s->gone = map(fd, SIZE, 0);
	close(fd);
	CHECK(shm_unlink("/gone") == 0);
	fd = make("/part", 5);
	s->part = map(fd, 8192, 16384);
	close(fd);
	CHECK(shm_unlink("/part") == 0);
	s->gone_fd = make("/gonefd", 6);
	CHECK(shm_unlink("/gonefd") == 0);
	s->semaphore = sem_open("/counter", O_CREAT | O_EXCL, 0600, 3);
	s->gone_semaphore = sem_open("/gonecounter", O_CREAT | O_EXCL, 0600, 0);
	CHECK(s->semaphore != SEM_FAILED && s->gone_semaphore != SEM_FAILED);
	CHECK(sem_unlink("/gonecounter") == 0);
	s->gone_path = target_path(t, "removed");
	fd = open(s->gone_path, O_RDWR | O_CREAT | O_EXCL, 0600);
	CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
	s->gone_file = map(fd, SIZE, 0);
	pattern_fill(s->gone_file, SIZE, 7);
	CHECK(unlink(s->gone_path) == 0 && close(fd) == 0);
	set_up_names();
}

/* Waits for the parent's word, answers through every kind of shared memory. */
static void child(struct shared *s)
{
	while (sem_wait(s->gone_semaphore) < 0)
		CHECK_EQ(errno, EINTR);
	CHECK(memcmp(s->gone, "parent", 7) == 0);
	strcpy(s->gone + 64, "child");
	strcpy(s->mapped + 64, "child");
	strcpy(s->part + 64, "child");
	strcpy(s->gone_file + 64, "child");
	CHECK(sem_post(s->semaphore) == 0);
	_exit(0);
}

static void check_named(const char *name, uint64_t seed, size_t from)
{
	static char buf[SIZE];
	int fd = shm_open(name, O_RDONLY, 0);
	struct stat st;

	CHECK(fd >= 0);
	CHECK(fstat(fd, &st) == 0);
	CHECK_EQ(st.st_mode & 07777, 0640);
	CHECK_EQ(st.st_size, SIZE);
	CHECK_EQ(read(fd, buf, SIZE), SIZE);
	CHECK(from == 0 || memcmp(buf + 64, "child", 6) == 0);
	if (from == 0)
		CHECK(pattern_holds(buf, SIZE, seed));
	close(fd);
}

static void check_names(void)
{
	struct stat a, b;
	char target[16] = {0};

	CHECK(lstat("/dev/shm/below", &a) == 0);
	CHECK_EQ(a.st_mode, S_IFDIR | 0550);
	CHECK_EQ(readlink("/dev/shm/link", target, sizeof(target)), 5);
	CHECK(strcmp(target, "plain") == 0);
	CHECK(stat("/dev/shm/plain", &a) == 0 && stat("/dev/shm/below/other", &b) == 0);
	CHECK(a.st_ino == b.st_ino && a.st_nlink == 2);
	CHECK(stat("/dev/shm/empty", &a) == 0 && a.st_size == 0);
	CHECK(stat("/dev/shm/gone", &a) < 0 && errno == ENOENT);
	CHECK(stat("/dev/shm/gonefd", &a) < 0 && stat("/dev/shm/sem.gonecounter", &a) < 0);
	check_named("/plain", 3, 0);
}

static void check_memory(const struct shared *s)
{
	static char buf[SIZE];
	struct stat st;

	CHECK(pattern_holds(s->open_map, SIZE, 1));
	CHECK(pattern_holds(s->mapped, SIZE, 2));
	CHECK(pattern_holds(s->gone, SIZE, 4));
	CHECK(pattern_holds(s->gone_file, SIZE, 7));
	CHECK_EQ(pread(s->gone_fd, buf, SIZE, 0), SIZE);
	CHECK(pattern_holds(buf, SIZE, 6));
	CHECK(fstat(s->gone_fd, &st) == 0 && st.st_nlink == 0);
	CHECK(stat(s->gone_path, &st) < 0 && errno == ENOENT);
}

/* Without pawl it is the machine's /dev/shm. */
static void clean_up(void)
{
	static const char *const names[] = {"/dev/shm/below/other", "/dev/shm/link", "/dev/shm/plain", "/dev/shm/empty",
					    "/dev/shm/open", "/dev/shm/mapped", "/dev/shm/sem.counter"};

	CHECK(chmod("/dev/shm/below", 0750) == 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		CHECK(unlink(names[i]) == 0);
	CHECK(rmdir("/dev/shm/below") == 0);
}

int main(int argc, char **argv)
{
	struct shared s;
	struct target t;
	int status, value;
	pid_t pid;

	target_start(&t, argc, argv);
	set_up(&t, &s);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		child(&s);
	target_ready(&t);
	target_wait(&t);
	check_memory(&s);
	check_names();
	CHECK(sem_getvalue(s.semaphore, &value) == 0);
	CHECK_EQ(value, 3);
	strcpy(s.gone, "parent");
	CHECK(sem_post(s.gone_semaphore) == 0);
	for (int i = 0; i < 4; i++)
		while (sem_wait(s.semaphore) < 0)
			CHECK_EQ(errno, EINTR);
	CHECK(strcmp(s.gone + 64, "child") == 0 && strcmp(s.part + 64, "child") == 0);
	CHECK(strcmp(s.mapped + 64, "child") == 0 && strcmp(s.gone_file + 64, "child") == 0);
	check_named("/mapped", 0, 64);
	strcpy(s.open_map + 64, "child");
	check_named("/open", 0, 64);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	clean_up();
	return target_pass(&t);
}
