#include "checkpointer/tracee/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "store/base/cleanup.h"

#define STACK_BYTES (512u * 1024u)
#define NAMESPACES  3

/* The user namespace first: it gives the right to join the others. */
static const struct {
	const char *name;
	int flag;
} kinds[NAMESPACES] = {{"user", CLONE_NEWUSER}, {"mnt", CLONE_NEWNS}, {"ipc", CLONE_NEWIPC}};

struct visit {
	int fds[NAMESPACES]; /* -1: it is ours */
	inside_work *work;
	void *ctx;
	struct err *err;
	int result;
};

static int open_namespace(pid_t pid, const char *name, struct err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? err_sys(err, "%s", path) : fd;
}

static int differs(int fd, const char *name, bool *ret, struct err *err)
{
	struct stat theirs, ours;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	if (fstat(fd, &theirs) < 0 || stat(path, &ours) < 0)
		return err_sys(err, "%s", path);
	*ret = theirs.st_ino != ours.st_ino || theirs.st_dev != ours.st_dev;
	return 0;
}

int inside_is_apart(pid_t pid, bool *ret, struct err *err)
{
	cleanup_fd int fd = open_namespace(pid, "ipc", err);

	return fd < 0 ? -1 : differs(fd, "ipc", ret, err);
}

static void close_visit(struct visit *v)
{
	for (int i = 0; i < NAMESPACES; i++)
		cleanup_fd_p(&v->fds[i]);
}

static int open_all(struct visit *v, pid_t pid, bool *ret_away, struct err *err)
{
	*ret_away = false;
	for (int i = 0; i < NAMESPACES; i++) {
		bool away = false;

		v->fds[i] = open_namespace(pid, kinds[i].name, err);
		if (v->fds[i] < 0 || differs(v->fds[i], kinds[i].name, &away, err) < 0)
			return -1;
		if (!away) {
			close(v->fds[i]);
			v->fds[i] = -1;
		}
		*ret_away |= away;
	}
	return 0;
}

static int visit(void *arg)
{
	struct visit *v = arg;

	for (int i = 0; i < NAMESPACES; i++)
		if (v->fds[i] >= 0 && setns(v->fds[i], kinds[i].flag) < 0) {
			v->result =
				err_sys(v->err, "joining the job's %s namespace", kinds[i].name);
			return 0;
		}
	v->result = v->work(v->ctx, v->err);
	return 0;
}

/* A child without an exit signal: nobody else of ours waits for it. */
static int wait_for(pid_t child, struct err *err)
{
	while (waitpid(child, NULL, __WCLONE) < 0)
		if (errno != EINTR)
			return err_sys(err, "waiting for what is done in the job's namespaces");
	return 0;
}

static int run_child(struct visit *v, char *stack)
{
	/* Its credentials change, which makes the memory undumpable (kernel/cred.c, commit_creds):
	 * ours. */
	int dumpable = prctl(PR_GET_DUMPABLE);
	sigset_t all, before;
	pid_t child;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	v->result = err_set(v->err, ERR_SYSTEM, "the visit to the job's namespaces was killed");
	child = clone(visit, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK, v);
	if (child < 0)
		v->result = err_sys(v->err, "clone");
	else if (wait_for(child, v->err) < 0)
		v->result = -1;
	if (dumpable >= 0 && prctl(PR_GET_DUMPABLE) != dumpable)
		prctl(PR_SET_DUMPABLE, dumpable);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return v->result;
}

int inside_run(pid_t pid, inside_work *work, void *ctx, struct err *err)
{
	struct visit v = {.fds = {-1, -1, -1}, .work = work, .ctx = ctx, .err = err};
	char *stack;
	bool away;
	int result;

	if (open_all(&v, pid, &away, err) < 0) {
		close_visit(&v);
		return -1;
	}
	if (!away)
		return work(ctx, err);
	stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	result = stack == MAP_FAILED ? err_sys(err, "stack") : run_child(&v, stack);
	if (stack != MAP_FAILED)
		munmap(stack, STACK_BYTES);
	close_visit(&v);
	return result;
}
