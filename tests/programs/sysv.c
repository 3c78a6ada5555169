/*
 * sysv.c: System V IPC. Segments attached by two processes, twice, read-only, in parts, to nobody,
 * removed while attached; semaphores with a waiter, with what SEM_UNDO gives back; queues with
 * messages of several types and a receiver. Ids, keys, owners, modes and content stay. Variant
 * "used": only what ends with the processes, for a job that shares its IPC namespace with the
 * machine.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE 100000
#define ROOM 102400 /* in pages */
#define PAGE 4096

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

struct message {
	long type;
	char text[200];
};

struct objects {
	int segment, lonely, removed, parted, sparse;
	char *first, *second, *read_only, *gone, *parts;
	int set, queue;
	pid_t child;
};

static int segment(key_t key, uint64_t seed)
{
	int id = shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0640);
	char *at;

	CHECK(id >= 0);
	at = shmat(id, NULL, 0);
	CHECK(at != (void *)-1);
	pattern_fill(at, SIZE, seed);
	CHECK(shmdt(at) == 0);
	return id;
}

static char *attach(int id, int flags)
{
	char *at = shmat(id, NULL, flags);

	CHECK(at != (void *)-1);
	return at;
}

static void make_segments(struct objects *o)
{
	struct shmid_ds ds;

	/* An id that no new namespace would give. */
	CHECK(shmctl(segment(IPC_PRIVATE, 0), IPC_RMID, NULL) == 0);
	o->segment = segment(0x7001, 1);
	o->first = attach(o->segment, 0);
	o->second = attach(o->segment, 0);
	o->read_only = attach(o->segment, SHM_RDONLY);
	o->lonely = segment(IPC_PRIVATE, 2);
	o->removed = segment(0x7002, 3);
	o->gone = attach(o->removed, 0);
	CHECK(shmctl(o->removed, IPC_RMID, NULL) == 0);
	o->parted = segment(0x7003, 4);
	o->parts = attach(o->parted, 0);
	CHECK(munmap(o->parts + PAGE, 2 * PAGE) == 0);
	CHECK(mprotect(o->parts + 5 * PAGE, PAGE, PROT_READ) == 0);
	CHECK(munmap(o->parts + 20 * PAGE, ROOM - 20 * PAGE) == 0);
	CHECK(mmap(o->parts + PAGE, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	o->sparse = shmget(IPC_PRIVATE, 256 << 20, 0600);
	CHECK(o->sparse >= 0 && shmctl(o->lonely, IPC_STAT, &ds) == 0);
	ds.shm_perm.mode = 0;
	CHECK(shmctl(o->lonely, IPC_SET, &ds) == 0);
}

static void operate(int set, unsigned short number, short op, short flags)
{
	struct sembuf sop = {number, op, flags};

	while (semop(set, &sop, 1) < 0)
		CHECK_EQ(errno, EINTR);
}

static void make_semaphores(struct objects *o)
{
	unsigned short values[300];

	for (int i = 0; i < 300; i++)
		values[i] = (unsigned short)(i * 100);
	values[0] = values[1] = 0;
	values[2] = 5;
	o->set = semget(0x7004, 300, IPC_CREAT | IPC_EXCL | 0620);
	CHECK(o->set >= 0);
	CHECK(semctl(o->set, 0, SETALL, (union semun){.array = values}) == 0);
	operate(o->set, 299, 3, 0);
}

static void put(int queue, long type, const char *text, size_t len)
{
	struct message m = {.type = type};

	if (len)
		memcpy(m.text, text, len);
	CHECK(msgsnd(queue, &m, len, 0) == 0);
}

static void make_queue(struct objects *o)
{
	struct msqid_ds ds;

	o->queue = msgget(0x7005, IPC_CREAT | IPC_EXCL | 0600);
	CHECK(o->queue >= 0);
	put(o->queue, 3, "third", 6);
	put(o->queue, 1, "first", 6);
	put(o->queue, 3, "", 0);
	put(o->queue, 2, "second", 7);
	CHECK(msgctl(o->queue, IPC_STAT, &ds) == 0);
	ds.msg_qbytes = 1000;
	CHECK(msgctl(o->queue, IPC_SET, &ds) == 0);
}

static void *nothing(void *arg)
{
	return arg;
}

/* Holds a lock that comes back at its end; waits for a message, then for a semaphore. */
static void child(struct objects *o)
{
	struct message m;
	pthread_t thread;

	operate(o->set, 2, -2, SEM_UNDO);
	operate(o->set, 299, 7, SEM_UNDO);
	operate(o->set, 298, -1, SEM_UNDO);
	operate(o->set, 298, 1, SEM_UNDO);
	CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
	operate(o->set, 3, 1, 0);
	while (msgrcv(o->queue, &m, sizeof(m.text), 77, 0) < 0)
		CHECK_EQ(errno, EINTR);
	CHECK(strcmp(m.text, "go on") == 0);
	operate(o->set, 0, -1, 0);
	strcpy(o->second + 64, "child");
	_exit(0);
}

static void check_segment(int id, key_t key, mode_t mode, unsigned attached)
{
	struct shmid_ds ds;

	CHECK(shmctl(id, IPC_STAT, &ds) == 0);
	CHECK_EQ(ds.shm_segsz, SIZE);
	CHECK_EQ(ds.shm_perm.__key, key);
	CHECK_EQ(ds.shm_perm.mode, mode);
	CHECK_EQ(ds.shm_perm.uid, geteuid());
	CHECK_EQ(ds.shm_perm.cuid, geteuid());
	CHECK_EQ(ds.shm_nattch, attached);
}

static void check_parts(const struct objects *o)
{
	static uint64_t whole[SIZE / 8];

	pattern_fill(whole, SIZE, 4);
	CHECK(memcmp(o->parts, whole, PAGE) == 0);
	CHECK(memcmp(o->parts + 3 * PAGE, (char *)whole + 3 * PAGE, 17 * PAGE) == 0);
	o->parts[PAGE] = 1;
	o->parts[6 * PAGE] = 1;
	CHECK(mprotect(o->parts + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(shmdt(o->parts) == 0);
	check_segment(o->parted, 0x7003, 0640, 4); /* the child's parts */
}

static void check_segments(const struct objects *o)
{
	struct shmid_ds ds = {.shm_perm = {.mode = 0600, .uid = geteuid(), .gid = getegid()}};
	char *at;

	check_segment(o->segment, 0x7001, 0640, 6);
	check_segment(o->removed, 0, 0640 | SHM_DEST, 2);
	CHECK(shmget(0x7002, 0, 0) < 0 && errno == ENOENT);
	CHECK_EQ(shmget(0x7001, 0, 0), o->segment);
	CHECK(pattern_holds(o->first, SIZE, 1) && pattern_holds(o->gone, SIZE, 3));
	o->first[100] ^= 1;
	CHECK(o->second[100] == o->first[100] && o->read_only[100] == o->first[100]);
	o->second[100] ^= 1;
	CHECK(mprotect(o->read_only, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
	CHECK(geteuid() == 0 ||
	      (shmat(o->lonely, NULL, SHM_RDONLY) == (void *)-1 && errno == EACCES));
	CHECK(shmctl(o->lonely, IPC_SET, &ds) == 0);
	check_segment(o->lonely, 0, 0600, 0);
	at = attach(o->lonely, SHM_RDONLY);
	CHECK(pattern_holds(at, SIZE, 2));
	CHECK(shmdt(at) == 0);
	CHECK(shmctl(o->sparse, IPC_STAT, &ds) == 0 && ds.shm_segsz == 256 << 20);
	check_parts(o);
}

static void check_semaphores(const struct objects *o)
{
	struct semid_ds ds;

	CHECK(semctl(o->set, 0, IPC_STAT, (union semun){.buf = &ds}) == 0);
	CHECK_EQ(semget(0x7004, 0, 0), o->set);
	CHECK_EQ(ds.sem_nsems, 300);
	CHECK_EQ(ds.sem_perm.mode, 0620);
	CHECK(ds.sem_otime != 0);
	for (int i = 4; i < 298; i++)
		CHECK_EQ(semctl(o->set, i, GETVAL), i * 100);
	CHECK_EQ(semctl(o->set, 0, GETVAL), 0);
	CHECK_EQ(semctl(o->set, 2, GETVAL), 3);
	CHECK_EQ(semctl(o->set, 298, GETVAL), 29800);
	CHECK_EQ(semctl(o->set, 299, GETVAL), 29910);
	CHECK_EQ(semctl(o->set, 3, GETPID), o->child);
}

static void check_message(int queue, long type, const char *text, long len)
{
	struct message m;

	CHECK_EQ(msgrcv(queue, &m, sizeof(m.text), 0, IPC_NOWAIT), len);
	CHECK_EQ(m.type, type);
	CHECK(len == 0 || strcmp(m.text, text) == 0);
}

static void check_queue(const struct objects *o)
{
	struct msqid_ds ds;

	CHECK(msgctl(o->queue, IPC_STAT, &ds) == 0);
	CHECK_EQ(ds.msg_qbytes, 1000);
	CHECK_EQ(ds.msg_qnum, 4);
	CHECK_EQ(msgget(0x7005, 0), o->queue);
	check_message(o->queue, 3, "third", 6);
	check_message(o->queue, 1, "first", 6);
	check_message(o->queue, 3, "", 0);
	check_message(o->queue, 2, "second", 7);
}

static void tidy(const struct objects *o)
{
	CHECK(shmctl(o->segment, IPC_RMID, NULL) == 0 && shmctl(o->lonely, IPC_RMID, NULL) == 0);
	CHECK(shmctl(o->parted, IPC_RMID, NULL) == 0 && shmctl(o->sparse, IPC_RMID, NULL) == 0);
	CHECK(semctl(o->set, 0, IPC_RMID) == 0 && msgctl(o->queue, IPC_RMID, NULL) == 0);
}

/* Removed while attached: nothing is left behind wherever it ends. */
static int used(struct target *t)
{
	int status, id = segment(IPC_PRIVATE, 1);
	char *first = attach(id, 0), *second = attach(id, SHM_RDONLY);
	pid_t pid;

	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
	CHECK(munmap(first + PAGE, PAGE) == 0);
	pid = fork();
	CHECK(pid >= 0);
	while (pid == 0 && first[64] != 7)
		sleep_ms(5);
	if (pid == 0) {
		first[65] = 8;
		_exit(0);
	}
	target_ready(t);
	target_wait(t);
	check_segment(id, 0, 0640 | SHM_DEST, 6);
	CHECK(pattern_holds(second, SIZE, 1));
	first[64] = 7;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(second[65] == 8);
	CHECK(shmdt(first) == 0 && shmdt(second) == 0);
	return target_pass(t);
}

int main(int argc, char **argv)
{
	struct objects o;
	struct target t;
	int status;

	target_start(&t, argc, argv);
	if (strcmp(t.variant, "used") == 0)
		return used(&t);
	make_segments(&o);
	make_semaphores(&o);
	make_queue(&o);
	o.child = fork();
	CHECK(o.child >= 0);
	if (o.child == 0)
		child(&o);
	while (semctl(o.set, 3, GETVAL) != 301)
		sleep_ms(1);
	target_ready(&t);
	target_wait(&t);
	check_segments(&o);
	check_semaphores(&o);
	check_queue(&o);
	put(o.queue, 77, "go on", 6);
	operate(o.set, 0, 1, 0);
	CHECK(waitpid(o.child, &status, 0) == o.child && status == 0);
	CHECK(strcmp(o.first + 64, "child") == 0 && strcmp(o.read_only + 64, "child") == 0);
	/* Its end gave back what it had taken. */
	CHECK_EQ(semctl(o.set, 2, GETVAL), 5);
	CHECK_EQ(semctl(o.set, 299, GETVAL), 29903);
	CHECK_EQ(semctl(o.set, 298, GETVAL), 29800);
	tidy(&o);
	return target_pass(&t);
}
