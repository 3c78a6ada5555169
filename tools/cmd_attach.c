#include "tools/commands.h"

#include "tools/launch_options.h"

int cmd_attach(int argc, char **argv)
{
	struct launch_options launch_options;
	struct cli_args args;
	struct err err = {0};
	int status;

	launch_options_init(&launch_options);
	if (cli_begin(&attach_spec, argc, argv, &launch_options, &args, &status)) {
		if (cli_parse_pid(args.operands[0], &launch_options.config.attach_pid, &err) < 0)
			status = cli_fail(&err);
		else
			status = launch(&launch_options, &args);
	}
	launch_options_clear(&launch_options);
	return status;
}
