#include "tools/launch_options.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/log.h"

/* The default store lies below directories that a fresh account does not have yet. */
int launch_make_parent(const char *dir, struct err *err)
{
	char parent[PATH_MAX];
	char *slash;

	snprintf(parent, sizeof(parent), "%s", dir);
	slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return 0;
	*slash = '\0';
	return make_dirs(parent, 0700, err);
}

static int run_here(const struct watchdog_config *config)
{
	struct err err = {0};
	int status = PAWL_EXIT_FAILED;

	if (watchdog_run(config, &status, &err) < 0)
		cli_fail(&err);
	return status;
}

/* False: there is none, or it is none. The job must not inherit it. */
static bool take_hold(uint8_t token[16])
{
	const char *text = getenv(LAUNCH_HOLD_VARIABLE);
	bool good = text && strlen(text) == 32;

	for (unsigned i = 0; good && i < 16; i++)
		good = sscanf(text + 2 * i, "%2hhx", &token[i]) == 1;
	unsetenv(LAUNCH_HOLD_VARIABLE);
	return good;
}

/* -1: there is none. */
static int take_confirm_fd(void)
{
	const char *text = getenv(LAUNCH_CONFIRM_VARIABLE);
	int fd = text ? atoi(text) : -1;

	unsetenv(LAUNCH_CONFIRM_VARIABLE);
	return fd > STDERR_FILENO && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? fd : -1;
}

int launch(struct launch_options *options, const struct cli_args *args)
{
	static char *const none[] = {NULL};
	struct watchdog_config *config = &options->config;
	char dir[PATH_MAX];
	struct err err = {0};
	uint8_t hold[16];

	if (take_hold(hold) && config->mode == LAUNCH_RECOVER)
		config->hold = hold;
	config->confirm_fd = take_confirm_fd();
	if (cli_store_dir(args, dir, sizeof(dir), &err) < 0)
		return cli_fail(&err) == EXIT_MISUSE ? EXIT_MISUSE : PAWL_EXIT_FAILED;
	if ((config->mode != LAUNCH_RECOVER || config->from) && launch_make_parent(dir, &err) < 0) {
		cli_fail(&err);
		return PAWL_EXIT_FAILED;
	}
	if (config->mode != LAUNCH_RECOVER)
		config->options = options->kept ? options->kept : none;
	config->store_dir = dir;
	config->store_flags = args->any_fs ? STORE_ANY_FS : 0;
	config->keep_output = options->detach;
	config->progress = !config->quiet && !options->detach && isatty(STDERR_FILENO);
	/* Standard error that is a file may be the job's own output: what merely happened is not put
	 * there. */
	log_set_level(options->verbose ? LOG_LEVEL_DEBUG
		      : !config->quiet && (options->detach || isatty(STDERR_FILENO))
			      ? LOG_LEVEL_INFO
			      : LOG_LEVEL_WARN);
	/* A plan is for the one who asked for it to read. */
	return options->detach && !config->dry_run ? launch_detached(config) : run_here(config);
}
