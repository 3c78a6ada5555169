/*
 * Processes that have things in common: memory, descriptors, the working directory, signal
 * handlers. And one whose first thread has ended. What one changes after the recovery the others
 * must see.
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK (256 * 1024)

enum step { NOTHING, CHANGE, CHECK_IT, LEAVE };

/* Plain memory: shared by CLONE_VM only. */
static volatile int plain = 1;

static struct shared {
	volatile int step;
	volatile int seen[3]; /* what each child saw, + 1 */
	volatile int fd;
	volatile int ended_ok;
	volatile pid_t ended_pid;
} * shared;

static struct target target;

static void handler_a(int signo)
{
}

static void handler_b(int signo)
{
}

static void await(int step)
{
	while (shared->step < step)
		usleep(2000);
}

/* Shares all but the thread group: no C library call that keeps state of its own. */
static int live_in_memory(void *arg)
{
	await(CHANGE);
	plain = 77;
	signal(SIGUSR2, handler_b);
	shared->fd = open("/dev/null", O_RDONLY);
	shared->seen[0] = 1;
	await(LEAVE);
	syscall(SYS_exit, 5);
	return 0;
}

static int live_with_files(void *arg)
{
	await(CHECK_IT);
	shared->seen[1] = (plain == 1 && fcntl(shared->fd, F_GETFD) >= 0) + 1;
	await(LEAVE);
	syscall(SYS_exit, 6);
	return 0;
}

static int live_with_directory(void *arg)
{
	char name[4096];

	await(CHECK_IT);
	shared->seen[2] = (getcwd(name, sizeof(name)) && strcmp(name, "/usr") == 0) + 1;
	await(LEAVE);
	syscall(SYS_exit, 7);
	return 0;
}

static pid_t start(int (*body)(void *), int flags)
{
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	CHECK(stack != MAP_FAILED);
	pid = clone(body, stack + STACK, flags | SIGCHLD, NULL);
	CHECK(pid > 0);
	return pid;
}

static void *outlive(void *arg)
{
	char name[16] = {0};

	shared->ended_pid = getpid();
	await(CHECK_IT);
	CHECK_EQ(getpid(), shared->ended_pid);
	CHECK(gettid() != getpid());
	CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof(name)), 0);
	CHECK(strcmp(name, "survivor") == 0);
	shared->ended_ok = 1;
	await(LEAVE);
	exit(9);
}

/* The first thread ends; the process goes on. */
static pid_t start_headless(void)
{
	pid_t pid = fork();
	pthread_t thread;

	CHECK(pid >= 0);
	if (pid > 0)
		return pid;
	CHECK_EQ(pthread_create(&thread, NULL, outlive, NULL), 0);
	CHECK_EQ(pthread_setname_np(thread, "survivor"), 0);
	pthread_exit(NULL);
}

static void check_status(pid_t pid, int expected)
{
	int status;

	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, expected << 8);
}

int main(int argc, char **argv)
{
	pid_t memory, files, directory, headless;
	struct sigaction now;

	target_start(&target, argc, argv);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED);
	signal(SIGUSR2, handler_a);
	memory = start(live_in_memory, CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND);
	files = start(live_with_files, CLONE_FILES);
	directory = start(live_with_directory, CLONE_FS);
	headless = start_headless();
	for (int i = 0; i < 1000 && (!shared->ended_pid || process_state(headless) != 'Z'); i++)
		usleep(2000);
	CHECK_EQ(process_state(headless), 'Z');
	target_ready(&target);
	target_wait(&target);

	CHECK_EQ(process_state(headless), 'Z');
	CHECK_EQ(plain, 1);
	shared->step = CHANGE;
	for (int i = 0; i < 1000 && !shared->seen[0]; i++)
		usleep(2000);
	CHECK_EQ(shared->seen[0], 1);
	CHECK_EQ(plain, 77);
	CHECK_EQ(sigaction(SIGUSR2, NULL, &now), 0);
	CHECK(now.sa_handler == handler_b);
	CHECK(fcntl(shared->fd, F_GETFD) >= 0);
	CHECK_EQ(chdir("/usr"), 0);
	shared->step = CHECK_IT;
	for (int i = 0; i < 1000 && !(shared->seen[1] && shared->seen[2] && shared->ended_ok); i++)
		usleep(2000);
	CHECK_EQ(shared->seen[1], 2);
	CHECK_EQ(shared->seen[2], 2);
	CHECK_EQ(shared->ended_ok, 1);
	shared->step = LEAVE;
	check_status(memory, 5);
	check_status(files, 6);
	check_status(directory, 7);
	check_status(headless, 9);
	return target_pass(&target);
}
