/* Runs in a fork of the watchdog: no allocation, no locks (see init.h). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "watchdog/init.h"

static int place_stream(int number, int from)
{
	if (from < 0)
		return close(number);
	if (from == number)
		return 0;
	return dup2(from, number);
}

static bool is_on_path(const char *name)
{
	char file[PATH_MAX];

	for (const char *dir = getenv("PATH"); dir;) {
		size_t len = strcspn(dir, ":");

		snprintf(file, sizeof(file), "%.*s/%s", len ? (int)len : 1, len ? dir : ".", name);
		if (access(file, F_OK) == 0)
			return true;
		dir = dir[len] ? dir + len + 1 : NULL;
	}
	return false;
}

/* execvp(3) answers EACCES as soon as one directory of PATH may not be searched (a root shell's PATH in the
 * hands of another user), whether or not the program is anywhere: to a shell that is "not found". */
static int why_not_run(const char *name, int code)
{
	return code == EACCES && !strchr(name, '/') && !is_on_path(name) ? ENOENT : code;
}

void launch_exec(const struct init_plan *plan, int report_fd)
{
	const struct capsule_config *config = plan->config;
	int code, i;

	/* SIGTTOU is blocked here, as everything is: a background process may set the foreground.
	 */
	setpgid(0, 0);
	if (config->terminal >= 0)
		tcsetpgrp(config->terminal, getpid());
	for (i = 0; i < 3; i++)
		if (place_stream(i, config->stream[i]) < 0)
			goto fail;
	/* Should init be killed, which without a namespace does not end all others. */
	if (plan->plain)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	caller_restore(config->caller);
	execvp(config->argv[0], config->argv);
	errno = why_not_run(config->argv[0], errno);
fail:
	code = errno;
	if (write(report_fd, &code, sizeof(code)) < 0)
		_exit(126);
	_exit(127);
}
