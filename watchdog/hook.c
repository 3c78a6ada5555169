#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "watchdog/snapshotter_work.h"

/* The environment with up to two variables in front; NULL without memory. */
static char **extended_environment(char *job, char *snapshot)
{
	size_t n = 0, at = 0, i;
	char **env;

	while (environ[n])
		n++;
	env = calloc(n + 3, sizeof(*env));
	if (!env)
		return NULL;
	env[at++] = job;
	if (snapshot)
		env[at++] = snapshot;
	for (i = 0; i < n; i++)
		if (strncmp(environ[i], "PAWL_JOB=", 9) != 0 &&
		    strncmp(environ[i], "PAWL_SNAPSHOT=", 14) != 0)
			env[at++] = environ[i];
	return env;
}

static int spawn_shell(const char *command, char **env, const sigset_t *mask, pid_t *ret)
{
	char *const argv[] = {"sh", "-c", (char *)command, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int code;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", 0, 0);
	posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	posix_spawnattr_setsigmask(&attributes, mask);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	code = posix_spawn(ret, "/bin/sh", &actions, &attributes, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return code;
}

int run_hook(const char *command, const char *job, uint64_t seq, const sigset_t *mask)
{
	char job_line[160], snapshot_line[192];
	int status, code;
	char **env;
	pid_t pid;

	snprintf(job_line, sizeof(job_line), "PAWL_JOB=%s", job);
	snprintf(snapshot_line, sizeof(snapshot_line), "PAWL_SNAPSHOT=%s@%" PRIu64, job, seq);
	env = extended_environment(job_line, seq ? snapshot_line : NULL);
	if (!env)
		return 127;
	code = spawn_shell(command, env, mask, &pid);
	free(env);
	if (code != 0)
		return 127;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 127;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
