#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/log.h"
#include "watchdog/supervise.h"

void wd_notice(struct watchdog *w, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		return;
	if (w->n_notices == WD_NOTICES)
		wd_tell_notices(w);
	w->notices[w->n_notices++] = text;
}

void wd_tell_notices(struct watchdog *w)
{
	size_t i;

	for (i = 0; i < w->n_notices; i++) {
		log_warn("%s", w->notices[i]);
		free(w->notices[i]);
	}
	w->n_notices = 0;
}

static bool same_regular_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && S_ISREG(x.st_mode) &&
	       x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

void wd_share_descriptions(pid_t leader)
{
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, leader, 0);
	int number;

	for (number = STDOUT_FILENO; pidfd >= 0 && number <= STDERR_FILENO; number++) {
		cleanup_fd int theirs = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

		if (theirs >= 0 && same_regular_file(theirs, number))
			dup2(theirs, number);
	}
}
