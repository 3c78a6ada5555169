/* Runs in a fork of the watchdog: no allocation, no locks (see init.h). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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
fail:
	code = errno;
	if (write(report_fd, &code, sizeof(code)) < 0)
		_exit(126);
	_exit(127);
}
