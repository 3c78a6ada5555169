/*
 * A process tree of every shape: zombies that wait to be collected, sessions and groups whose
 * leaders are dead, a daemon, orphans under init and under a subreaper, stopped children, children
 * made with other exit signals. Everything is asked again after the recovery, by the processes
 * themselves.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum member {
	MAIN,
	DAEMON,
	DAEMON_CHILD,
	GROUP_ORPHAN,
	SESSION_ORPHAN,
	EARLY,
	KEEPER,
	KEPT,
	WORKER,
	WORKER_2,
	MEMBERS,
};

struct place {
	volatile pid_t pid, ppid, pgid, sid;
	volatile int ok;
};

static struct shared {
	struct place place[MEMBERS];
	volatile int stop, leave;
} * shared;

static struct target target;

static void note(struct place *p)
{
	p->ppid = getppid();
	p->pgid = getpgrp();
	p->sid = getsid(0);
	p->pid = getpid();
}

static void check_place(enum member who)
{
	struct place now, *then = &shared->place[who];

	note(&now);
	CHECK_EQ(now.pid, then->pid);
	CHECK_EQ(now.ppid, then->ppid);
	CHECK_EQ(now.pgid, then->pgid);
	CHECK_EQ(now.sid, then->sid);
}

/* Where everybody but the main process ends up. maker: who is to die first, 0: nobody. */
static void live(enum member who, pid_t maker)
{
	while (getppid() == maker)
		sleep_ms(1);
	note(&shared->place[who]);
	while (!shared->stop)
		sleep_ms(10);
	check_place(who);
	shared->place[who].ok = 1;
	while (!shared->leave) /* a parent's end would move its children */
		sleep_ms(10);
	_exit(0);
}

static pid_t start(void (*body)(void))
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		body();
		_exit(99);
	}
	return pid;
}

static void wait_for_member(enum member who)
{
	for (int i = 0; i < 2000 && !shared->place[who].pid; i++)
		sleep_ms(5);
	CHECK(shared->place[who].pid != 0);
}

/* ---- the shapes ---------------------------------------------------------------------------- */

/* fork, setsid, fork: an orphan in a session whose leader is dead. */
static void session_orphan(void)
{
	if (fork() == 0) {
		pid_t leader = setsid();

		if (fork() == 0)
			live(SESSION_ORPHAN, leader);
		_exit(0);
	}
	_exit(0);
}

static void daemon_body(void)
{
	setsid();
	if (fork() == 0)
		live(DAEMON_CHILD, 0);
	wait_for_member(DAEMON_CHILD);
	live(DAEMON, 0);
}

/* The leader of the group dies, another member lives on as an orphan of it. */
static void group_leader(void)
{
	pid_t leader = getpid();

	setpgid(0, 0);
	if (fork() == 0)
		live(GROUP_ORPHAN, leader);
	_exit(0);
}

/* A session's leader with a child that was born before the session. */
static void early_parent(void)
{
	if (fork() == 0)
		live(EARLY, 0);
	wait_for_member(EARLY);
	setsid();
	live(WORKER_2, 0);
}

static void keeper_child(void)
{
	pid_t maker = getpid();

	if (fork() == 0)
		live(KEPT, maker);
	_exit(0);
}

static void keeper(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	CHECK(waitpid(start(keeper_child), NULL, 0) > 0);
	wait_for_member(KEPT);
	CHECK_EQ(shared->place[KEPT].ppid, getpid());
	live(KEEPER, 0);
}

static void worker(void)
{
	setpgid(0, 0);
	live(WORKER, 0);
}

/* ---- zombies and stopped ones -------------------------------------------------------------- */

static volatile sig_atomic_t children_heard, usr_heard;

static void on_child(int signo)
{
	if (signo == SIGCHLD)
		children_heard++;
	else
		usr_heard++;
}

static void exit_3(void)
{
	prctl(PR_SET_NAME, "gone three");
	_exit(3);
}

static void die_by_kill(void)
{
	kill(getpid(), SIGKILL);
}

static void die_by_segv(void)
{
	static const struct rlimit none;

	setrlimit(RLIMIT_CORE, &none);
	signal(SIGSEGV, SIG_DFL);
	kill(getpid(), SIGSEGV);
}

static void wait_and_exit(void)
{
	while (!shared->stop)
		sleep_ms(10);
	_exit(7);
}

static pid_t clone_with(int signo)
{
	struct clone_args args = {.exit_signal = (uint64_t)signo};
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

	CHECK(pid >= 0);
	if (pid == 0)
		_exit(11);
	return pid;
}

static void wait_zombie(pid_t pid)
{
	siginfo_t info;

	CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT | __WALL), 0);
	CHECK_EQ(info.si_pid, pid);
}

static void check_comm(pid_t pid, const char *expected)
{
	char path[64], text[64] = {0};
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	CHECK(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	text[strcspn(text, "\n")] = '\0';
	CHECK(strcmp(text, expected) == 0);
}

static void check_status(pid_t pid, int expected)
{
	int status;

	CHECK_EQ(waitpid(pid, &status, WNOHANG | __WALL), pid);
	CHECK_EQ(status, expected);
}

static void stop_child(pid_t pid, int signo, bool collect)
{
	siginfo_t info;
	int status;

	CHECK(kill(pid, signo) == 0);
	CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT), 0);
	if (collect)
		CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
}

/* A process that is let go is on its way back into its stop for a moment. */
static void check_stopped(pid_t pid)
{
	for (int i = 0; i < 200 && process_state(pid) != 'T'; i++)
		sleep_ms(5);
	CHECK_EQ(process_state(pid), 'T');
}

int main(int argc, char **argv)
{
	pid_t three, killed, segv, silent, usr, told, untold, workers[4];
	int heard, status;

	target_start(&target, argc, argv);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED);
	signal(SIGCHLD, on_child);
	signal(SIGUSR1, on_child);

	CHECK(waitpid(start(session_orphan), NULL, 0) > 0);
	CHECK(waitpid(start(group_leader), NULL, 0) > 0);
	workers[0] = start(daemon_body);
	workers[1] = start(early_parent);
	workers[2] = start(keeper);
	workers[3] = start(worker);
	for (int i = DAEMON; i < MEMBERS; i++)
		wait_for_member((enum member)i);
	/* The daemon's and the keeper's notes come a moment after their pids. */
	sleep_ms(50);

	three = start(exit_3);
	killed = start(die_by_kill);
	segv = start(die_by_segv);
	silent = clone_with(0);
	usr = clone_with(SIGUSR1);
	wait_zombie(three);
	wait_zombie(killed);
	wait_zombie(segv);
	wait_zombie(silent);
	wait_zombie(usr);
	told = start(wait_and_exit);
	untold = start(wait_and_exit);
	stop_child(told, SIGSTOP, true);
	stop_child(untold, SIGTSTP, false);
	note(&shared->place[MAIN]);
	heard = children_heard;
	CHECK_EQ(usr_heard, 1);
	target_ready(&target);
	target_wait(&target);

	/* Nobody hears twice of what it has heard. */
	CHECK_EQ(children_heard, heard);
	CHECK_EQ(usr_heard, 1);
	check_place(MAIN);
	check_comm(three, "gone three");
	check_status(three, 3 << 8);
	check_status(killed, SIGKILL);
	check_status(segv, SIGSEGV);
	check_status(usr, 11 << 8);
	CHECK_EQ(waitpid(silent, &status, WNOHANG), -1);
	CHECK_EQ(errno, ECHILD);
	check_status(silent, 11 << 8);
	check_stopped(told);
	check_stopped(untold);
	CHECK_EQ(waitpid(told, &status, WUNTRACED | WNOHANG), 0);
	CHECK_EQ(waitpid(untold, &status, WUNTRACED | WNOHANG), untold);
	CHECK(WIFSTOPPED(status));
	CHECK_EQ(WSTOPSIG(status), SIGTSTP);

	shared->stop = 1;
	sleep_ms(100);
	check_stopped(told);
	CHECK(kill(told, SIGCONT) == 0);
	CHECK(kill(untold, SIGCONT) == 0);
	CHECK_EQ(waitpid(told, &status, 0), told);
	CHECK_EQ(status, 7 << 8);
	CHECK_EQ(waitpid(untold, &status, 0), untold);
	for (int i = DAEMON; i < MEMBERS; i++) {
		for (int tries = 0; tries < 400 && !shared->place[i].ok; tries++)
			sleep_ms(5);
		CHECK_EQ(shared->place[i].ok, 1);
	}
	shared->leave = 1;
	for (int i = 0; i < 4; i++) {
		CHECK_EQ(waitpid(workers[i], &status, 0), workers[i]);
		CHECK_EQ(status, 0);
	}
	return target_pass(&target);
}
