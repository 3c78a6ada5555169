#include "tools/launch_options.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

#define LOOK_AGAIN_MS 50

/* ---- the watchdog's side ------------------------------------------------------------------- */

/* Where messages go until the caller has left. The one thing a log sink, which takes no context,
 * must find by itself: a descriptor of this number, which nothing else here uses. */
#define MESSAGE_FD 100

static void sink_detached(enum log_level level, const char *line)
{
	char text[1100];
	int len = snprintf(text, sizeof(text), "pawl: %s%s\n",
			   level == LOG_LEVEL_WARN ? "warning: " : "", line);

	if (len > (int)sizeof(text) - 1)
		len = (int)sizeof(text) - 1;
	if (send(MESSAGE_FD, text, (size_t)len, MSG_NOSIGNAL) == len)
		return;
	syslog(level == LOG_LEVEL_ERROR	 ? LOG_ERR
	       : level == LOG_LEVEL_WARN ? LOG_WARNING
	       : level == LOG_LEVEL_INFO ? LOG_INFO
					 : LOG_DEBUG,
	       "%s", line);
}

static void be_watchdog(const struct watchdog_config *config, int message_socket)
{
	int status = PAWL_EXIT_FAILED, null;
	struct err err = {0};

	setsid();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup3(message_socket, MESSAGE_FD, O_CLOEXEC) < 0)
		_exit(PAWL_EXIT_FAILED);
	close(message_socket);
	for (int fd = 0; fd <= 2; fd++)
		if (dup2(null, fd) < 0)
			_exit(PAWL_EXIT_FAILED);
	openlog("pawl", LOG_PID, LOG_USER);
	log_set_sink(sink_detached);
	if (watchdog_run(config, &status, &err) < 0)
		log_error("%s", err.msg);
	_exit(status);
}

/* ---- the caller's side --------------------------------------------------------------------- */

static void relay_messages(int message_socket, int timeout_ms)
{
	struct pollfd wait = {.fd = message_socket, .events = POLLIN};
	char text[1200];

	while (poll(&wait, 1, timeout_ms) > 0) {
		ssize_t n = recv(message_socket, text, sizeof(text), MSG_DONTWAIT);

		if (n <= 0 || write_full(STDERR_FILENO, text, (size_t)n) < 0)
			return;
		timeout_ms = 0;
	}
}

/* Whether a job of the store runs under this watchdog. A store that cannot be read is not there
 * yet. */
static bool find_running(struct store *store, pid_t watchdog, bool quiet)
{
	struct job_info *jobs = NULL;
	struct err err = {0};
	bool found = false;
	size_t n = 0;

	if (store_job_list(store, &jobs, &n, &err) < 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (jobs[i].state == JOB_RUNNING && jobs[i].watchdog_pid == watchdog) {
			found = true;
			if (!quiet)
				fprintf(stderr,
					"pawl: job %s runs, pid %d ('pawl log %s' shows its "
					"output)\n",
					jobs[i].name, jobs[i].leader_pid, jobs[i].name);
		}
		job_info_clear(&jobs[i]);
	}
	free(jobs);
	return found;
}

static int exit_of(int wait_status)
{
	if (WIFEXITED(wait_status))
		return WEXITSTATUS(wait_status);
	fprintf(stderr, "pawl: the watchdog was killed by signal %d\n", WTERMSIG(wait_status));
	return PAWL_EXIT_FAILED;
}

static int wait_until_running(const struct watchdog_config *config, pid_t watchdog,
			      int message_socket)
{
	cleanup_store struct store *store = NULL;
	struct err err = {0};
	int wait_status;

	for (;;) {
		relay_messages(message_socket, LOOK_AGAIN_MS);
		if (waitpid(watchdog, &wait_status, WNOHANG) == watchdog) {
			relay_messages(message_socket, 0);
			return exit_of(wait_status);
		}
		if (!store && store_open(&store, config->store_dir,
					 STORE_READ | config->store_flags, &err) < 0)
			store = NULL;
		if (store && find_running(store, watchdog, config->quiet)) {
			relay_messages(message_socket, 0);
			return EXIT_SUCCESS;
		}
	}
}

int launch_detached(const struct watchdog_config *config)
{
	cleanup_fd int ours = -1;
	struct err err = {0};
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err_sys(&err, "cannot detach");
		cli_fail(&err);
		return PAWL_EXIT_FAILED;
	}
	ours = pair[0];
	pid = fork();
	if (pid == 0) {
		close(ours);
		be_watchdog(config, pair[1]);
	}
	close(pair[1]);
	if (pid < 0) {
		err_sys(&err, "cannot detach");
		cli_fail(&err);
		return PAWL_EXIT_FAILED;
	}
	return wait_until_running(config, pid, ours);
}
