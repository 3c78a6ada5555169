#include "tools/commands.h"

#include <stdlib.h>
#include <string.h>

#include "tools/launch_options.h"

static int parse_pid(const char *text, pid_t *ret, struct err *err)
{
	size_t digits = strspn(text, "0123456789");

	if (digits == 0 || digits > 9 || text[digits] != '\0' || atoi(text) <= 0)
		return err_set(err, ERR_INVALID, "'%s' is not the number of a process", text);
	*ret = atoi(text);
	return 0;
}

int cmd_attach(int argc, char **argv)
{
	struct launch_options launch_options;
	struct cli_args args;
	struct err err = {0};
	int status;

	launch_options_init(&launch_options);
	if (cli_begin(&attach_spec, argc, argv, &launch_options, &args, &status)) {
		if (parse_pid(args.operands[0], &launch_options.config.attach_pid, &err) < 0)
			status = cli_fail(&err);
		else
			status = launch(&launch_options, &args);
	}
	launch_options_clear(&launch_options);
	return status;
}
