#include "watchdog/caller.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "store/base/cleanup.h"

static int reserve_standard_fds(struct caller *caller, struct err *err)
{
	int fd;

	for (fd = 0; fd < 3; fd++) {
		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		/* The lowest free number is fd: those below are open. */
		if (open("/dev/null", O_RDWR | O_CLOEXEC) != fd)
			return err_sys(err, "cannot open /dev/null");
		caller->closed[fd] = true;
	}
	return 0;
}

static int compare_ints(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

static int note_outside(struct caller *caller, int fd, struct err *err)
{
	struct capsule_stream *more;
	struct stat st;

	if (fstat(fd, &st) < 0 || (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode)))
		return 0;
	more = reallocarray(caller->outside, caller->n_outside + 1, sizeof(*more));
	if (!more)
		return err_sys(err, "list of inherited descriptors");
	caller->outside = more;
	more[caller->n_outside++] =
		(struct capsule_stream){.used = true, .dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

static int add_fd(struct caller *caller, int fd, struct err *err)
{
	int *more = realloc(caller->fds, (caller->n_fds + 1) * sizeof(*more));

	if (!more)
		return err_sys(err, "list of inherited descriptors");
	caller->fds = more;
	caller->fds[caller->n_fds++] = fd;
	return 0;
}

static int list_inherited(struct caller *caller, struct err *err)
{
	cleanup_dir DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	if (!dir)
		return err_sys(err, "cannot open /proc/self/fd");
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);
		int flags;

		if (fd <= 2 || fd == dirfd(dir))
			continue;
		flags = fcntl(fd, F_GETFD);
		if (flags < 0 || flags & FD_CLOEXEC)
			continue;
		if (add_fd(caller, fd, err) < 0 || note_outside(caller, fd, err) < 0)
			return -1;
	}
	if (caller->n_fds > 0)
		qsort(caller->fds, caller->n_fds, sizeof(*caller->fds), compare_ints);
	return 0;
}

int caller_capture(struct caller *ret, struct err *err)
{
	struct caller caller = {0};
	struct sigaction plain = {.sa_handler = SIG_DFL};

	sigprocmask(SIG_SETMASK, NULL, &caller.mask);
	sigaction(SIGCHLD, &plain, &caller.sigchld);
	if (reserve_standard_fds(&caller, err) < 0 || list_inherited(&caller, err) < 0) {
		caller_restore(&caller);
		caller_clear(&caller);
		return -1;
	}
	*ret = caller;
	return 0;
}

void caller_release_fds(struct caller *caller)
{
	size_t i;

	for (i = 0; i < caller->n_fds; i++)
		close(caller->fds[i]);
	free(caller->fds);
	caller->fds = NULL;
	caller->n_fds = 0;
}

void caller_restore(const struct caller *caller)
{
	sigaction(SIGCHLD, &caller->sigchld, NULL);
	sigprocmask(SIG_SETMASK, &caller->mask, NULL);
}

void caller_clear(struct caller *caller)
{
	free(caller->fds);
	caller->fds = NULL;
	caller->n_fds = 0;
	free(caller->outside);
	caller->outside = NULL;
	caller->n_outside = 0;
}
